"""What each task does and what to do when it fails, for Airflow's pages; one entry a stage."""

from __future__ import annotations

PICTURE = """
```text
 ┌───────────── data ─────────────┐   ┌─ train ─┐   ┌── judge ──┐   ┌───────── release ─────────┐
  ingest ─▶ clean ─▶ tokenize ──────▶ train ──────▶ evaluate ─▶ gate ─▶ register ─▶ approve ─▶ rollout
                        └─▶ dataset ─────────────────────────────┼───────▲                      ┆
                                        └─▶ parity ──────────────┘                           summary
  ▲                                                                                             │
  └──────── curate ◀──── people's feedback ◀──── serving ◀──── champion ◀───────────────────────┘
```
"""

MEND = """
| exit code | means | do |
|---|---|---|
| 2 | the config, or what a stage before left, is wrong | mend what the last line of the log names, then clear the task |
| 3 | the data is not good enough | look at the quarantine and the report, mend the source, clear the task |
| 75, 143 | something was away, or the machine was taken | nothing: it is retried by itself, from its last checkpoint |
| none | the task was killed, or its manifest is missing | clear the task; it goes on from its last checkpoint |

**Clear** does a task again and what comes after it; what has not changed is not done again. Each task's *Details* have links to its page.
"""

STAGES = {
    "ingest": "Reads every source and the curated feedback up to the night's end. **Red**: a source does not answer, or has no licence or consent.",
    "clean": "Fourteen steps; what they reject is in `quarantine` with step, reason and line. **Red**: nothing is left, or a step's options are wrong.",
    "tokenize": "Prompts and answers to token ids, and a look at the data as a whole. **Red, 3**: a check of `tokenize.validation.stop` ended the turn.",
    "dataset": "Makes this run's data a version, with a card and a report, tracked by DVC. **Red**: DVC's remote is away.",
    "train": (
        "An adapter on the base model or the champion; checkpoints every two minutes. **Skipped**: too little is new, or the week's budget is spent. "
        "**Red**: the loss diverged, or memory was short: lower `train.learning_rate` or `train.micro_tokens`."
    ),
    "parity": "Compares trainer and server token by token; the gate refuses a difference. **Red**: the adapter's files or those of the base are not there.",
    "evaluate": "Champion and challenger on the same frozen examples. **Red**: a suite's file is missing, or memory was short.",
    "trial": "One combination of `search.grid`, judged on what none learned from. Training that goes wrong is a result: green. **Red**: it is left out.",
    "best": "Ranks the trials and says what to change. **Red, 2**: no trial has ended; **3**: training went wrong in all of them.",
    "gate": "Promote, hold or refuse, with every rule's figure. A refusal is a result, not a fault: this task is green then.",
    "register": "The challenger becomes a version in MLflow, whatever the verdict, with card and checksums. **Red**: MLflow is away.",
    "approve": (
        "Waits under *Required actions* when `gate.approval` asks for a person, and passes at once when it does not. The message that was sent has a signed "
        "link to answer with, too. No answer in time: `FLYWHEEL_APPROVAL_TIMEOUT` says what then."
    ),
    "rollout": (
        "Shadow, a growing share of people, everybody. **Skipped** is a result: its log has the gate's reason. **Red, 3**: a guard tripped and everybody "
        "is back on the champion."
    ),
    "summary": "One page about the run: times and costs, data, verdict, samples, history; the note of the run and the message that is sent come from it.",
    "curate": "Claims what people said as one batch and judges each record. **Skipped**: too little yet; nothing is lost. **Red**: clear it, it takes up the same batch.",
    "review": "Pulls decisions from Label Studio and pushes what is in doubt. **Red**: Label Studio is away, or its token is not accepted.",
    "housekeep": (
        "Forgets what was kept as long as it may be, deletes what is old and needed by nothing living, tidies the databases. `deleted.jsonl` names every "
        "file. **Red**: clear it; what was cut off is finished."
    ),
    "index": "Embeds documents that are new, deletes what is gone, shows all of it at once. **Red**: clear it; what was embedded is kept.",
    "features": "Brings the feature store up to date and looks for skew. **Red, 3**: skew; its log names the features.",
    "changes": "Starts a turn when no recent one was made of these sources and this config. **Skipped**: one was. **Red**: a source does not answer.",
    "operate": "Promotes, retires, pauses, resumes or forgets what the form names. **Red**: the last line of its log says why, and nothing was changed.",
    "rollback": "Ends the rollout that goes on, or serves an earlier version. **Red**: that version does not exist, or the gate had refused it.",
}


def of(stage: str) -> str:
    """The Markdown of a stage's task; empty for one that nobody has described."""
    return STAGES.get(stage, "")
