"""Keep the pool on what the registry wants: the champion, or the base model before there is one, and the challenger of a rollout.

Looks every two seconds. A version that cannot be loaded never takes the service down: the one before goes on.
"""

from __future__ import annotations

import logging
import threading
import time

from prometheus_client import Counter, Gauge

from flywheel import base_model, config, registry
from flywheel.errors import FlywheelError, NotFound, TransientError
from flywheel.settings import settings
from serving.engines.base import Engine, Wanted
from serving.pool import BASE, Pool

log = logging.getLogger("flywheel.serving")
SECONDS = 2.0
RETRY_SECONDS = 30.0

VERSION = Gauge("flywheel_model_version", "The version that answers; 0 is the base model")
DESIRED = Gauge("flywheel_desired_model_version", "The version that the registry wants; 0 is the base model")
SHARE = Gauge("flywheel_challenger_share", "Share of people whose answers come from the challenger")
FAILURES = Counter("flywheel_reconcile_failures_total", "Looks that failed: a version that could not be loaded, or a registry that did not answer", ["cause"])
for cause in ("load", "registry"):
    FAILURES.labels(cause)


class Reconciler:
    """Compares the desired versions with the loaded ones and loads what is missing."""

    def __init__(self, pool: Pool, engine: Engine) -> None:
        self.pool, self.engine = pool, engine
        self.not_before: dict[str, float] = {}
        self.complaint = ""
        self._loading = threading.Lock()
        pool.load = self.load

    def step(self) -> None:
        """One look. Says what is wrong once, not every two seconds."""
        try:
            self._step()
            self.complaint = ""
        except Exception as error:  # it must live through whatever the registry or a bad adapter does
            FAILURES.labels("registry" if isinstance(error, TransientError) else "load").inc()
            sentence = error.sentence if isinstance(error, FlywheelError) else f"{type(error).__name__}: {error}"
            if sentence != self.complaint:
                log.error("reconcile: %s The current version goes on.", sentence)
                self.complaint = sentence

    def _step(self) -> None:
        if not self.pool.versions():  # while the registry still starts, the base model can be made ready
            base_model.local_folder(config.load(settings().config).model.base, settings().home / "cache")
        desired = registry.desired()
        self.pool.desired = desired
        DESIRED.set(desired.champion or 0)
        SHARE.set(desired.share if desired.live else 0)
        wanted = str(desired.champion) if desired.champion else BASE
        if self.pool.champion != wanted and self._try(wanted):
            self.pool.lead(wanted)
            VERSION.set(desired.champion or 0)
            log.info("serving version %s", wanted)
        if desired.live:
            self._try(desired.challenger_name)

    def _try(self, version: str) -> bool:
        """Load unless it failed a moment ago; whether it is there."""
        if version in self.pool.versions():
            return True
        if time.monotonic() < self.not_before.get(version, 0.0):
            return False
        self.not_before[version] = time.monotonic() + RETRY_SECONDS
        self.load(version)
        del self.not_before[version]
        return True

    def load(self, version: str) -> None:
        """Fetch a version, check its package against its checksums, and take it into the pool. One at a time.

        Raises NotFound for a version that there is none of or that the gate refused, ContractError for a package that differs,
        TransientError when the registry is away.
        """
        with self._loading:
            if version in self.pool.versions():
                return
            began, cache = time.monotonic(), settings().home / "cache"
            if version == BASE:
                model = config.load(settings().config).model
                wanted = Wanted(BASE, base_model.local_folder(model.base, cache), None, model.prompt)
            else:
                known = next((v for v in registry.versions() if str(v.version) == version), None)
                if known is None or known.verdict == "refuse":
                    raise NotFound("there is no such version to be served", where=f"version {version}", mend="GET /v1/models lists what is loaded.")
                adapter = registry.fetch(known, cache)
                wanted = Wanted(version, base_model.local_folder(known.base, cache), adapter, known.prompt)
            self.pool.put(self.engine.load(wanted))
            log.info("loaded version %s in %.1f s", version, time.monotonic() - began)
