"""The feature store on a real PostgreSQL and a real feature server; runs in the feature store's own environment."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import pandas
import pytest

pytest.importorskip("feast")

from flywheel import config, feature_rows, features, ledger, stage
from flywheel.errors import ContractError, DataError
from flywheel.records import FeedbackIn
from flywheel.settings import settings
from tasks import features as task
from tests.conftest import free_port

NOW = datetime.now(UTC)


@pytest.fixture
def on(database, home, monkeypatch):
    """Features switched on; gives a function that runs the stage."""
    monkeypatch.setenv("FLYWHEEL_FEATURES_URL", f"http://127.0.0.1:{free_port()}")
    settings.cache_clear()
    home.mkdir(exist_ok=True)
    (home / "profiles.jsonl").write_text('{"user": "Ada", "tier": "gold", "locale": "de", "since": "2026-01-01"}\n')
    (home / "c.yaml").write_text(
        f"ingest: {{sources: [{{kind: docs, licence: x, consent: y}}]}}\nfeatures: {{profiles: '{home}/profiles.jsonl', topics: {{reasons: 'why', other things: 'x'}}}}\n"
    )
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(home / "c.yaml"))
    monkeypatch.setattr(features, "_away_until", 0.0)
    settings.cache_clear()
    runs = iter(range(1, 100))

    def run(*changes):
        return stage.execute(task.STAGE, config.load(str(home / "c.yaml"), list(changes)), f"{settings().store}/runs/t/{next(runs)}")

    return run


@pytest.fixture
def server(on, monkeypatch):
    """The real feature server, in a thread; on a busy machine it may take its time."""
    monkeypatch.setattr(features, "TIMEOUT", 60)
    features._client.cache_clear()
    import uvicorn
    from feast.feature_server import get_app

    from features.definitions import feature_store

    on()
    port = int(settings().features_url.rsplit(":", 1)[1])
    running = uvicorn.Server(uvicorn.Config(get_app(feature_store(), 60), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + 120
    while not running.started and time.monotonic() < until:
        time.sleep(0.1)
    yield on
    features._client.cache_clear()
    running.should_exit = True
    thread.join(30)


def judge(user, answer, thumb, number):
    return ledger.add_feedback(FeedbackIn(answer_id=answer, idempotency_key=f"key-{number:06d}", thumb=thumb, user=user))[0]


def moved(days, *ids, answers=()):
    """Feedback and answers as they would be had they come so many days ago."""
    with ledger.transaction() as db:
        for one in ids:
            db.exec_driver_sql("update feedback set at = %s where id = %s", (NOW - timedelta(days=days), one))
        for one in answers:
            db.exec_driver_sql("update answers set at = %s where id = %s", (NOW - timedelta(days=days), one))


def test_off_costs_nothing(database, home):
    home.mkdir(exist_ok=True)
    (home / "c.yaml").write_text("ingest: {sources: [{kind: docs, licence: x, consent: y}]}")
    assert features.read("user", "Ada", "test") == {}
    assert stage.execute(task.STAGE, config.load(str(home / "c.yaml")), f"{settings().store}/runs/t/1").outcome == "skipped"


def test_training_sees_what_was_known_then_and_nothing_later(on):
    first, second = (ledger.add_answer("why?", "", "because", "1", "Ada") for _ in range(2))
    early = judge("Ada", first, "down", 1)
    moved(10, early)
    moved(11, answers=[first])
    late = judge("Ada", second, "up", 2)  # of an answer given five days ago, judged now
    moved(5, answers=[second])
    moved(0, late)
    planted = judge("Ada", first, "down", 3)  # late data: it must not reach back
    joined = pandas.read_parquet(on().outputs["training"].fetch(settings().home / "cache")).set_index("feedback")
    assert pandas.isna(joined.loc[early, "rater_stats__volume"]) and pandas.isna(joined.loc[early, "prompt_stats__rated"])
    assert (joined.loc[late, "rater_stats__volume"], joined.loc[late, "prompt_stats__failure_rate"]) == (1, 1.0)
    assert joined.loc[late, "prompt_stats__topic"] == "reasons"
    assert joined.loc[late, "user_profile__tier"] == "gold" and planted in joined.index


def test_a_value_beyond_its_time_to_live_is_none(on):
    old, new = (ledger.add_answer("why?", "", "because", "1", "Ada") for _ in range(2))
    early, late = judge("Ada", old, "down", 1), judge("Eve", new, "down", 2)
    moved(120, early, answers=[old])
    joined = pandas.read_parquet(on().outputs["training"].fetch(settings().home / "cache")).set_index("feedback")
    assert pandas.isna(joined.loc[late, "prompt_stats__rated"]) and joined.loc[late, "rater_stats__volume"] == 1  # 90 days, and 365


def test_a_stale_value_is_not_served(server):
    old = ledger.add_answer("why?", "", "because", "1", "Ada")
    moved(120, judge("Ada", old, "down", 1), answers=[old])
    server()
    assert features.read("prompt", feature_rows.prompt_key("why?", ""), "test") == features.defaults("prompt")  # 90 days
    assert features.read("user", "Ada", "test")["volume"] == 1


def test_serving_reads_what_training_joins_and_every_read_is_logged(server):
    answer = ledger.add_answer("why?", "", "because", "1", "Ada")
    early = judge("Ada", answer, "down", 1)
    moved(1, early)
    server()
    assert features.read("user", "Ada", "test") == {"tier": "gold", "locale": "de", "volume": 1, "reliability": 0.5}
    assert features.read("user", "nobody", "test") == features.defaults("user")
    assert [(entity, key) for _, entity, key, _ in features.reads(NOW)] == [("user", "Ada"), ("user", "nobody")]
    assert server().metrics["skew"] == 0
    with ledger.transaction() as db:
        db.exec_driver_sql("""update feature_reads set views = jsonb_set(views, '{rater_stats,values,volume}', '7') where key = 'Ada'""")
    with pytest.raises(DataError, match="other features than training"):
        server()


def test_a_value_that_never_came_online_is_skew(server):
    features.read("user", "Ada", "test")
    answer = ledger.add_answer("why?", "", "because", "1", "Ada")
    moved(1, judge("Ada", answer, "down", 1))  # known for a day, and the read above did not have it
    with pytest.raises(DataError, match="other features than training"):
        server()


def test_feedback_is_pushed_before_the_next_materialization(server):
    pusher = features.Pusher()
    judge("Ada", ledger.add_answer("why?", "", "because", "1", "Ada"), "down", 1)
    pusher.step()
    assert features.read("user", "Ada", "test")["volume"] == 1
    shown = "Known about this request: tier gold."  # serving's own words make it no other question
    assert features.read("prompt", feature_rows.prompt_key("why?", shown), "test") == {"topic": "reasons", "rated": 1, "failure_rate": 1.0}
    before = pusher.since
    pusher.step()
    assert pusher.since == before  # nothing came


def test_who_is_forgotten_is_gone_from_the_online_store(server):
    for number, who in enumerate(("Ada", "Eve"), 1):
        judge(who, ledger.add_answer(f"why, {who}?", "", "because", "1", who), "down", number)
    server()
    keys = {who: feature_rows.prompt_key(f"why, {who}?", "") for who in ("Ada", "Eve")}
    assert features.read("user", "Ada", "test")["volume"] == features.read("prompt", keys["Ada"], "test")["rated"] == 1
    with ledger.transaction() as db:
        assert features.forget(db, "Ada", [keys["Ada"]], datetime.now(UTC)) > 4  # two reads, and a row a feature
    assert features.read("user", "Ada", "test") == features.defaults("user") and features.read("prompt", keys["Ada"], "test") == features.defaults("prompt")
    assert features.read("user", "Eve", "test")["volume"] == features.read("prompt", keys["Eve"], "test")["rated"] == 1
    assert [key for _, _, key, _ in features.reads(NOW)].count("Ada") == 1  # the read after it


def test_a_server_that_is_down_gives_defaults_and_a_sentence(on, caplog):
    assert features.read("user", "Ada", "test") == features.defaults("user")
    assert (
        "does not answer" in caplog.text and features.push("rater_stats", [{"user": "Ada", "event_timestamp": NOW, "volume": 1, "reliability": 0.5}]) is False
    )
    with pytest.raises(httpx.HTTPError):
        httpx.get(settings().features_url, timeout=1)


def test_a_bad_profile_is_named(on, home):
    (home / "profiles.jsonl").write_text('{"user": "Ada"}\n')
    with pytest.raises(ContractError, match="line 1 is no profile"):
        on()
