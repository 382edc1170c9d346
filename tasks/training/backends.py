"""Who holds weights and gradients: one process, or several that hold the same (ddp) or a part each (DeepSpeed ZeRO, FSDP2).

All give the loop the same five things: `score`, `backward`, `step`, and the whole state out and in. The state is written as one
process would have it, without the frozen weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from flywheel.config import Train
from flywheel.model import answer_loss
from tasks.training.objectives import Example

if TYPE_CHECKING:
    from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


def scorer(model: Any, pad: int, device: str, precision: str, packed: bool, twice: bool = False) -> nn.Module:
    """A module whose forward is the negative log-probability of each example's answer: what wrappers hook into.

    `twice` keeps no activations inside a layer: the backward pass computes them again, in the same precision.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting
    from torch.nn.attention import SDPBackend, sdpa_kernel

    @contextmanager
    def mixed(width: int) -> Iterator[None]:
        """Matrix products in bf16 on the adapter's fp32 weights; on a CPU, plain attention for batches up to 256 tokens wide.

        There the fused kernel's backward pass is the slower one; above, it is the one that fits in memory.
        """
        plain = device == "cpu" and width <= 256 and not twice  # the second time would choose anew
        autocast = torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()
        with autocast, casting(), sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            yield

    def casting() -> AbstractContextManager[None]:
        return disable_input_dtype_casting(model) if precision == "bfloat16" else nullcontext()

    if twice:
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False, "context_fn": lambda: (nullcontext(), casting())})

    class Scorer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, examples: Sequence[Example]) -> Tensor:
            width = (sum if packed else max)(len(ids) for ids, _ in examples)
            with mixed(width):
                return answer_loss(self.model.get_base_model(), examples, pad, device, packed)

    return Scorer()


class Single:
    """One process."""

    rank, world = 0, 1

    def __init__(self, module: Any, conf: Train) -> None:
        import torch

        self.module, self.conf = module, conf
        self.prepare()
        self.trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trainable.values(), lr=conf.learning_rate, weight_decay=0.0, **self.kernel)

    kernel: dict[str, Any] = {"fused": True}

    def prepare(self) -> None:
        """Divide the module, before the optimizer sees it."""

    def score(self, examples: Sequence[Example]) -> Tensor:
        """Negative log-probability of each answer, shape (examples,), in nats."""
        scores: Tensor = self.module(examples)
        return scores

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this pass's gradients; `last` of the step."""
        loss.backward()

    def step(self, rate: float) -> float:
        """Change the weights; the gradient's norm before it was clipped."""
        import torch

        self._gather_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.trainable.values(), self.conf.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.clear()
        return float(self.whole(norm))

    def _gather_gradients(self) -> None:
        pass

    def clear(self) -> None:
        """Forget gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def total(self, *values: float) -> list[float]:
        """Each value's sum over all processes."""
        return list(values)

    def whole(self, tensor: Tensor) -> Tensor:
        """A parameter-shaped tensor, of all processes together."""
        return tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """This process's part of a whole one."""
        return tensor

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Weight and moments of each trained parameter, on the CPU. All processes must ask together."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, p in self.trainable.items():
            moments = self.optimizer.state.get(p, {})
            found[name] = {"weight": self.whole(p.detach()).cpu()} | {key: self.whole(moments[key]).cpu() for key in MOMENTS if key in moments}
        return found

    def load(self, state: dict[str, dict[str, Tensor]], step: int) -> None:
        """Restore it, after `step` steps."""
        import torch

        with torch.no_grad():
            for name, p in self.trainable.items():
                p.copy_(self.part(state[name]["weight"], p))
                if step:
                    moments = {key: torch.zeros_like(p).copy_(self.part(state[name][key], p)) for key in MOMENTS}
                    self.optimizer.state[p] = {"step": torch.tensor(float(step), device=p.device), **moments}


class Replicated(Single):
    """ddp: each process has everything and some of the passes. An adapter's gradients are few: they are summed once a step."""

    def __init__(self, module: Any, conf: Train) -> None:
        import torch.distributed as dist

        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        super().__init__(module, conf)

    def _gather_gradients(self) -> None:
        import torch
        import torch.distributed as dist

        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.trainable.values()]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        start = 0
        for p in self.trainable.values():
            p.grad = flat[start : start + p.numel()].view_as(p)
            start += p.numel()

    def total(self, *values: float) -> list[float]:
        """Over all processes."""
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(tensor)
        return list(tensor.tolist())


