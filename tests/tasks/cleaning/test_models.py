"""Models of two layers less than small, whose weights are set by hand: each knows one word."""

import pytest

from flywheel.config.steps import Personal, Toxicity
from flywheel.errors import ContractError
from tasks.cleaning.personal import personal
from tasks.cleaning.phrases import toxicity
from tasks.cleaning.record import Texts


def model(folder, kind, labels, word):
    """A BERT without layers that gives its last label to this word, or to a text of nothing else."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", word])}
    raw = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if kind.__name__.endswith("SequenceClassification"):  # it reads the first token, so the word itself
        raw.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=4, hidden_size=4, num_hidden_layers=0, num_attention_heads=1, intermediate_size=4, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    made = kind(config).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
        made.bert.embeddings.LayerNorm.weight.fill_(1)
        made.bert.embeddings.word_embeddings.weight.copy_(torch.eye(4) * 10)
        if made.bert.pooler is not None:
            made.bert.pooler.dense.weight.copy_(torch.eye(4))
        made.classifier.bias[0] = 5
        made.classifier.weight[-1, 3] = 10
    made.save_pretrained(folder)
    return str(folder)


def test_names_are_masked_and_placeholders_survive(tmp_path):
    from transformers import BertForTokenClassification

    folder = model(tmp_path / "ner", BertForTokenClassification, ["O", "B-PER"], "Alice")
    judge = personal(Personal(names=folder))
    texts, reason = judge(Texts((), "Ask Alice or jane@doe.org", "", "Alice, of course."))
    assert (texts, reason) == (Texts((), "Ask <name> or <email>", "", "<name>, of course."), "")
    assert judge(texts)[0] is texts
    assert personal(Personal(names=folder, policy="drop"))(Texts((), "q", "", "Alice"))[1] == "a name was found (personal: drop)"


def test_long_texts_are_read_to_their_end(tmp_path):
    from transformers import BertForTokenClassification

    judge = personal(Personal(names=model(tmp_path / "ner", BertForTokenClassification, ["O", "B-PER"], "Alice")))
    assert judge(Texts((), "q", "", "word " * 300 + "Alice"))[0].output.endswith("word <name>")


def test_toxicity_by_a_classifier(tmp_path):
    from transformers import BertForSequenceClassification

    folder = model(tmp_path / "toxic", BertForSequenceClassification, ["neutral", "TOXIC"], "blockhead")
    judge = toxicity(Toxicity(model=folder))
    assert judge(Texts((), "q", "", "blockhead"))[1] == "the toxicity classifier is at least 80% sure"
    assert judge(Texts((), "blockhead", "", "friend"))[1] == ""
    with pytest.raises(ContractError, match="none of its labels"):
        toxicity(Toxicity(model=folder, toxic_labels=("hate",)))


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(ContractError, match="no such folder"):
        personal(Personal(names=str(tmp_path / "gone")))
    with pytest.raises(ContractError, match="no model for text-classification"):
        toxicity(Toxicity(model=str(tmp_path)))
