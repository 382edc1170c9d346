"""What this machine has, and whether a config can run on it: asked before any weight is loaded.

`docs/training.md` prints the table of what these rules allow; a test keeps it true.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass

from flywheel.config import Train

SHARDED = ("zero3", "zero3-offload", "fsdp2")  # the base model's weights, too, are divided among the processes


@dataclass(frozen=True)
class Machine:
    """GPUs, whether they and the CPU compute in bf16, and which libraries are there."""

    gpus: int = 0
    gpu_bf16: bool = False
    cpu_bf16: bool = True  # by itself: without AVX-512, a product in bf16 takes many times as long as one in float32
    deepspeed: bool = True
    bitsandbytes: bool = True
    prefix: str = "/opt/flywheel"  # the folder of this environment, as Python calls it
    nodes: int = 1  # machines like this one that train together, `train.processes` on each

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        deepspeed, bitsandbytes = (importlib.util.find_spec(name) is not None for name in ("deepspeed", "bitsandbytes"))
        nodes = int(os.environ.get("FLYWHEEL_NODES", "1"))
        cpu_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return cls(gpus, bool(gpus) and torch.cuda.is_bf16_supported(), cpu_bf16, deepspeed, bitsandbytes, sys.prefix, nodes)

    def device(self, conf: Train) -> str:
        """cpu or cuda."""
        return conf.device if conf.device != "auto" else "cuda" if self.gpus else "cpu"

    def precision(self, conf: Train) -> str:
        """bfloat16 or float32."""
        if conf.precision != "auto":
            return conf.precision
        return "bfloat16" if (self.gpu_bf16 if self.device(conf) == "cuda" else self.cpu_bf16) else "float32"

    def refusal(self, conf: Train) -> tuple[str, str, str] | None:
        """The setting that cannot be, why, and how to mend it; None when everything can."""
        gpu = self.device(conf) == "cuda"
        if conf.device == "cuda" and not self.gpus:
            return "device", "a GPU is asked for and none is there", "Set it to auto or cpu, or run on a node with a GPU."
        if conf.backend == "single" and conf.processes > 1:
            return (
                "backend",
                f"single is one process, and train.processes is {conf.processes}",
                "Set it to ddp, zero2, zero3 or fsdp2, or train.processes to 1.",
            )
        if conf.backend == "single" and self.nodes > 1:
            return (
                "backend",
                f"single is one process, and {self.nodes} nodes train together",
                "Set it to ddp, zero2, zero3 or fsdp2, or stages.train.nodes to 1.",
            )
        if conf.backend != "single" and conf.processes * self.nodes == 1:
            return "processes", f"{conf.backend} shares the work among processes, and there is one", "Set it to the number of GPUs, or train.backend to single."
        if gpu and conf.processes > self.gpus:
            return "processes", f"{conf.processes} processes need a GPU each, and {self.gpus} are there", "Lower it."
        if conf.backend.startswith("zero") and not self.deepspeed:
            return "backend", f"{conf.backend} needs DeepSpeed, which is not installed", "Install requirements/gpu.txt (`make gpu`), or choose ddp or fsdp2."
        if conf.backend.startswith("zero") and not gpu and " " in self.prefix:
            return (
                "backend",
                f"on a CPU DeepSpeed compiles a library at its first use, which cannot be in a folder with a space in its name: {self.prefix}",
                "Make the environment in a folder without one, or choose ddp or fsdp2.",
            )
        if conf.backend.endswith("offload") and not gpu:
            return "backend", f"{conf.backend} moves a GPU's state to the CPU, and there is no GPU", f"Set it to {conf.backend.removesuffix('-offload')}."
        if conf.method == "qlora" and not self.bitsandbytes:
            return "method", "qlora needs bitsandbytes, which is not installed", "Install requirements/train.txt, or choose lora."
        if conf.method == "qlora" and conf.backend in SHARDED:
            return (
                "backend",
                f"{conf.backend} divides the weights, and those of qlora are packed four bits wide",
                "Set it to ddp or zero2, or train.method to lora.",
            )
        if gpu and self.precision(conf) == "bfloat16" and not self.gpu_bf16:
            return "precision", "this GPU does not compute in bfloat16", "Set it to auto or float32."
        if conf.compile and conf.backend != "single":
            return "compile", f"compiled graphs and {conf.backend} do not go together", "Set it to false, or train.backend to single."
        if conf.gradient_checkpointing == "on" and conf.backend in SHARDED:
            return (
                "gradient_checkpointing",
                f"it would gather the weights that {conf.backend} divides a second time",
                "Set it to off, or train.backend to zero2.",
            )
        return None
