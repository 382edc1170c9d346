"""Settings come from the environment, and from secrets that are files."""

import os

from flywheel.settings import settings


def test_secrets_are_files_that_count_as_variables(tmp_path, monkeypatch):
    (tmp_path / "..data").mkdir()
    (tmp_path / "FLYWHEEL_DATABASE_URL").write_text("postgresql+psycopg://elsewhere/x\n")
    (tmp_path / "FLYWHEEL_CURRENCY").write_text("EUR")
    (tmp_path / "credentials").write_text("[default]")
    monkeypatch.setenv("FLYWHEEL_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("FLYWHEEL_CURRENCY", "CHF")
    monkeypatch.delenv("FLYWHEEL_DATABASE_URL", raising=False)
    settings.cache_clear()
    assert (settings().database_url, settings().currency) == ("postgresql+psycopg://elsewhere/x", "CHF")
    settings.cache_clear()
    assert "credentials" not in os.environ
    os.environ.pop("FLYWHEEL_DATABASE_URL")
