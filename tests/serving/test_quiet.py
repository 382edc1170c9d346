"""Nothing is told to anybody elsewhere."""

import subprocess
import sys


def test_openvino_has_nobody_to_tell():
    code = "import serving.engines; import openvino; from openvino.tools.ovc.telemetry_utils import tm; print(tm.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
