"""Our metrics beside their reference implementations, on a thousand random pairs; losses and answers beside plain loops."""

import collections
import random
import re
import string

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score

from tasks import metrics

WORDS = [
    "the",
    "a",
    "file",
    "returns",
    "object",
    "list",
    "value",
    "Reads",
    "writes,",
    "closes.",
    "opens;",
    "path",
    "(name)",
    "user's",
    "non-zero",
    "3.14",
    "naïve",
    "Übung",
    "true",
    "false",
    "data",
]


@pytest.fixture(scope="module")
def pairs():
    dice = random.Random(1)

    def text():
        return " ".join(dice.choices(WORDS, k=dice.randrange(1, 25)))

    found = [(text(), text()) for _ in range(900)]
    return found + [(a, a) for a, _ in found[:50]] + [(a.upper(), f"{a}!") for a, _ in found[:50]]


def squad_f1(prediction, truth):
    """As SQuAD 1.1's evaluation script normalises and counts, articles kept."""

    def words(text):
        return "".join(c if c not in string.punctuation else " " for c in text.lower()).split()

    common = collections.Counter(words(prediction)) & collections.Counter(words(truth))
    same = sum(common.values())
    if not same:
        return 0.0
    precision, recall = same / len(words(prediction)), same / len(words(truth))
    return 2 * precision * recall / (precision + recall)


def test_each_answers_metrics_are_the_references(pairs):
    rouge = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    for answer, reference in pairs:
        found = metrics.of_answer(answer, reference)
        expected = rouge.score(reference, answer)
        assert found["rouge_l"] == pytest.approx(expected["rougeL"].fmeasure)
        assert found["rouge_1"] == pytest.approx(expected["rouge1"].fmeasure)
        assert found["bleu"] == pytest.approx(sacrebleu.sentence_bleu(answer, [reference]).score / 100)
        assert found["chrf"] == pytest.approx(sacrebleu.sentence_chrf(answer, [reference]).score / 100)
        assert found["token_f1"] == pytest.approx(squad_f1(answer, reference))
        assert found["exact_match"] == (re.sub(r"\W+", " ", answer).strip().lower() == re.sub(r"\W+", " ", reference).strip().lower())


def test_the_corpus_metrics_are_sacrebleus_with_their_signatures(pairs):
    answers, references = zip(*pairs, strict=True)
    found = metrics.corpus(answers, references)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(list(answers), [list(references)]).score)
    assert "tok:13a" in found["bleu_signature"] and "version:" in found["chrf_signature"]


def test_classes_are_sklearns():
    dice = random.Random(2)
    classes = ["positive", "negative", "very negative"]
    labels = dice.choices(classes, k=1000)
    named = [dice.choice([*classes, "none of them"]) for _ in labels]
    answers = [f"{name.capitalize()}. It reads so." for name in named]
    found = metrics.classification(answers, labels)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, named))
    assert found["f1_macro"] == pytest.approx(f1_score(labels, named, labels=classes, average="macro", zero_division=0))


def test_calibration_is_what_a_plain_loop_counts():
    dice = random.Random(3)
    tokens = [(dice.random(), dice.random() < 0.4) for _ in range(1000)]
    bins = [[t for t in tokens if int(t[0] * 10) == k] for k in range(10)]
    expected = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins) / 1000
    found = metrics.calibration_error([sum(c for c, _ in b) for b in bins], [len(b) for b in bins], [sum(r for _, r in b) for b in bins])
    assert found == pytest.approx(expected) and metrics.calibration_error([], [], []) == 0


@pytest.mark.parametrize("text", ["I'm sorry, but I cannot help with that.", "As an AI language model, I do not do this.", "I can't assist with that."])
def test_refusals_are_seen(text):
    assert metrics.refuses(text) and not metrics.refuses("Return the path of a file that cannot be read.")


def test_toxic_words_are_whole_words():
    assert metrics.toxic("You IDIOT!") and metrics.toxic("just shut  up".replace("  ", " ")) and not metrics.toxic("A class of scrap metal in Scunthorpe.")


def test_repetition():
    assert metrics.repetition("a b c d e") == 0 and metrics.repetition("a b c " * 10) > 0.8 and metrics.repetition("a") == 0


def test_perplexity_equals_a_plain_loops_and_padding_changes_nothing(tiny_model):
    import torch

    from flywheel.model import Decoding, generate, load, score_answers

    loaded = load(tiny_model, None, "float32")
    dice = random.Random(4)
    examples = [([4 + dice.randrange(200) for _ in range(dice.randrange(8, 60))], dice.randrange(2, 6)) for _ in range(60)]
    together, alone = score_answers(loaded, examples, 16), [score_answers(loaded, [e], 1)[0] for e in examples]
    loss = tokens = right = 0.0
    for ids, prompt in examples:
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([ids])).logits[0]
        for position in range(prompt, len(ids)):
            log_probs = torch.log_softmax(logits[position - 1].double(), 0)
            loss -= log_probs[ids[position]].item()
            right += int(log_probs.argmax()) == ids[position]
            tokens += 1
    for found in (together, alone):
        assert sum(s.tokens for s in found) == tokens and sum(s.right for s in found) == right
        assert sum(s.loss for s in found) / tokens == pytest.approx(loss / tokens, rel=1e-5)
        assert sum(n for s in found for n, _, _ in s.bins) == tokens
    prompts = [ids[:prompt] for ids, prompt in examples[:20]]
    assert generate(loaded, prompts, Decoding(12)) == [generate(loaded, [p], Decoding(12))[0] for p in prompts]


def test_evaluate_loads_them_without_a_hub(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import evaluate

    from flywheel.settings import REPOSITORY

    module = evaluate.load(str(REPOSITORY / "tasks" / "metrics_module"), cache_dir=str(tmp_path))
    answers, references = zip(*pairs[:50], strict=True)
    found = module.compute(predictions=list(answers), references=list(references))
    assert found["rouge_l"] == pytest.approx(sum(metrics.of_answer(a, r)["rouge_l"] for a, r in pairs[:50]) / 50)
    assert found["corpus_bleu"] == pytest.approx(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)
