import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import ContractError, DataError, TransientError
from tests.conftest import free_port
from tests.tasks.sources.conftest import GOOD, parted, reader

datasets = pytest.importorskip("datasets")
ROWS = [GOOD, {"instruction": "Q", "input": "", "output": None}]


def hub(folder, **options):
    return reader(kind="hub", dataset=str(folder), **options)


def test_what_save_to_disk_wrote(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS * 2)}).save_to_disk(tmp_path / "both")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    for folder, split, count in (("both", "train", 1), ("both", "test", 2), ("one", "train", 1)):
        rows, rejected = parted(hub(tmp_path / folder, split=split))
        assert (len(rows), len(rejected)) == (count, count) and "`output` is missing" in rejected[0].reason


def test_a_clone_of_a_repository(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: chats\n  data_files: data/*.jsonl\n---\n")
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (tmp_path / "data/a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    one = hub(tmp_path, config="chats")
    assert [(r.instruction, r.output) for r in parted(one)[0]] == [("Q", "A")]
    before = one.identity()
    assert hub(tmp_path, config="chats").identity() == before
    (tmp_path / "data/b.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    assert hub(tmp_path, config="chats").identity() != before


def test_a_data_set_at_fault(tmp_path):
    datasets.Dataset.from_list([{"question": "Q"}]).save_to_disk(tmp_path / "form")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "split")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 3 + "{broken\n")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="`instruction` is missing"):
        parted(hub(tmp_path / "form"))
    with pytest.raises(ContractError, match="no such data set, split"):
        parted(hub(tmp_path / "split", split="dev"))
    with pytest.raises(DataError, match="cannot be read"):
        parted(hub(tmp_path / "broken"))
    with pytest.raises((ContractError, DataError)):
        parted(hub(tmp_path / "nothing"))


def test_a_hub_id_is_known_by_the_commit_that_was(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)

    def commit(day):
        return {"id": f"{day:040x}", "title": "t", "message": "m", "date": f"2026-01-0{day}T10:00:00.000Z", "authors": [{"user": "u"}]}

    def night(day):
        return reader(f"2026-01-0{day}T02:00:00+00:00", kind="hub", dataset="somebody/chats").identity()

    server.routes["/api/datasets/somebody/chats/commits/main"] = (200, json.dumps([commit(2), commit(1)]).encode(), {"Content-Type": "application/json"})
    second, third = night(2), night(3)
    server.routes["/api/datasets/somebody/chats/commits/main"] = (
        200,
        json.dumps([commit(3), commit(2), commit(1)]).encode(),
        {"Content-Type": "application/json"},
    )
    assert second != third and (night(2), night(3)) == (second, third) and night(4) not in (second, third)
    with pytest.raises(DataError, match="no commit before"):
        night(1)
    with pytest.raises(ContractError, match="no such data set"):
        hub("somebody/else").identity()


def test_a_hub_that_is_away(monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its own attempts
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match="the hub does not answer"):
        hub("somebody/chats").identity()


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({name: st.none() | st.text(st.characters(codec="utf-8"), max_size=9) for name in ("instruction", "output")}),
        min_size=1,
        max_size=5,
    )
)
def test_in_is_out_plus_rejected(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("h") / "d"
    datasets.Dataset.from_list(found).save_to_disk(folder)
    rows, rejected = parted(hub(folder))
    assert len(rows) + len(rejected) == len(found)
