"""The rules on made-up records with a known truth, each alone and all together."""

from datetime import timedelta

import pytest

from benchmarks.crowd import SLOGAN, START, choice, crowd, record
from benchmarks.curation import NAIVE, auc, curated, harm, right
from flywheel.config import Curate, cleaning, curation, steps
from flywheel.errors import ContractError
from flywheel.ledger.review import Decided
from tasks.curation import RULES, curate, report
from tasks.curation.brigading import related
from tasks.curation.desk import Desk, Known, case_of
from tasks.curation.raters import measure

ROUTES = (curation.Corrections(), curation.Preferences(), curation.Thumbs())


def desk(records, rules, known=None, decided=None, folder=None):
    found = Desk([case_of(r, (decided or {}).get(r.id)) for r in records], START + timedelta(days=1), known or Known())
    if folder:
        found.scratch = folder
    curate(found, rules)
    return found


def test_a_fifth_of_adversaries_costs_at_most_two_points_and_their_labels_are_found():
    for seed in (0, 1):
        ours, peer = (harm(seed, **options, questions=2000, raters=300) for options in ({}, {"rules": NAIVE}))
        assert ours["points_lost"] <= 2 < peer["points_lost"], (ours, peer)
        assert ours["auc"] >= 0.9 and ours["size"] >= 0.85


def test_no_slogan_is_learned_and_the_honest_are_not_taken_for_spam():
    world = crowd(3)
    found = curated(world)
    assert not any(SLOGAN in example.output for example in found.examples)
    assert all(SLOGAN in case.record.correction for case in found.cases if case.rule == "spam")
    assert sum(case.rule == "spam" for case in found.cases) == sum(SLOGAN in (r.correction or "") for r in world.records)
    clean = curated(crowd(3, adversaries=0.0))
    assert not any(case.rule == "spam" for case in clean.cases) and auc(clean, crowd(3, adversaries=0.0)) > 0.9


def test_every_record_is_somewhere_with_its_reason_and_each_rule_adds_up():
    world = crowd(1, questions=200)
    found = curated(world)
    assert sum(found.routes().values()) == len(world.records) and not found.open
    assert all(case.rule and case.why for case in found.cases)
    assert [count["rule"] for count in found.counts] == ["rights", "brigading", "raters", "spam", "corrections", "preferences", "thumbs", "ask", "rest"]
    for before, after in zip(found.counts, found.counts[1:], strict=False):
        assert before["out"] == after["in"] == before["in"] - before["dropped"] - before["review"]
    learned = {case.record.id for case in found.cases if case.route in ("supervised", "preference", "thumb")}
    assert learned == {name for example in found.examples for name in example.feedback_ids}
    page = report.page(found, "a run")
    assert "a coin, or always the same verdict" in page and world.records[0].prompt not in page


def test_a_rule_that_loses_a_case_is_caught(monkeypatch):
    class Careless(RULES[curation.Thumbs]):
        def apply(self, desk):
            desk.cases[0].route = "dropped"

    monkeypatch.setitem(RULES, curation.Thumbs, Careless)
    with pytest.raises(ContractError, match=r"curate\.rules: thumbs"):
        desk([record(1, "Ada", "q", "a", thumb="up")], (curation.Thumbs(),))


def test_rules_are_named_once_and_every_option_class_has_its_rule():
    assert set(map(type, Curate().rules)) == set(RULES)
    with pytest.raises(ValueError, match="stands twice"):
        Curate(rules=("spam", "spam"))
    off = desk([record(1, "Ada", "q", "a", thumb="up")], ())
    assert (off.cases[0].route, off.cases[0].why, off.examples) == ("dropped", "no rule took it", [])


def test_consent_and_withdrawal_cannot_be_switched_off():
    records = [
        record(1, "Ada", "q1", "a", correction="b", consent=False), record(2, "Ada", "q2", "a", correction="b", withheld="withdrawn"),
        record(3, "Ada", "q3", "a", correction="b", keep_until=START), record(4, "Ada", "q4", "a", correction="b"),
    ]  # fmt: skip
    found = desk(records, (curation.Corrections(pairs=False),))
    assert [case.route for case in found.cases] == ["dropped"] * 3 + ["supervised"] and len(found.examples) == 1


