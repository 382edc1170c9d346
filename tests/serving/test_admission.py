"""The queue: fair between tenants, bounded, and left by who gives up."""

import asyncio

import pytest

from serving.admission import Admission, Busy


def test_tenants_take_turns_and_who_leaves_frees_the_place(behaviour):
    behaviour(max_batch=1, max_queue=8)

    async def play():
        admission, order = Admission(), []

        async def ask(tenant):
            async with admission.turn(tenant):
                order.append(tenant)
                await asyncio.sleep(0)

        async with admission.turn("first"):
            work = [asyncio.create_task(ask(tenant)) for tenant in ("loud", "loud", "loud", "loud", "quiet")]
            await asyncio.sleep(0)
            with pytest.raises(Busy) as raised:
                await ask("loud")
            assert raised.value.status == 429 and raised.value.retry_after >= 1
            work[1].cancel()
            await asyncio.sleep(0)
            assert admission.waiting == 4
        await asyncio.gather(*work, return_exceptions=True)
        assert order == ["loud", "quiet", "loud", "loud"] and (admission.running, admission.waiting) == (0, 0)

    asyncio.run(play())
