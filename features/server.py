"""Feast's feature server at FLYWHEEL_FEATURES_URL: serving reads from it and pushes to it.

FLYWHEEL_FEATURES_URL=http://127.0.0.1:16566 .venv/features/bin/python -m features.server
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import uvicorn
from feast.feature_server import get_app

from features.definitions import feature_store
from flywheel.errors import ContractError
from flywheel.settings import settings

REGISTRY_SECONDS = 60


def main() -> None:
    """Serve until stopped."""
    address = urlsplit(settings().features_url)
    if address.hostname is None or address.port is None:
        raise ContractError("it names no host and port", where="FLYWHEEL_FEATURES_URL", mend="Write it as http://127.0.0.1:16566.")
    uvicorn.run(get_app(feature_store(), REGISTRY_SECONDS), host=address.hostname, port=address.port, access_log=False)


if __name__ == "__main__":
    try:
        main()
    except ContractError as error:
        sys.exit(error.sentence)