def test_raters_are_measured_by_what_others_and_reviewers_say():
    votes = [(who, f"item {n}", n % 2 == 0) for who in ("Ada", "Bob", "Cyd") for n in range(80)] + [("up", f"item {n}", True) for n in range(80)]
    found = measure(votes, {}, curation.Raters())
    assert found.accuracy["Ada"] > 0.9 and found.accuracy["up"] == pytest.approx(0.55, abs=0.08)
    assert found.true["item 0"] > 0.95 and found.true["item 1"] < 0.05
    alone = measure([("new", f"item {n}", True) for n in range(50)], {}, curation.Raters())
    assert alone.accuracy["new"] == pytest.approx(0.85) and alone.true["item 1"] == pytest.approx(0.85)  # nobody is suspect for having been alone
    judged = measure([("new", f"item {n}", True) for n in range(50)], {f"item {n}": False for n in range(30)}, curation.Raters())
    assert judged.true["item 40"] == pytest.approx(0.5, abs=0.12) and measure([], {}, curation.Raters()).true == {}


def test_a_reviewers_word_outweighs_the_crowd_and_corrections_follow_it():
    said = [record(n, f"user-{n}", "q", "a", thumb="up") for n in range(4)] + [record(9, "Eve", "q", "a", thumb="down")]
    review = record(10, "Grace", "q", "a", thumb="down", source="review")
    found = desk([*said, review], (curation.Raters(), *ROUTES), decided={review.id: Decided("reject", said[0].id)})
    (example,) = found.examples
    assert example.liked is False and set(example.feedback_ids) == {said[4].id, review.id}
    pretended = desk([*said, review], (curation.Raters(), *ROUTES))  # that a record calls itself a review does not make it one
    assert pretended.examples[0].liked is True


def test_who_acts_as_one_counts_once():
    brigade = [record(n, f"sock-{n}", "q", "fine", minutes=n / 10, thumb="down") for n in range(20)]
    honest = [record(100 + n, f"user-{n}", "q", "fine", minutes=60 + n * 60, thumb="up") for n in range(4)]
    elsewhere = [record(200 + n, f"user-{n % 4}", f"q{n}", "fine", minutes=n * 60, thumb="up") for n in range(12)]
    found = desk([*brigade, *honest, *elsewhere], (curation.Brigading(), curation.Raters(), *ROUTES, curation.Ask()))
    assert [case.rule for case in found.cases[:20]].count("brigading") == 19
    assert [case.route for case in found.cases[:20]].count("review") == 1 and "20 people who act as one" in found.asks[0].reason
    assert {e.liked for e in found.examples} == {True}
    slow = [record(n, f"sock-{n}", "q", "fine", minutes=n * 30, thumb="down") for n in range(20)]
    assert not any(case.rule == "brigading" for case in desk(slow, (curation.Brigading(), *ROUTES)).cases)
    angry = [record(n, f"user-{n}", "q", "bad", minutes=n / 10, thumb="down") for n in range(20)]
    lives = [record(1000 + n * 10 + k, f"user-{n}", f"q{n}-{k}", "x", minutes=-n * 60 - k, thumb="up") for n in range(20) for k in range(4)]
    assert not any(case.rule == "brigading" for case in desk([*angry, *lives], (curation.Brigading(), *ROUTES)).cases)  # a burst, and no relation
    assert related({"a": frozenset({("x", True)}), "b": frozenset({("x", True)}), "c": frozenset({("y", True)})}, 0.5) == [{"a", "b"}, {"c"}]


def test_spam_is_a_phrase_of_one_person_and_not_the_manner_of_the_place():
    template = [
        record(n, f"user-{n % 6}", f"what does f{n} do?", "no idea", correction=f"returns true if the value is {word}")
        for n, word in enumerate(["odd", "even", "prime", "big", "small"] * 6)
    ]
    alone = [record(n, "Ada", f"what does f{n} do?", "no idea", correction=f"see {n} at my new shop downtown") for n in range(100, 106)]
    empty = record(200, "Bob", "q", "The same.", correction="the same")
    found = desk([*template, *alone, empty], (curation.Spam(),))
    assert {case.record.id for case in found.cases if case.rule == "spam"} == {r.id for r in (*alone, empty)}
    assert not any(case.rule == "spam" for case in desk(alone, (curation.Spam(),)).cases)  # nobody to compare with


def test_corrections_become_answers_pairs_and_failures():
    first = record(1, "Ada", "q", "bad", minutes=1, correction="good")
    same = record(2, "Bob", "q", "bad", minutes=2, correction="Good!")
    other = record(3, "Cyd", "q", "bad", minutes=0, correction="better?")
    found = desk([first, same, other], (curation.Corrections(),))
    supervised, pair = found.examples
    assert (supervised.output, set(supervised.feedback_ids), supervised.slice) == ("Good!", {first.id, same.id}, "failure")
    assert (pair.output, pair.rejected) == ("Good!", "bad") and found.cases[2].route == "dropped"
    lonely = desk([first], (curation.Corrections(pairs=False),))
    assert [(e.slice, e.kind) for e in lonely.examples] == [("feedback", "supervised")]


