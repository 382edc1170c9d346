"""Assets that tie the DAGs together. Each event carries what its stage measured: rows, version, verdict, and the run it came from."""

from airflow.sdk import Asset


def _asset(name: str, uri: str) -> Asset:
    return Asset(name, uri=f"flywheel://{uri}", group="flywheel")


FEEDBACK_READY = _asset("feedback_ready", "feedback/batches")
RECORDS = _asset("records", "ingest/records")
DATASET = _asset("dataset", "dataset/version")
MODEL_VERSION = _asset("model_version", "register/version")
CHAMPION = _asset("champion", "rollout/champion")