class Sharded(Replicated):
    """fsdp2: every parameter is divided among the processes and put together layer by layer."""

    kernel = {"foreach": False}

    def prepare(self) -> None:
        """Each layer is a unit, the rest another."""
        from torch.distributed.fsdp import fully_shard

        model = self.module.model.get_base_model()
        for layer in model.get_decoder().layers:
            fully_shard(layer)
        fully_shard(self.module, reshard_after_forward=False)

    def backward(self, loss: Tensor, last: bool) -> None:
        """The library takes the mean over processes where a step's loss is a sum."""
        (loss * self.world).backward()

    def _gather_gradients(self) -> None:
        pass

    def whole(self, tensor: Any) -> Tensor:
        """Put together."""
        found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return found

    def part(self, tensor: Tensor, like: Any) -> Tensor:
        """Divided as its parameter is."""
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


class DeepSpeed(Replicated):
    """zero2: optimizer and gradients are divided; zero3: the weights, too."""

    def __init__(self, module: Any, conf: Train) -> None:
        import deepspeed
        import torch
        import torch.distributed as dist

        self.rank, self.world, self.conf = dist.get_rank(), dist.get_world_size(), conf
        self.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self.trainable.values(), lr=conf.learning_rate, weight_decay=0.0)
        self.optimizer: Any
        self.module, self.optimizer, _, _ = deepspeed.initialize(model=module, optimizer=optimizer, config=self.settings(conf), dist_init_required=False)
        self.norm = 0.0

    @staticmethod
    def settings(conf: Train) -> dict[str, Any]:
        """DeepSpeed's own config for one of ours."""
        zero: dict[str, Any] = {"stage": 3 if "zero3" in conf.backend else 2, "contiguous_gradients": False, "overlap_comm": False}
        if conf.backend.endswith("offload"):
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
            if "zero3" in conf.backend:
                zero["offload_param"] = {"device": "cpu", "pin_memory": True}
        return {
            "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": conf.max_grad_norm, "zero_optimization": zero,
            "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
        }  # fmt: skip

    def backward(self, loss: Tensor, last: bool) -> None:
        """The library takes the mean over processes where a step's loss is a sum."""
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss * self.world)

    def step(self, rate: float) -> float:
        """Clips by itself."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.module.step()
        return float(self.module.get_global_grad_norm() or 0.0)

    def clear(self) -> None:
        """Forget gradients."""
        self.module.zero_grad()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Gathered parameter by parameter."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = {}
        for name, p in self.trainable.items():
            parts = {"weight": safe_get_full_fp32_param(p)} | {key: safe_get_full_optimizer_state(p, key) for key in MOMENTS}
            found[name] = {key: value.detach().clone().cpu() for key, value in parts.items() if value is not None}
        return found

    def load(self, state: dict[str, dict[str, Tensor]], step: int) -> None:
        """Each process takes its part: of the weights that compute, of their fp32 copy, and of the moments."""
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        with deepspeed.zero.GatheredParameters(list(self.trainable.values()), modifier_rank=0):
            for name, p in self.trainable.items():
                p.data.copy_(state[name]["weight"])
        if step:
            self._make_moments(step)
        for name, p in self.trainable.items():
            safe_set_full_fp32_param(p, state[name]["weight"])
            for key in MOMENTS if step else ():
                safe_set_full_optimizer_state(p, state[name][key], key)

    def _make_moments(self, step: int) -> None:
        """What the optimizer would make at its first step: moments of the flat tensor that DeepSpeed gives it for each group, here all zeros."""
        import torch

        two = self.module.zero_optimization_stage() == 2
        for flat in self.optimizer.single_partition_of_fp32_groups if two else self.optimizer.fp32_partitioned_groups_flat:
            self.optimizer.optimizer.state[flat] = {"step": torch.tensor(float(step)), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        if two:
            self.optimizer._lazy_init_hp_params_optimizer_state()


def make(module: nn.Module, conf: Train) -> Single:
    """The backend of this config. With several processes, they have found each other before."""
    kinds = {"single": Single, "ddp": Replicated, "fsdp2": Sharded}
    return kinds.get(conf.backend, DeepSpeed)(module, conf)


def meet(device: str) -> None:
    """Join the processes that torchrun started. On GPUs each takes the one of its local rank."""
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        dist.init_process_group("gloo")
