"""A shadow: the challenger answers what the champion was asked, nobody sees it, and the guards can compare the two."""

import asyncio
import time

from flywheel import ledger
from flywheel.records import Message
from flywheel.registry import Desired
from serving import outcomes
from serving.answering import Answerer, Question
from serving.engines.base import Decoding, Piece
from serving.limits import Limits
from serving.pool import Pool
from tests.serving.test_pool import Named


class Speaking(Named):
    """Says its name; the third answer of version 2 fails."""

    asked = 0

    async def stream(self, turns, decoding):
        self.asked += 1
        if (self.version, self.asked) == ("2", 3):
            raise RuntimeError("broken")
        yield Piece(f"I am {self.version}", finish="stop", prompt_tokens=1, answer_tokens=3)


def test_a_shadow_answers_unseen_and_is_compared(database, behaviour):
    pool, began = Pool(), time.time()
    for version in ("1", "2"):
        pool.put(Speaking(version))
    pool.lead("1")
    pool.desired = Desired(champion=1, challenger=2, stage="shadow", lease_until=9e12)

    async def ask(times):
        answerer = Answerer(pool, Limits())
        for _ in range(times):
            answer = await answerer.whole(Question((Message(role="user", content="hi"),), Decoding(4), "hi", cache=False))
            assert answer.text == "I am 1"
            await asyncio.gather(*outcomes._tasks)

    asyncio.run(ask(4))
    outcomes.flush()
    figures = ledger.compare(2, began)
    assert {arm: (sums.n, sums.mean) for arm, sums in figures["errors"].items()} == {"champion": (4, 0.0), "challenger": (4, 0.25)}
