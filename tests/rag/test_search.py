"""Hybrid search on a real index: what is found, what is never shown, and what happens without one."""

from __future__ import annotations

import pytest

from flywheel.errors import NotFound, TransientError
from flywheel.settings import settings
from rag.documents import Document
from rag.index import Wanted, build
from rag.search import FUSED, K1, MEANING, RANK, B, search
from tests.rag.conftest import passages


@pytest.mark.parametrize("mode", ["hybrid", "dense", "words"])
def test_the_passage_with_the_answer_is_first(indexed, mode):
    assert search("How long does the moon take around the earth?", 1, mode=mode)[0].document == "moon.md"


def test_a_name_in_code_is_found_whole_and_by_its_parts(indexed):
    for question in ("shutil.copytree", "copytree", "What does `shutil` offer?"):
        assert search(question, 1, mode="words")[0].document == "guide.md"


def test_both_kinds_of_search_count(indexed):
    both = search("copy a directory tree with shutil.copytree", 1)[0]
    assert both.score == pytest.approx((1 + MEANING) / (RANK + 1)) and 0.3 < both.similarity <= 1


def test_offsets_are_the_documents(indexed):
    from tests.rag.conftest import LIBRARY

    texts = {d.uri: d.text for d in LIBRARY}
    for hit in search("flour moon copytree link", 10):
        assert texts[hit.document][hit.start : hit.end] == hit.text


def test_what_a_tenant_may_not_see_never_shows(indexed):
    asked = "the secret chestnut flour recipe of the house"
    for mode in ("hybrid", "dense", "words"):
        for tenants in ((), ("other",)):
            assert "secret.md" not in {h.document for h in search(asked, 10, tenants=tenants, mode=mode)}
        assert search(asked, 1, tenants=("other", "acme"), mode=mode)[0].document == "secret.md"
    assert {h.document for h in search(asked, 10, filter={"topic": "food"})} == {"bread.md"}


def test_words_rank_by_bm25_and_what_may_not_be_seen_takes_no_place(database):
    """More passages have the word than are fused, and the best of them are somebody else's."""
    counts = {f"{i:03}": (1 + i % 4, 3 + 7 * i % 40) for i in range(3 * FUSED)}
    theirs = [Document(f"acme {i}", "zebra " * 9, title="x", tenants=("acme",)) for i in range(2 * FUSED)]
    ours = [Document(uri, "zebra " * often + " ".join(f"word{j}" for j in range(others)), title="x") for uri, (often, others) in counts.items()]
    build(passages([*theirs, *ours]), Wanted())
    lengths = {uri: often + others + 1 for uri, (often, others) in counts.items()}  # the title is a word
    mean = (sum(lengths.values()) + 10 * len(theirs)) / (len(theirs) + len(ours))
    score = {uri: often / (often + K1 * (1 - B + B * lengths[uri] / mean)) for uri, (often, _) in counts.items()}
    found = [hit.document for hit in search("zebra", FUSED, mode="words")]
    assert found == sorted(score, key=lambda uri: (-round(score[uri], 9), uri))[:FUSED]


def test_a_filter_holds_for_both_kinds_of_search(indexed):
    assert {h.document for h in search("flour and moon", 10, filter={"topic": "sky"})} == {"moon.md"}
    assert search("flour", 10, filter={"topic": "none such"}) == []


@pytest.mark.parametrize(
    "question", ["", "   ", "a\x00b", "'; drop schema rag cascade; --", "%s %(x)s {}", "\\' & | ! :* <->", "word " * 20_000, "\U0001f600 ﷽"]
)
def test_any_question_is_only_a_question(indexed, question):
    search(question, 2)
    assert search("moon", 1)


def test_without_an_index_there_is_a_sentence(database):
    with pytest.raises(NotFound, match="no such index"):
        search("anything")


def test_a_database_that_is_away_is_a_sentence(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", "postgresql+psycopg://flywheel@127.0.0.1:9/none")
    settings.cache_clear()
    with pytest.raises(TransientError, match="does not answer"):
        search("anything")


def test_a_cross_encoder_has_the_last_word(indexed, tmp_path):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from flywheel import embedding
    from rag.search import rerank

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(str(embedding.folder(embedding.BUILT_IN)))
    tokenizer.save_pretrained(str(tmp_path))
    small = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1)
    BertForSequenceClassification(small).save_pretrained(str(tmp_path))
    found = search("flour and the moon", 3)
    again = rerank("flour and the moon", found, str(tmp_path))
    assert {h.id for h in again} == {h.id for h in found} and [h.score for h in again] == sorted((h.score for h in again), reverse=True)
    assert [h.score for h in again] != [h.score for h in found] and rerank("x", [], str(tmp_path)) == []
