"""Engines behind the interface of base.py, and which of them the settings name."""

import sys

from serving.engines.base import Engine
from serving.settings import serving

# OpenVINO tells its maker that it is imported, asking nobody; where this package is not to be had, it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def create() -> Engine:
    """The engine that FLYWHEEL_SERVING_ENGINE names."""
    if serving().engine == "upstream":
        from serving.engines.upstream import Upstream

        return Upstream()
    from serving.engines.embedded import Embedded

    return Embedded()
