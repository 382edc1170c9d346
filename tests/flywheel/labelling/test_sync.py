"""Push and pull on a real Label Studio and a real ledger: nothing lost, nothing twice, and a sentence for what is wrong."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from flywheel import config, ledger, stage, store
from flywheel.errors import ContractError, TransientError
from flywheel.labelling import agreement, label_studio, sync
from flywheel.labelling.project import CONFIG
from flywheel.ledger import review, schema
from flywheel.settings import REPOSITORY, settings
from tasks import review as review_stage
from tests.labelling import offered


def decisions():
    """What was decided, as the ledger has it: item, record."""
    with ledger.transaction() as db:
        rows = db.execute(sa.select(schema.decisions).where(schema.decisions.c.feedback_id.is_not(None))).all()
    return {row.item: ledger.record_of(ledger.find(row.feedback_id)) for row in rows}


def test_pushed_annotated_pulled_and_run_twice_nothing_doubles(people, title):
    right, edited, wrong, skipped, open_ = items = offered(5, "it is rather")
    first = sync.push(title, 10, 1)
    assert (first.new, sync.push(title, 10, 1).new) == (5, 0)
    tasks = people.tasks(first.project)
    task = tasks[right.id]
    assert task["data"]["proposal"] == "it is rather 0" and task["data"]["model_version"] == "3" and task["data"]["feedback"] == right.feedback_id
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "version 3" and prediction["result"][0]["value"] == {"text": ["it is rather 0"]}
    people.annotate(tasks[right.id]["id"], "approve", edited="it is rather 0", better="right", rating=2)
    people.annotate(tasks[edited.id]["id"], "edit", edited="it is\nthis")
    people.annotate(tasks[wrong.id]["id"], "reject")
    people.annotate(tasks[skipped.id]["id"], was_cancelled=True)
    taken = sync.pull()
    assert (taken.new, taken.decided, taken.skipped, taken.said) == (4, 3, 1, [])
    found = decisions()
    assert set(found) == {right.id, edited.id, wrong.id}
    assert (found[edited.id].correction, found[edited.id].model_version, found[edited.id].source, found[edited.id].consent) == (
        "it is\nthis",
        "3",
        "review",
        True,
    )
    assert found[edited.id].user == "reviewer@localhost.localdomain"
    assert (found[right.id].rating, found[right.id].comment, found[right.id].tags) == (2, "side by side: right", ("approve",))
    again = sync.pull()
    assert (again.new, again.decided, again.skipped, again.said) == (0, 0, 0, []) and decisions() == found
    with ledger.transaction() as db:
        assert [item.id for item in review.waiting(db, 10)] == [skipped.id, open_.id]
    assert len(people.tasks(first.project)) == len(items)


def test_pushes_at_once_and_after_a_death_push_once(people, title):
    items = offered(4)
    with ThreadPoolExecutor(3) as three:
        done = list(three.map(lambda _: sync.push(title, 3, 1), range(3)))
    assert len({one.project for one in done}) == 1 and sum(one.new for one in done) == 3
    assert set(people.tasks(done[0].project)) == {item.id for item in items[:3]}
    with ledger.transaction() as db:  # as if who pushed had died before the commit
        db.execute(schema.label_tasks.delete())
        db.execute(schema.label_projects.delete())
    again = sync.push(title, 10, 1)
    assert (again.project, again.new) == (done[0].project, 1) and len(people.tasks(again.project)) == 4


def test_several_annotators_decide_together_and_their_agreement_is_measured(people, title):
    same, split, late = offered(3)
    pushed = sync.push(title, 10, 2)
    tasks = {item: task["id"] for item, task in people.tasks(pushed.project).items()}
    bob, eve = people.another(f"bob-{title[-8:]}@localhost.localdomain"), people.another(f"eve-{title[-8:]}@localhost.localdomain")
    people.annotate(tasks[same.id], "approve", rating=5, by=bob)
    taken = sync.pull()
    assert (taken.decided, taken.waiting) == (0, 1) and decisions() == {}
    people.annotate(tasks[same.id], "approve", rating=4, by=eve)
    people.annotate(tasks[split.id], "approve", by=bob)
    people.annotate(tasks[split.id], "reject", by=eve)
    people.annotate(tasks[late.id], "reject", by=bob)
    people.annotate(tasks[late.id], "reject", by=bob)  # the same person twice is one
    taken = sync.pull()
    assert (taken.decided, taken.waiting) == (1, 2) and set(decisions()) == {same.id}
    people.annotate(tasks[split.id], "reject")
    assert sync.pull().decided == 1 and decisions()[split.id].thumb == "down"
    told = agreement.report()
    assert (told["annotations"], told["items"], told["judged_by_several"]) == (7, 3, 2)
    assert sorted(told["with_the_majority"].values()) == [0.5, 1.0]  # Bob, Eve; the third judged only what the others disagree on


def test_what_is_wrong_in_an_annotation_is_said_and_can_be_mended(people, title):
    none, unchanged, changed = offered(3)
    tasks = {item: task["id"] for item, task in people.tasks(sync.push(title, 10, 1).project).items()}
    bad = people.annotate(tasks[none.id], rating=3)
    people.annotate(tasks[unchanged.id], "edit", edited="answer 1")
    people.annotate(tasks[changed.id], "approve", edited="something else")
    taken = sync.pull()
    assert taken.decided == 0 and len(taken.said) == 3
    assert "it has no verdict" in taken.said[0] and "leaves the answer as it was" in taken.said[1] and "yet changes the answer" in taken.said[2]
    assert sync.pull().said == []  # said once
    people.api(
        "PATCH",
        f"/api/annotations/{bad}/",
        json={"result": [{"from_name": "verdict", "to_name": "response", "type": "choices", "value": {"choices": ["reject"]}}]},
    )
    assert sync.pull().decided == 1 and decisions()[none.id].thumb == "down"
    people.api(
        "PATCH",
        f"/api/annotations/{bad}/",
        json={"result": [{"from_name": "verdict", "to_name": "response", "type": "choices", "value": {"choices": ["approve"]}}]},
    )
    assert "decided before (reject)" in sync.pull().said[0] and decisions()[none.id].thumb == "down"


def test_what_was_taken_back_or_decided_elsewhere_leaves_label_studio(people, title):
    withdrawn, elsewhere, stays = offered(3, "rather")
    pushed = sync.push(title, 10, 1)
    ledger.withdraw(withdrawn.feedback_id, "Ada")
    with ledger.transaction() as db:
        review.decide(db, elsewhere.id, "Grace", "approve")
    done = sync.push(title, 10, 1)
    assert (done.removed, done.new) == (2, 0) and set(people.tasks(pushed.project)) == {stays.id}


def test_a_deleted_project_is_said_and_made_anew(people, title):
    decided, waits = offered(2)
    gone = sync.push(title, 10, 1).project
    people.annotate(people.tasks(gone)[decided.id]["id"], "approve")
    sync.pull()
    people.api("DELETE", f"/api/projects/{gone}/")
    assert "was deleted in Label Studio" in sync.pull().said[0]
    pushed = sync.push(title, 10, 1)
    assert pushed.project != gone and "was deleted" in pushed.said[0] and set(people.tasks(pushed.project)) == {waits.id}
    assert "is not the flywheel's" in sync.pull_task(gone, 1).said[0]


def test_a_changed_config_is_said_and_cosmetics_are_welcome(people, title):
    offered(1)
    number = sync.push(title, 10, 1).project
    people.api("PATCH", f"/api/projects/{number}/", json={"label_config": CONFIG.replace("Question", "What was asked")})
    assert sync.push(title, 10, 1).project == number
    people.api("PATCH", f"/api/projects/{number}/", json={"label_config": CONFIG.replace('"rating"', '"stars"').replace('<Choice value="edit"/>', "")})
    for step in (sync.pull, lambda: sync.push(title, 10, 1)):
        with pytest.raises(ContractError, match="labeling config was changed") as caught:
            step()
        assert "`rating`" in caught.value.mend and "`verdict=edit`" in caught.value.mend


def test_a_server_that_is_down_slow_or_another_is_a_sentence(people, title, monkeypatch):
    offered(1)
    number = sync.push(title, 10, 1).project
    with monkeypatch.context() as patch:
        patch.setenv("FLYWHEEL_LABEL_STUDIO_TOKEN", "wrong")
        settings.cache_clear()
        with pytest.raises(ContractError, match="does not accept this token"):
            sync.push(title, 10, 1)
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with monkeypatch.context() as patch:
        patch.setenv("FLYWHEEL_LABEL_STUDIO_URL", url)
        patch.setattr(label_studio, "TIMEOUT_SECONDS", 0.3)
        settings.cache_clear()
        with pytest.raises(TransientError, match=r"does not answer \(ReadTimeout\)"):
            sync.push(title, 10, 1)
        silent.close()
        with pytest.raises(TransientError, match=r"does not answer \(ConnectError\)"):
            sync.push(title, 10, 1)
    settings.cache_clear()
    assert sync.push(title, 10, 1).new == 0 and len(people.tasks(number)) == 1
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_URL", settings().label_studio_url + "/static")
    settings.cache_clear()
    with pytest.raises(ContractError):
        sync.push(title, 10, 1)


def test_a_pull_and_a_knock_at_once_decide_once(people, title):
    items = offered(6)
    number = sync.push(title, 10, 1).project
    tasks = people.tasks(number)
    for item in items:
        people.annotate(tasks[item.id]["id"], "approve")
    threads = [threading.Thread(target=sync.pull) for _ in range(2)]
    threads += [threading.Thread(target=sync.pull_task, args=(number, tasks[item.id]["id"])) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.transaction() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(schema.feedback)).scalar() == 6
    assert len(decisions()) == 6


def test_the_stage_pulls_pushes_and_says_how_far_people_agree(people, title, home, caplog):
    run = store.join(settings().store, "runs", "review")
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), [f"review.project={title}"])
    (item,) = offered(1)
    first = stage.execute(review_stage.STAGE, conf, f"{run}/1")
    assert first.metrics["pushed"] == 1
    with ledger.transaction() as db:
        number = db.execute(sa.select(schema.label_projects.c.project)).scalar()
    people.annotate(people.tasks(number)[item.id]["id"], "approve")
    second = stage.execute(review_stage.STAGE, conf, f"{run}/2")
    assert (second.metrics["decided"], second.metrics["pushed"], second.outputs["agreement"].bytes > 0) == (1, 0, True)
