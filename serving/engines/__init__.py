"""Engines behind the interface of base.py."""

import sys

# OpenVINO tells its maker that it is imported, asking nobody; where this package is not to be had, it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
