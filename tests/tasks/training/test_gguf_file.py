import json
import shutil

import gguf
import pytest

from flywheel.errors import ContractError, DataError
from tasks.training import gguf_file

PROBE = [5, 6, 7, 8, 90, 91, 1, 40, 41]


def test_what_is_written_is_read_back_the_same(tiny_model, tmp_path, monkeypatch):
    assert gguf_file.write(tiny_model, tmp_path / "model.gguf", PROBE) < 1e-3
    real = gguf.quants.quantize
    monkeypatch.setattr(gguf.quants, "quantize", lambda values, kind: real(values * 1.5, kind))
    with pytest.raises(DataError, match="differs from the merged model by"):
        gguf_file.write(tiny_model, tmp_path / "other.gguf", PROBE)


def test_what_cannot_be_written_is_refused(tiny_model, tmp_path):
    gguf_file.check(tiny_model)
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(ContractError, match="tokenizers that split as GPT-2's does"):
        gguf_file.check(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    with pytest.raises(ContractError, match="plain Llama models, and this is qwen2"):
        gguf_file.check(folder)
