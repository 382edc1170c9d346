"""The stages: one module each, run as `python -m tasks.<stage> --config URI --run-dir URI [--set key=value]`."""
