"""Versions side by side: who gets which, what leaves, and real adapters on a real engine."""

import asyncio
import json
import os
from collections import Counter

import pytest

from flywheel.errors import ContractError, NotFound, TransientError
from flywheel.model import Decoding as Old
from flywheel.model import generate, load
from flywheel.records import Message
from flywheel.registry import Desired
from serving.engines.base import Decoding, Text, Wanted
from serving.pool import Pool

ASK = (Message(role="user", content="hi"),)


class Named:
    """A loaded version that is only its name."""

    can = frozenset()

    def __init__(self, version):
        self.version, self.closed = version, False

    def close(self):
        self.closed = True


@pytest.fixture
def pool(behaviour):
    behaviour(max_versions=3)
    made = Pool()
    for version in ("1", "2"):
        made.put(Named(version))
    made.lead("1")
    return made


def live(share, challenger=2, stage="canary"):
    return Desired(champion=1, challenger=challenger, stage=stage, share=share, lease_until=9e12)


def test_a_growing_share_keeps_whom_it_has(pool):
    people = [f"user {i}" for i in range(2000)]
    before = set()
    for share in (0.05, 0.25, 1.0):
        pool.desired = live(share)
        got = {person for person in people if pool.route(person) == "2"}
        assert got >= before and abs(len(got) / len(people) - share) < 0.03
        assert got == {person for person in people if pool.route(person) == "2"}
        before = got
    for other in (live(1.0, stage="shadow").model_copy(update={"share": 0.0}), live(1.0).model_copy(update={"lease_until": 1.0}), live(1.0, challenger=9)):
        pool.desired = other
        assert {pool.route(person) for person in people[:50]} == {"1"}  # unseen, lapsed, not loaded
    assert pool.route("anybody", "2") == "2"


def test_the_one_used_longest_ago_leaves_when_its_last_answer_is_out(pool):
    with pool.use("2") as two:
        pool.put(Named("3"))
        pool.put(Named("4"))
        assert pool.versions() == ["1", "3", "4"] and not two.closed
        with pytest.raises(TransientError, match="unloaded"), pool.use("2"):
            pass
    assert two.closed
    pool.desired = live(0.1, challenger=3)
    pool.put(Named("5"))
    assert pool.versions() == ["1", "3", "5"]  # neither the champion nor the challenger


def test_a_version_that_nobody_has_is_loaded_once_for_all_who_ask(pool):
    loads = Counter()

    def loading(version):
        loads[version] += 1
        if version == "66":
            raise NotFound("no")
        pool.put(Named(version))

    async def ask():
        return await asyncio.gather(*(pool.ensure(v) for v in ("7", "7", "7", "66", "66")), return_exceptions=True)

    pool.load = loading
    got = asyncio.run(ask())
    assert got[:3] == [None] * 3 and all(isinstance(e, NotFound) for e in got[3:]) and loads == {"7": 1, "66": 1}


def test_text_is_cut_at_stops_and_never_shows_the_beginning_of_one():
    text = Text(("END", "\n\n"))
    shown = [text.add(part) for part in ("  Hel", "lo E", "very", "one E", "N", "D more")]
    assert "".join(shown) == "Hello Everyone" and text.stopped and "E" not in shown[1]
    plain = Text(())
    assert plain.add("a ") + plain.add(" b \n") + plain.add("", last=True) == "a  b"


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """A random LoRA adapter that changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    config = LoraConfig(r=4, lora_alpha=16, target_modules=names, init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32), config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


async def said(model, **decoding):
    pieces = [piece async for piece in model.stream(ASK, Decoding(**decoding))]
    return "".join(p.text for p in pieces).strip(), pieces[-1]


def test_versions_answer_side_by_side_as_peft_does_and_a_broken_adapter_breaks_nobody(tiny_home, tiny_model, adapter):
    from serving.engines.embedded import Embedded

    engine = Embedded()
    base = engine.load(Wanted("base", tiny_model, None, "auto"))
    one = engine.load(Wanted("1", tiny_model, adapter, "auto"))

    async def together():
        return await asyncio.gather(*(said(model, max_tokens=8) for model in (base, one) * 8))

    got = [text for text, _ in asyncio.run(together())]
    for model, folder in ((base, None), (one, adapter)):
        loaded = load(tiny_model, folder, "float32")
        from flywheel import prompt

        (drawn,) = generate(loaded, [prompt.encode(loaded.tokenizer, ASK)], Old(8))
        wanted = loaded.tokenizer.decode(drawn.ids, skip_special_tokens=True).strip().rstrip("\ufffd")  # half a character is not shown
        own = got[0::2] if model is base else got[1::2]
        assert {text.rstrip("\ufffd") for text in own} == {wanted}
    assert got[0] != got[1]
    conf = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**conf, "use_dora": True}))
    with pytest.raises(ContractError, match="use_dora"):
        engine.load(Wanted("2", tiny_model, adapter, "auto"))
    os.truncate(adapter / "adapter_model.safetensors", 100)
    (adapter / "adapter_config.json").write_text(json.dumps(conf))
    with pytest.raises(Exception):  # noqa: B017 - whatever the engine says of it
        engine.load(Wanted("2", tiny_model, adapter, "auto"))
    assert asyncio.run(said(base, max_tokens=8))[0] == got[0]
    for model in (base, one):
        model.close()


def test_seeds_repeat_and_long_prompts_are_refused(tiny_home, tiny_model):
    from serving.engines.embedded import Embedded

    model = Embedded().load(Wanted("base", tiny_model, None, "auto"))
    first, again = (asyncio.run(said(model, max_tokens=12, temperature=1.0, seed=5))[0] for _ in range(2))
    others = {asyncio.run(said(model, max_tokens=12, temperature=1.0, seed=s))[0] for s in range(6, 10)}
    assert others - {first}
    assert first == again  # asked alone
    with pytest.raises(ContractError, match="tokens"):
        asyncio.run(said(model, max_tokens=600))
    model.close()
