"""The queue: fair between tenants, bounded, and left by who gives up."""

import asyncio

import pytest

from serving.admission import Admission, Busy


async def ask(admission, tenant, order):
    async with admission.turn(tenant):
        order.append(tenant)
        await asyncio.sleep(0)


def test_tenants_take_turns_and_who_leaves_frees_the_place(behaviour):
    behaviour(max_batch=1, max_queue=8)

    async def play():
        admission, order = Admission(), []
        async with admission.turn("first"):
            work = [asyncio.create_task(ask(admission, tenant, order)) for tenant in ("loud", "loud", "loud", "loud", "quiet")]
            await asyncio.sleep(0)
            with pytest.raises(Busy) as raised:
                await ask(admission, "loud", order)
            assert raised.value.status == 429 and raised.value.retry_after >= 1
            work[1].cancel()
            await asyncio.sleep(0)
            assert admission.waiting == 4
        await asyncio.gather(*work, return_exceptions=True)
        assert order == ["loud", "quiet", "loud", "loud"] and (admission.running, admission.waiting) == (0, 0)

    asyncio.run(play())


def test_the_queue_is_as_long_as_its_wait_may_be(behaviour):
    behaviour(max_batch=2, max_queue=256, queue_seconds=10)

    async def play():
        admission = Admission()
        admission.seconds = 5.0  # an answer takes so long, lately
        over = asyncio.Event()

        async def stay(tenant):
            async with admission.turn(tenant):
                await over.wait()

        work = [asyncio.create_task(stay(f"tenant {n}")) for n in range(6)]  # two are answered, four wait: the last for ten seconds
        await asyncio.sleep(0)
        with pytest.raises(Busy) as raised:
            await stay("another")
        assert (raised.value.status, raised.value.retry_after) == (503, 12)
        admission.seconds = 0.001
        assert admission.room == 256  # never longer than memory allows
        over.set()
        await asyncio.gather(*work)

    asyncio.run(play())


def test_no_line_is_longer_than_its_share_for_its_last_would_wait_too_long(behaviour):
    behaviour(max_batch=1, max_queue=9)

    async def play():
        admission, order = Admission(), []
        async with admission.turn("first"):
            work = [asyncio.create_task(ask(admission, tenant, order)) for tenant in "abcaa"]
            await asyncio.sleep(0)
            with pytest.raises(Busy) as raised:  # three tenants wait, so each has a third of nine
                await asyncio.wait_for(ask(admission, "a", order), 1)
            assert raised.value.status == 429
            work += [asyncio.create_task(ask(admission, "b", order))]
            await asyncio.sleep(0)
            assert admission.waiting == 6
        await asyncio.gather(*work)
        assert order == list("abcaba")

    asyncio.run(play())


def test_one_that_gives_up_as_its_turn_comes_takes_nobodys_place(behaviour):
    behaviour(max_batch=1)

    async def play():
        admission, served = Admission(), []
        async with admission.turn("first"):
            leaving, staying = asyncio.create_task(ask(admission, "leaving", served)), asyncio.create_task(ask(admission, "staying", served))
            await asyncio.sleep(0)
            leaving.cancel()
        await asyncio.gather(leaving, staying, return_exceptions=True)
        assert served == ["staying"] and (admission.running, admission.waiting) == (0, 0)

    asyncio.run(play())
