import pytest

from flywheel import config
from flywheel.errors import ContractError
from flywheel.settings import REPOSITORY


@pytest.mark.parametrize("name", ["flywheel.yaml", "demo.yaml"])
def test_shipped_configs_are_valid(name):
    assert config.load(str(REPOSITORY / "config" / name)).ingest.sources


def test_extends_and_set(tmp_path):
    (tmp_path / "a.yaml").write_text("ingest: {sources: [{kind: docs, licence: x, consent: y}]}\ntrain: {rank: 4, alpha: 8}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntrain: {rank: 2}\n")
    conf = config.load(str(tmp_path / "b.yaml"), ["train.epochs=3", "seed=7"])
    assert (conf.train.rank, conf.train.alpha, conf.train.epochs, conf.seed) == (2, 8, 3, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ingest: {sources: [{kind: docs, licence: x, consent: y}]}\ntrian: {}", "unknown key `trian`"),
        ("ingest: {sources: [{kind: docs, consent: y}]}", "licence"),
        ("ingest: {sources: []}", "ingest.sources"),
        ("train: {rank: -1}\ningest: {sources: [{kind: docs, licence: x, consent: y}]}", "train.rank"),
        ("a: [", "not YAML"),
        ("just text", "mapping"),
        ("extends: c.yaml", "extends itself"),
    ],
)
def test_a_bad_config_names_file_and_field(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ContractError) as caught:
        config.load(str(path))
    assert words in caught.value.sentence
    assert "c.yaml" in caught.value.sentence


@pytest.mark.parametrize("assignment", ["train.epochs", "=3", "seed.x=1", "train..rank=1"])
def test_a_bad_assignment(tmp_path, assignment):
    with pytest.raises(ContractError):
        config.load(str(REPOSITORY / "config" / "flywheel.yaml"), [assignment])


def test_only_some_sources_are_read_when_asked(tmp_path):
    source = "{{kind: files, name: {0}, path: {0}.jsonl, licence: CC0-1.0, consent: made here}}"
    path = tmp_path / "c.yaml"
    path.write_text(f"ingest: {{sources: [{source.format('one')}, {source.format('two')}]}}\n")
    assert [s.label for s in config.load(str(path)).ingest.sources] == ["one", "two"]
    chosen = config.load(str(path), ['ingest.only=["two"]']).ingest
    path.write_text(f"ingest: {{sources: [{source.format('two')}]}}\n")
    assert chosen == config.load(str(path)).ingest  # the same work, found done
    with pytest.raises(ContractError, match="three, and the sources are two"):
        config.load(str(path), ["ingest.only=[three]"])
