"""The feedback ledger in PostgreSQL: answers, what people said of them, sealed segments, claimed batches, and events.

Feedback is acknowledged only after its commit. It leaves in steps that may each be killed at any point: a *segment* (a JSONL file in
the object store, what the sensor watches), a *batch* (the feedback one curation took), and MLflow (`flywheel.assessments`). Each record
is in exactly one segment and at most one batch.
"""

from flywheel.ledger.batches import BATCHES, WAITING, Batch, batch_name, claim, publish, publishing, settle, unfinished_batch, waiting
from flywheel.ledger.events import list_events, record_event, registry_lock
from flywheel.ledger.feedback import NewAnswer, Stored, add_answer, add_answers, add_feedback, add_many, find, of_person, record_of, withdraw
from flywheel.ledger.figures import Figures, figures
from flywheel.ledger.outcomes import Outcome, Sums, add_outcomes, compare
from flywheel.ledger.schema import transaction
from flywheel.ledger.segments import CLAIMED, SEGMENTS, check_segments, line, seal_segments

__all__ = [
    "BATCHES", "CLAIMED", "SEGMENTS", "WAITING", "Batch", "Figures", "NewAnswer", "Outcome", "Stored", "Sums", "add_answer", "add_answers", "add_feedback",
    "add_many", "add_outcomes", "batch_name", "check_segments", "claim", "compare", "figures", "find", "line", "list_events", "of_person", "publish",
    "publishing", "record_event", "record_of", "registry_lock", "seal_segments", "settle",
    "transaction", "unfinished_batch", "waiting", "withdraw",
]  # fmt: skip
