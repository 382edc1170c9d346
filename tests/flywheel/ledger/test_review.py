"""Review on a real ledger: asked once, decided once, and gone with what it is about."""

import pytest

from flywheel import forgetting, ledger
from flywheel.errors import ContractError, NotFound
from flywheel.ledger import review
from flywheel.ledger.review import ReviewItem
from tests.flywheel.ledger.conftest import ask, curate, give, published


def offered(*items):
    with ledger.transaction() as db:
        return review.offer(db, items)


def about(feedback_id, priority=0.0):
    return ReviewItem(feedback_id=feedback_id, answer_id=ledger.find(feedback_id).answer_id, reason="two people disagree", priority=priority)


def waiting(limit=10, reviewer=None):
    with ledger.transaction() as db:
        return review.waiting(db, limit, reviewer)


def decide(item, reviewer, decision, **more):
    with ledger.transaction() as db:
        return review.decide(db, item.id, reviewer, decision, **more)


def record(feedback_id):
    return ledger.record_of(ledger.find(feedback_id))


def test_what_is_offered_twice_waits_once_the_most_important_first(database):
    small, great, answer = give(1, correction="right"), give(2), ask(3)
    assert offered(about(small, 1), about(great, 2)) == 2
    assert offered(about(small, 9), ReviewItem(answer_id=answer, reason="nobody said anything", priority=3)) == 1
    assert offered(ReviewItem(answer_id=answer, reason="again"), ReviewItem(answer_id=answer, reason="again")) == 0
    found = waiting()
    assert [(i.prompt, i.correction, i.feedback_id) for i in found] == [("question 3", None, None), ("question 2", None, great), ("question 1", "right", small)]
    assert (found[2].response, found[2].model_version, found[2].reason, found[2].state) == ("answer 1", "1", "two people disagree", "waiting")
    assert found[2].at and waiting(1) == found[:1]


def test_a_decision_is_a_record_of_its_own_and_the_users_stays(database):
    thumb, correction, edited = give(1, consent=True), give(2, correction="right"), give(3, correction="nearly right", consent=True)
    offered(*map(about, (thumb, correction, edited)))
    of = {item.feedback_id: item for item in waiting()}
    up = record(decide(of[thumb], "Grace", "approve", rating=4, comment="it is right"))
    assert (up.thumb, up.rating, up.comment, up.user, up.source, up.consent, up.correction) == ("up", 4, "it is right", "Grace", "review", True, None)
    no = record(decide(of[correction], "Grace", "reject"))
    assert (no.thumb, no.tags, no.consent) == (None, ("reject",), False)  # the correction is wrong: that says nothing of the answer
    better = record(decide(of[edited], "Linus", "edit", correction="right at last"))
    assert (better.correction, better.user, better.keep_until) == ("right at last", "Linus", record(edited).keep_until)
    assert waiting() == [] and not any(record(i).withheld for i in (thumb, correction, edited))
    with ledger.transaction() as db:
        said = review.decided(db, [up.id, no.id, better.id, thumb])
    assert said == {up.id: review.Decided("approve", thumb), no.id: review.Decided("reject", correction), better.id: review.Decided("edit", edited)}


def test_what_cannot_be_decided_is_refused_with_a_sentence(database):
    mine = give(1, user="Ada", correction="right")
    offered(about(mine))
    (item,) = waiting()
    for reviewer, decision, more, why in (
        ("Ada", "approve", {}, "nobody reviews what they said themselves"),
        ("", "approve", {}, "says who made it"),
        ("Grace", "perhaps", {}, "is no decision"),
        ("Grace", "edit", {"correction": " "}, "only an edit"),
        ("Grace", "approve", {"correction": "other"}, "only an edit"),
        ("Grace", "approve", {"rating": 6}, "`rating`"),
    ):
        with pytest.raises(ContractError, match=why):
            decide(item, reviewer, decision, **more)
    with pytest.raises(NotFound, match="no such review item"):
        decide(ReviewItem(id="x", answer_id="x", reason=""), "Grace", "approve")
    assert waiting() == [item] and waiting(reviewer="Ada") == []
    decide(item, "Grace", "approve")
    with pytest.raises(ContractError, match=r"decided before \(approve\)"):
        decide(item, "Linus", "reject")


def test_who_skips_leaves_it_to_others(database):
    offered(about(give(1)))
    (item,) = waiting()
    assert decide(item, "Grace", "skip") is None
    assert waiting(reviewer="Grace") == [] and waiting(reviewer="Linus") == [item]
    assert decide(item, "Grace", "reject")


def test_a_decision_goes_with_the_record_it_is_about(database, home):
    old, mine = give(1, user="Ada", correction="wrong"), give(2, user="Ada", correction="nearly", consent=True)
    offered(about(old), about(mine))
    of = {item.feedback_id: item for item in waiting()}
    curate(home)
    decision = decide(of[mine], "Grace", "edit", correction="right")
    curate(home, "2")
    assert decision in [e.feedback_ids[0] for e in published()]
    ledger.withdraw(mine, "Ada")
    ledger.withdraw(old, "Ada")
    assert ledger.settle() == [1, 2]
    assert published() == [] and record(decision).withheld == "what it decided on is withheld"
    assert waiting() == []
    with pytest.raises(ContractError, match="taken back"):
        decide(of[old], "Grace", "approve")


def test_a_forgotten_person_takes_what_was_decided_about_their_words_along(database, home, mlflow_server):
    mine = give(1, user="Ada", correction="my own words")
    offered(about(mine))
    (item,) = waiting()
    decision = decide(item, "Grace", "edit", correction="my own words, mended")
    proof = forgetting.forget("test", "asked", user="Ada")
    assert {entry["id"] for entry in proof["records"]} == {mine, decision}
    assert ledger.find(decision).body == {} and forgetting.forget("test", "asked", user="Grace")["records"] == []
