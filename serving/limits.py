"""Rate limits and quotas, by caller and tier: so many requests in a window, so many tokens in another.

Counted in this process, or in Redis or Valkey for several replicas. When Redis is away nobody is refused: a limit protects the service, and
a service that stands still needs no protection; the counter below tells of it.
"""

from __future__ import annotations

import time
from functools import lru_cache

from limits import RateLimitItem, parse
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string
from prometheus_client import Counter

from flywheel.errors import ContractError
from serving.admission import Busy
from serving.auth import Principal
from serving.settings import serving

LIMITED = Counter("flywheel_limited_requests_total", "Requests refused for a limit, by tier", ["tier"])
AWAY = Counter("flywheel_limits_unavailable_total", "Requests that were not counted, for the store of counts was away")


@lru_cache(maxsize=64)
def _item(text: str) -> RateLimitItem:
    try:
        return parse(text)
    except ValueError as error:
        raise ContractError("it is no limit", where=text, mend="Write it as `600/minute`.") from error


class Limits:
    """Counts requests and tokens. Raises at its making ContractError for a limit that cannot be read."""

    def __init__(self) -> None:
        for text in (*serving().rate_limits.values(), *serving().quotas.values()):
            _item(text)
        redis = {"implementation": "redispy", "wrap_exceptions": True, "socket_timeout": 0.25, "socket_connect_timeout": 0.25}
        url = serving().limits_url
        storage = storage_from_string(f"async+{url}", **({} if url.startswith("memory") else redis))  # type: ignore[arg-type]
        self._requests, self._tokens = SlidingWindowCounterRateLimiter(storage), FixedWindowRateLimiter(storage)  # type: ignore[arg-type]

    async def admit(self, caller: Principal) -> None:
        """Count a request. Raises Busy (429) over the tier's limit, or when its tokens are spent."""
        rate, quota = serving().rate_limits.get(caller.tier), serving().quotas.get(caller.tier)
        try:
            if rate and not await self._requests.hit(_item(rate), "requests", caller.name):
                await self._refuse(self._requests, rate, "requests", caller, f"{caller.name} sends more than {rate}")
            if quota and not await self._tokens.test(_item(quota), "tokens", caller.name):
                await self._refuse(self._tokens, quota, "tokens", caller, f"{caller.name} has used its tokens ({quota})")
        except StorageError:
            AWAY.inc()

    async def _refuse(self, strategy: FixedWindowRateLimiter | SlidingWindowCounterRateLimiter, limit: str, kind: str, caller: Principal, what: str) -> None:
        LIMITED.labels(caller.tier).inc()
        stats = await strategy.get_window_stats(_item(limit), kind, caller.name)
        raise Busy(what, status=429, retry_after=stats.reset_time - time.time())

    async def spend(self, caller: Principal, tokens: int) -> None:
        """Count an answer's tokens against the quota; what goes over it is the last that does."""
        quota = serving().quotas.get(caller.tier)
        if not quota or tokens <= 0:
            return
        try:
            item = _item(quota)
            await self._tokens.storage.incr(item.key_for("tokens", caller.name), item.get_expiry(), amount=tokens)
        except StorageError:
            AWAY.inc()
