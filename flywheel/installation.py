"""What an installation from images needs before its services start. Each thing is made once, and left alone afterwards.

python -m flywheel.installation secrets /secrets     passwords and keys, a file each, and the config
python -m flywheel.installation databases            on the server of FLYWHEEL_DATABASE_URL
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
import yaml

from flywheel import store
from flywheel.errors import ContractError, FlywheelError
from flywheel.laptop import postgres
from flywheel.laptop.services import DATABASES, secret_at
from flywheel.settings import REPOSITORY, settings

OPERATOR = "operator"  # the one who signs in to Airflow
RAW = ("postgres", "airflow-fernet", "airflow-api", "airflow-jwt", "airflow-operator", "serving-people")


def make_secrets(folder: Path) -> None:
    """The secrets, readable by their owner alone, in the forms that each service reads; nobody else has ever seen them."""
    made = {name: secret_at(folder / name) for name in RAW}
    key = f"fw-{made['serving-people']}"
    entry = {"name": "people", "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": ["generate", "feedback", "review", "metrics"]}
    forms = {
        "pgpass": f"*:*:*:{postgres.OWNER}:{made['postgres']}\n",
        "airflow-users.json": json.dumps({OPERATOR: made["airflow-operator"]}),
        "serving-keys.yaml": yaml.safe_dump([entry]),
        "env/FLYWHEEL_SERVING_KEY": key,
        "env/FLYWHEEL_AIRFLOW_PASSWORD": made["airflow-operator"],
    }
    for name, text in forms.items():
        if not (folder / name).exists():
            store.write_bytes(str(folder / name), text.encode())


def make_config() -> None:
    """The turn's config, which the DAGs read at every run, and the first night: unpausing is not to start yesterday's turn."""
    home = settings().home
    for path, text in {
        home / "config.yaml": f"extends: '{REPOSITORY / 'config' / 'flywheel.yaml'}'\n",
        home / "first_night": f"{datetime.now(UTC):%Y-%m-%d}\n",
    }.items():
        if not path.exists():
            store.write_bytes(str(path), text.encode())


def main(arguments: list[str]) -> int:
    """Do one of the two."""
    try:
        match arguments:
            case ["secrets", folder]:
                make_secrets(Path(folder))
                make_config()
            case ["databases"]:
                postgres.make_databases(sa.make_url(settings().database_url), DATABASES)
            case _:
                raise ContractError("there is nothing like that to do", where=" ".join(arguments) or "no argument", mend="Say `secrets FOLDER` or `databases`.")
    except FlywheelError as error:
        print(f"flywheel.installation: {error.sentence}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