def test_choices_become_pairs_and_who_always_takes_the_left_is_doubted():
    records, honest = [], ("Ada", "Bob", "Cyd")
    for n in range(40):
        for k, who in enumerate(honest):
            records.append(choice(n * 10 + k, who, f"q{n}", "good", f"bad {n}", True, side="left" if (n + k) % 2 else "right"))
        side = "left" if n % 2 else "right"  # the rated answer is the good one: who always takes the left is right every other time
        records.append(choice(n * 10 + 5, "lefty", f"q{n}", "good", f"bad {n}", side == "left", side=side))
    found = desk([*records, choice(999, "Ada", "q", "a", "b", True).model_copy(update={"preference": None})], (curation.Raters(), curation.Preferences()))
    assert len(found.examples) == 40 and all((e.output, e.rejected[:3]) == ("good", "bad") for e in found.examples)
    against = [case for case in found.cases if case.record.user == "lefty" and case.record.preference.won is False]
    assert len(against) == 20 and all(case.route == "dropped" and case.sure < 0.1 for case in against)
    assert found.cases[-1].why == "it says nothing to learn from"


def test_personal_data_and_near_duplicates_stay_out(tmp_path):
    mail = "write to " + "ada" + "@" + "example-mail.com for the key to the third gate of the castle"
    long = "the lighthouse keeper counts every ship that passes the northern cliffs before the winter storms arrive and then writes their names into a heavy book that nobody else has ever read"
    records = [
        record(1, "Ada", "where is the key?", "no", correction=mail), record(2, "Bob", "what does the keeper do at night?", "no", correction=long),
        record(3, "Cyd", "what does the keeper do at nights?", "no", correction=long + " again"),
    ]  # fmt: skip
    rules = (curation.Corrections(pairs=False), steps.Personal(), cleaning.NearDuplicates())
    found = desk(records, rules, folder=tmp_path)
    assert sorted(e.output[:14] for e in found.examples) == ["the lighthouse", "write to <emai"]
    assert sorted((case.rule, case.route) for case in found.cases[1:]) == [("corrections", "supervised"), ("near_duplicates", "dropped")]
    assert not list(tmp_path.iterdir())
    strict = desk(records[:1], (curation.Corrections(), steps.Personal(policy="drop")))
    assert (strict.cases[0].rule, strict.examples) == ("personal", [])


def test_people_are_asked_what_is_most_worth_asking_within_the_budget():
    def pair(n, people, prompt=None):
        return [record(n * 10 + k, f"user-{n}-{k}", prompt or f"q{n}", "a", thumb="up" if up else "down") for k, up in enumerate(people)]

    divided, failed = pair(1, (True, False)), pair(3, (False, False, False))
    often = pair(2, (True, False), "asked often")
    known = Known(traffic=lambda prompts: {(p, ""): 99 if p == "asked often" else 1 for p in prompts})
    rules = (curation.Raters(), *ROUTES)
    found = desk([*divided, *often, *failed], (*rules, curation.Ask()), known)
    assert [next(c.record.prompt for c in found.cases if c.record.id == ask.feedback_id) for ask in found.asks] == ["asked often", "q1", "q3"]
    assert "3 people found the answer wrong" in found.asks[2].reason
    assert found.asks[0].priority > found.asks[1].priority > found.asks[2].priority
    assert [case.route for case in found.cases[4:]] == ["thumb"] * 3  # a failure is asked about, and learned from
    one = desk([*divided, *often, *failed], (*rules, curation.Ask(budget=1)), known)
    assert len(one.asks) == 1 and sum("nobody was asked" in case.why for case in one.cases) == 3


def test_what_is_like_a_question_already_asked_waits_for_one_that_is_not(tmp_path):
    texts = ("How do I bake sourdough bread?", "How can I bake a sourdough loaf?", "What is the boiling point of nitrogen?")
    records = [record(n * 10 + k, f"user-{n}-{k}", text, "a", thumb=thumb) for n, text in enumerate(texts) for k, thumb in enumerate(("up", "down"))]
    found = desk(records, (curation.Raters(), *ROUTES, curation.Ask(budget=2, embedder="all-minilm-l6-v2")))
    asked = {next(c.record.prompt for c in found.cases if c.record.id == ask.feedback_id) for ask in found.asks}
    assert texts[2] in asked and len(asked) == 2


def test_a_training_record_is_right_only_when_it_teaches_the_truth():
    world = crowd(5, questions=50)
    found = curated(world, NAIVE)
    assert any(right(e, world) for e in found.examples) and not all(right(e, world) for e in found.examples)
