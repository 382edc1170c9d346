"""Versions change under load: nothing fails, every answer is one version's, and memory stays."""

import asyncio

import psutil
import pytest

from flywheel.records import Message
from serving.answering import Answer, Answerer, Question
from serving.engines.base import Decoding, Wanted
from serving.limits import Limits
from serving.pool import Pool
from tests.serving.test_pool import adapter  # noqa: F401

ASK = (Message(role="user", content="hi"),)


async def swap_under_load(pool, engine, wanted, swaps, clients, memory):
    """Load a version, lead with it, drop the one before; meanwhile everybody asks. Gives each answer's version and text."""
    answerer, answers, over = Answerer(pool, Limits()), [], asyncio.Event()

    async def client():
        while not over.is_set():
            answer = Answer(await answerer.version_for(Question(ASK, Decoding(4), "hi", cache=False)))
            async for _ in answerer.stream(Question(ASK, Decoding(4), "hi", cache=False), answer):
                pass
            answers.append((answer.version, answer.text))

    people = [asyncio.create_task(client()) for _ in range(clients)]
    for number in range(swaps):
        model = await asyncio.to_thread(engine.load, wanted(number))
        before = pool.champion
        pool.put(model)
        pool.lead(model.version)
        if before:
            pool.drop(before)
        memory.append(psutil.Process().memory_info().rss)
        await asyncio.sleep(0)
    over.set()
    await asyncio.gather(*people)
    return answers


@pytest.mark.parametrize("swaps", [6, pytest.param(1000, marks=pytest.mark.slow)])
def test_swaps_under_load(swaps, database, tiny_home, tiny_model, adapter, behaviour):  # noqa: F811
    from serving.engines.embedded import Embedded

    def wanted(number):
        return Wanted(str(number), tiny_model, adapter if number % 2 else None, "auto")

    pool, engine, memory = Pool(), Embedded(), []
    pool.put(engine.load(wanted(-2)))
    pool.lead("-2")
    answers = asyncio.run(swap_under_load(pool, engine, wanted, swaps, 16 if swaps > 6 else 4, memory))
    by_kind = [{text for version, text in answers if int(version) % 2 == kind} for kind in (0, 1)]
    assert len(answers) >= swaps and all(len(texts) == 1 for texts in by_kind if texts)  # one version from its first to its last token
    assert len({version for version, _ in answers}) > 1
    if swaps > 50:
        assert memory[-1] <= 1.05 * memory[50], [m >> 20 for m in memory[50::100]]
