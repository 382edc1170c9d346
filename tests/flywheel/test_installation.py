"""What an installation from images makes for itself: each secret once, for its owner alone, in the forms its services read."""

import hashlib
import json

import pytest
import sqlalchemy as sa
import yaml

from flywheel import installation
from flywheel.config import load
from flywheel.laptop import postgres
from flywheel.settings import settings


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_secrets_are_made_once_and_fit_together(home, tmp_path):
    folder = tmp_path / "secrets"
    assert installation.main(["secrets", str(folder)]) == 0
    first = contents(folder)
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")] if path.name != "env")
    password = first["postgres"]
    assert first["pgpass"] == f"*:*:*:flywheel:{password}\n" and len(password) >= 40
    assert json.loads(first["airflow-users.json"]) == {"operator": first["env/FLYWHEEL_AIRFLOW_PASSWORD"]}
    entry = yaml.safe_load(first["serving-keys.yaml"])[0]
    assert entry["sha256"] == hashlib.sha256(first["env/FLYWHEEL_SERVING_KEY"].encode()).hexdigest()
    assert len({text for name, text in first.items() if "/" not in name and "." not in name}) == 7, "no two are the same"
    assert load(str(home / "config.yaml")).model.base and (home / "first_night").read_text().strip()

    (home / "config.yaml").write_text("extends: somebody's own\n")
    assert installation.main(["secrets", str(folder)]) == 0
    assert contents(folder) == first and (home / "config.yaml").read_text() == "extends: somebody's own\n"


def test_databases_are_made_once(database, monkeypatch):
    monkeypatch.setattr(installation, "DATABASES", (made := ("installed_one", "installed_two")))
    for _ in range(2):
        assert installation.main(["databases"]) == 0
    with postgres.connect(sa.make_url(settings().database_url), "postgres") as db:
        assert set(made) <= {row[0] for row in db.execute("select datname from pg_database")}
        for name in made:
            db.execute(f"drop database {name}")


@pytest.mark.parametrize("arguments", [[], ["secrets"], ["all"]])
def test_anything_else_is_refused_in_a_sentence(arguments, capsys):
    assert installation.main(arguments) == 2
    assert "Say `secrets FOLDER` or `databases`." in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(home, monkeypatch, capsys):
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", "postgresql+psycopg://flywheel@127.0.0.1:1/flywheel")
    settings.cache_clear()
    assert installation.main(["databases"]) == 75
    assert "FLYWHEEL_DATABASE_URL" in capsys.readouterr().err
