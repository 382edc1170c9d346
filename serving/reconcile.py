"""Keep the engine on what the registry wants: the champion, or the base model before there is one.

Looks every two seconds. A version that cannot be loaded never takes the service down: the one before goes on.
"""

from __future__ import annotations

import logging
import time

from prometheus_client import Counter, Gauge

from flywheel import base_model, config, registry
from flywheel.errors import FlywheelError, TransientError
from flywheel.model import load
from flywheel.settings import settings
from serving.engine import Engine, Served

log = logging.getLogger("flywheel.serving")
SECONDS = 2.0
RETRY_SECONDS = 30.0
BASE = "base"

VERSION = Gauge("flywheel_model_version", "The version that answers; 0 is the base model")
DESIRED = Gauge("flywheel_desired_model_version", "The version that the registry wants; 0 is the base model")
FAILURES = Counter("flywheel_reconcile_failures_total", "Looks that failed: a version that could not be loaded, or a registry that did not answer", ["cause"])
for cause in ("load", "registry"):
    FAILURES.labels(cause)


class Reconciler:
    """Compares the desired version with the current one and loads when they differ."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.not_before: dict[str, float] = {}
        self.complaint = ""

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
        if self.engine.current is None:  # while the registry still starts, the base model can be made ready
            base_model.local_folder(config.load(settings().config).model.base, settings().home / "cache")
        number = registry.alias("champion")
        DESIRED.set(number or 0)
        wanted = str(number) if number else BASE
        current = self.engine.current
        if (current and current.version == wanted) or time.monotonic() < self.not_before.get(wanted, 0.0):
            return
        self.not_before[wanted] = time.monotonic() + RETRY_SECONDS
        began = time.monotonic()
        self.engine.current = self._load(number)
        del self.not_before[wanted]
        VERSION.set(number or 0)
        log.info("serving version %s (loaded in %.1f s)", wanted, time.monotonic() - began)

    @staticmethod
    def _load(number: int | None) -> Served:
        cache = settings().home / "cache"
        if number is None:
            model = config.load(settings().config).model
            return Served(load(base_model.local_folder(model.base, cache), None), model.prompt, BASE)
        version = registry.get(number)
        adapter = registry.fetch(version, cache)
        return Served(load(base_model.local_folder(version.base, cache), adapter), version.prompt, str(number))
