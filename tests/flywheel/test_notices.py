"""Messages to people, by every kind of channel, against receivers on this machine."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa
import yaml

from flywheel import ledger, notices
from flywheel.errors import ContractError
from flywheel.ledger import schema
from flywheel.notices import approving, channels, config, message
from flywheel.settings import REPOSITORY, settings
from tests.conftest import free_port
from tests.receivers import mail_server, text_of, webhook

FACTS = {
    "dag": "flywheel", "run": "scheduled__2026-01-02", "ended": "rolled out", "version": 7, "gain": 0.031, "primary": "log_loss", "why": "better <b>& kept</b>",
    "money": 0.12, "currency": "USD", "seconds": 600.0,
}  # fmt: skip
FAILURE = {"dag": "flywheel", "run": "scheduled__2026-01-02", "task": "train", "why": "out of memory"}
ASK = {"dag": "flywheel", "run": "scheduled__2026-01-02", "task": "approve"}


@pytest.fixture
def lay(home):
    """Writes notices.yaml, and each secret file that is named."""

    def write(secrets: dict[str, str] | None = None, **body) -> None:
        home.mkdir(exist_ok=True)
        for name, text in (secrets or {}).items():
            (home / name).write_text(text + "\n")
        (home / "notices.yaml").write_text(yaml.safe_dump(body))

    return write


@pytest.fixture
def keyed(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_LINK_KEY", "k" * 43)  # pragma: allowlist secret
    settings.cache_clear()


def test_the_example_is_valid_and_has_every_kind(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_NOTICES", str(REPOSITORY / "config" / "notices.yaml"))
    settings.cache_clear()
    assert {channel.kind for channel in notices.load().channels} == {"slack", "teams", "mail", "alertmanager"}


def test_every_kind_of_news_has_a_template_that_uses_only_what_it_is_told(home):
    more = {"hours": 48.0, "timeout": "hold", "since": "02:10", "until": "04:10", "stopped": True, "stage": "train", "minutes": 30, "nights": ["2026-01-02"]}
    for kind in notices.KINDS:
        said = message.write(kind, {**FACTS, "task": "train", **more, "command": "flywheel backfill", "what": "feedback"}, {}, {}, notices.Notices())
        assert said.title and "{{" not in said.text
    assert message.write("result", FACTS, {}, {}, notices.Notices()).title == "flywheel: rolled out · version 7 · +0.0310 log loss"
    bare = {k: v for k, v in FACTS.items() if k not in ("version", "gain", "primary")}
    assert message.write("result", {**bare, "ended": "skipped"}, {}, {}, notices.Notices()).title == "flywheel: skipped"


def test_slack_teams_and_mail_get_each_message_once(database, lay, keyed):
    with webhook() as slack, webhook() as teams, mail_server() as mail:
        lay(
            {"slack-url": slack.address, "teams-url": teams.address},
            channels=[
                {"name": "team", "kind": "slack", "url_file": "slack-url"},
                {"name": "office", "kind": "teams", "url_file": "teams-url", "about": ["result"]},
                {"name": "owners", "kind": "mail", "to": ["ada@example.org", "grace@example.org"], "server": mail.address, "security": "none"},
            ],
        )
        links = {"The whole turn": "http://a/turn?x=1&y=2"}
        assert notices.tell("result", "result r1", FACTS, links) and not notices.tell("result", "result r1", FACTS, links)
        assert notices.tell("failure", "failure r2", FAILURE)
        assert [len(inbox.got) for inbox in (slack, teams, mail)] == [2, 1, 4]
        said = slack.got[0]["blocks"]
        assert said[0]["text"]["text"].startswith("*flywheel: rolled out") and "&lt;b&gt;&amp; kept" in said[1]["text"]["text"]
        assert said[2]["text"]["text"] == "<http://a/turn?x=1&y=2|The whole turn>"
        card = teams.got[0]["attachments"][0]["content"]
        assert card["actions"] == [{"type": "Action.OpenUrl", "title": "The whole turn", "url": "http://a/turn?x=1&y=2"}] and "0.1200 USD" in str(card["body"])
        assert {letter["To"] for letter in mail.got[:2]} == {"ada@example.org", "grace@example.org"}
        assert "http://a/turn?x=1&y=2" in text_of(mail.got[0]) and "&lt;b&gt;" in mail.got[0].get_body(("html",)).get_content()
        assert notices.deliver() == 0


def test_each_receiver_of_a_question_gets_a_link_of_their_own(database, lay, keyed):
    with webhook() as slack, mail_server() as mail:
        mails = {"name": "owners", "kind": "mail", "to": ["ada@example.org", "grace@example.org"], "server": mail.address, "security": "none"}
        lay({"slack-url": slack.address}, channels=[{"name": "team", "kind": "slack", "url_file": "slack-url"}, mails])
        notices.tell("approval", "approval r1", {**FACTS, "hours": 48.0, "timeout": "hold"}, {}, ASK)
        tokens = [text_of(letter).partition("token=")[2].split()[0] for letter in mail.got]
        assert [approving.read(token).who for token in tokens] == ["ada@example.org", "grace@example.org"]
        token = slack.got[0]["blocks"][2]["text"]["text"].partition("token=")[2].partition("|")[0]
        assert approving.read(token) == approving.Question("flywheel", "scheduled__2026-01-02", "approve", "team (slack)")


def test_links_are_signed_grow_old_and_cannot_be_made_by_others(keyed, monkeypatch):
    token = approving.link(ASK, "ada").partition("token=")[2]
    for wrong in (token[:-1], token[:-1] + ("A" if token[-1] != "A" else "B"), "", "a.b.c"):
        with pytest.raises(ContractError, match="not made by this installation"):
            approving.read(wrong)
    answer = approving.receipt(approving.read(token), "Approve")
    assert approving.person(answer, ASK["run"], "Approve") == "ada"
    assert (
        approving.person(answer, ASK["run"], "Reject") == approving.person(answer, "another", "Approve") == approving.person(token, ASK["run"], "Approve") == ""
    )
    monkeypatch.setenv("FLYWHEEL_APPROVAL_HOURS", "0.0001")
    settings.cache_clear()
    time.sleep(2.1)
    with pytest.raises(ContractError, match="too old"):
        approving.read(token)
    monkeypatch.setenv("FLYWHEEL_LINK_KEY", "other")
    settings.cache_clear()
    with pytest.raises(ContractError, match="not made by this installation"):
        approving.read(token)


def test_what_does_not_get_through_is_sent_again_and_only_there(database, lay):
    with webhook() as good, webhook() as bad:
        bad.status = 503
        named = [{"name": n, "kind": "slack", "url_file": n} for n in ("good", "bad")]
        lay({"good": good.address, "bad": bad.address}, channels=named)
        assert notices.tell("failure", "failure r1", FAILURE)
        row = notices.recent()[0]
        assert (row["pending"], row["tries"]) == (["bad"], 1) and "503" in row["problem"] and notices.deliver() == 0  # it is not due yet
        bad.status = 200
        with ledger.transaction() as db:
            db.execute(schema.notices.update().values(due=sa.func.now()))
        assert notices.deliver() == 1 and (len(good.got), len(bad.got)) == (1, 1)
        assert notices.recent()[0]["pending"] == []


def test_in_quiet_hours_only_what_is_urgent_is_sent(database, lay):
    now = datetime.now(UTC)
    begin, end = (now - timedelta(hours=1)).strftime("%H:%M"), (now + timedelta(hours=1)).strftime("%H:%M")
    with webhook() as slack:
        lay({"s": slack.address}, channels=[{"name": "team", "kind": "slack", "url_file": "s"}], quiet={"begin": begin, "end": end})
        notices.tell("result", "result r1", FACTS)
        assert not slack.got and notices.deliver() == 0
        notices.tell("failure", "failure r1", FAILURE)
        assert len(slack.got) == 1
        with ledger.transaction() as db:  # the morning comes
            assert db.execute(sa.select(schema.notices.c.due).where(schema.notices.c.key == "result r1")).scalar_one() > now
            db.execute(schema.notices.update().values(due=sa.func.now()))
        assert notices.deliver() == 1 and len(slack.got) == 2


def test_quiet_hours_go_over_midnight_in_their_own_time_zone():
    quiet = config.Quiet(begin="21:00", end="07:00", timezone="Europe/Lisbon")
    night, day = datetime(2026, 7, 1, 22, 30, tzinfo=UTC), datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
    assert quiet.until("result", night) == datetime(2026, 7, 2, 6, 0, tzinfo=UTC)  # seven there
    assert quiet.until("failure", night) == night and quiet.until("result", day) == day
    assert quiet.until("result", datetime(2026, 7, 2, 5, 59, tzinfo=UTC)) == datetime(2026, 7, 2, 6, 0, tzinfo=UTC)


def test_with_the_ledger_away_what_is_urgent_is_sent_all_the_same(home, lay, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", f"postgresql+psycopg://flywheel@127.0.0.1:{free_port()}/flywheel")
    settings.cache_clear()
    with webhook() as slack:
        lay({"s": slack.address}, channels=[{"name": "team", "kind": "slack", "url_file": "s"}])
        assert notices.tell("failure", "failure r1", FAILURE) and len(slack.got) == 1


def test_own_templates(database, lay, home):
    with webhook() as slack:
        lay({"s": slack.address}, channels=[{"name": "team", "kind": "slack", "url_file": "s"}], templates="words")
        (home / "words").mkdir()
        (home / "words" / "failure.txt").write_text("Oh no: {{ task }}\n")
        notices.tell("failure", "f1", FAILURE)
        assert slack.got[0]["text"] == "Oh no: train"
        (home / "words" / "failure.txt").write_text("{{ nobody }}")
        with pytest.raises(ContractError, match=r"failure\.txt in words.*nobody"):
            notices.tell("failure", "f2", FAILURE)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"channels": [{"name": "x", "kind": "pigeon"}]}, "channels.0"),
        ({"channels": [{"name": "x", "kind": "slack"}]}, "url_file"),
        ({"channels": [{"name": "x", "kind": "mail", "to": ["a@b"], "server": "nowhere"}]}, "server"),
        ({"quiet": {"begin": "21:00", "end": "07:00", "timezone": "Mars"}}, "time zone"),
        ({"channel": []}, "channel"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(lay, body, said):
    lay(**body)
    with pytest.raises(ContractError, match=said) as caught:
        notices.load()
    assert "notices.yaml" in caught.value.sentence


def test_a_secret_that_is_not_there_is_named(database, lay):
    lay(channels=[{"name": "team", "kind": "slack", "url_file": "secrets/slack"}])
    notices.tell("failure", "f1", FAILURE)
    assert "secrets/slack" in notices.recent()[0]["problem"]


def test_a_failure_pages_through_a_real_alertmanager(database, lay, tmp_path, monkeypatch):
    program = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("alertmanager is not installed: apt-get install prometheus-alertmanager")
    port = free_port()
    monkeypatch.setenv("FLYWHEEL_ALERTMANAGER_URL", f"http://127.0.0.1:{port}")
    settings.cache_clear()
    with webhook() as pager:
        ours = yaml.safe_load((REPOSITORY / "infra" / "monitoring" / "alertmanager.yaml").read_text())
        (tmp_path / "key").write_text("x")
        told = next(receiver for receiver in ours["receivers"] if receiver["name"] == "on-call")
        told["pagerduty_configs"][0] |= {"routing_key_file": str(tmp_path / "key"), "url": pager.address}
        route = {"receiver": "on-call", "group_wait": "0s", "group_by": ["alertname", "about"]}
        (tmp_path / "a.yaml").write_text(yaml.safe_dump({"route": route, "receivers": [told]}))
        command = [
            program,
            f"--config.file={tmp_path / 'a.yaml'}",
            f"--storage.path={tmp_path}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=2).is_success:
                        break
                except httpx.HTTPError:
                    time.sleep(0.1)
            lay(channels=[{"name": "on-call", "kind": "alertmanager"}])
            assert notices.tell("failure", "failure r1", FAILURE) and not notices.tell("result", "result r1", FACTS)
            for _ in range(300):
                if pager.got:
                    break
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait()
    assert pager.got[0]["event_action"] == "trigger" and pager.got[0]["payload"]["summary"] == "flywheel failed at train"
    assert channels.alerts(message.Message(kind="failure", title="t", text=""))[0]["labels"]["severity"] == "critical"


def test_the_command_tests_every_channel_and_says_what_is_wrong(database, lay):
    from typer.testing import CliRunner

    from flywheel.cli import app

    assert CliRunner().invoke(app, ["notices", "--test"]).exit_code == 2  # there is no file
    with webhook() as slack:
        lay({"s": slack.address}, channels=[{"name": "team", "kind": "slack", "url_file": "s", "about": ["result"]}])
        done = CliRunner().invoke(app, ["notices", "--test"])
        assert done.exit_code == 0 and "(sent)" in done.stdout and len(slack.got) == 1
        slack.status = 404
        done = CliRunner().invoke(app, ["notices", "--test"])
        assert done.exit_code == 75 and "waits for team" in done.stdout and "404" in done.stdout
