"""Assets that tie the DAGs together."""

from airflow.sdk import Asset

FEEDBACK_READY = Asset("feedback_ready", uri="flywheel://feedback/batches", group="flywheel")
RECORDS = Asset("records", uri="flywheel://ingest/records", group="flywheel")
