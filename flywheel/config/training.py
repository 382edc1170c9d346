"""What `train` does: which examples teach what, by which method, on which machines, and what is kept. docs/training.md explains it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.config.section import Section, Share

Backend = Literal["single", "ddp", "zero2", "zero2-offload", "zero3", "zero3-offload", "fsdp2"]


class Train(Section):
    """A LoRA adapter, taught by answers, by pairs of answers or by thumbs."""

    # What is learned
    objective: Literal["sft", "dpo", "kto"] = Field("sft", description="sft: answers; dpo: better and worse answers; kto: liked and disliked answers")
    beta: float = Field(0.1, gt=0, description="dpo, kto: how dear it is to leave the model that training began with")
    start: Literal["champion", "base"] = Field("champion", description="Continue from the champion's adapter, or afresh")
    epochs: float = Field(1.0, gt=0)
    max_examples: int | None = Field(None, ge=1, description="Budget of examples an epoch, new ones first")
    replay: Share = Field(0.25, description="Share of earlier examples mixed in when continuing from a champion")
    min_new_examples: int = Field(8, ge=0, description="With a champion there, fewer new examples skip the turn")
    known_from: Share = Field(0.8, description="An example that shares this much (Jaccard of token 3-grams) with a learned one is not new")

    # How
    method: Literal["lora", "qlora"] = Field("lora", description="lora: the base in `precision`; qlora: in NF4 with double quantization")
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: Share = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = Field("all-linear", description="Layers that get an adapter, or names such as [q_proj, v_proj]")
    learning_rate: float = Field(4e-4, gt=0, le=1e-1)
    warmup: Share = 0.05
    batch_size: int = Field(8, ge=1, description="Examples a step, of all processes together")
    max_grad_norm: float = Field(1.0, gt=0)
    spike: float = Field(5.0, gt=1, description="A step's loss that is this many times the mean of the twenty before stops the run")
    divergence: float = Field(2.0, gt=1, description="A mean of twenty losses that is this many times the lowest stops the run")

    # On what
    backend: Backend = Field("single", description="single, or how `processes` share the work: ddp, DeepSpeed ZeRO, FSDP2; docs/training.md has the table")
    processes: int = Field(1, ge=1, description="On each node, one a GPU; `single` has one")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = Field("auto", description="auto: bfloat16, but float32 on a GPU or CPU without it")
    batching: Literal["groups", "packed"] = Field("groups", description="groups: examples of like length, padded; packed: end to end, with true boundaries")
    micro_tokens: int | None = Field(None, ge=1, description="Most tokens of one pass, padding included; default: what fits in memory")
    gradient_checkpointing: Literal["auto", "on", "off"] = Field("auto", description="auto: only when the longest example does not fit without")
    compile: bool = Field(False, description="torch.compile: pays after some 75 steps a shape")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores")

    # What is kept, and when to stop
    checkpoint_seconds: float = Field(120, gt=0, description="Between two checkpoints; longer where saving would take more than a twentieth")
    keep_checkpoints: int = Field(2, ge=1)
    also: tuple[Literal["merged", "gguf"], ...] = Field((), description="Beside the adapter: the merged model, as a folder or as a GGUF file")
    weekly_gpu_hours: float | None = Field(None, ge=0, description="Hard budget of all stages, by ISO week: spent, the turn is skipped or stopped")
    weekly_money: float | None = Field(None, ge=0, description="Likewise, in the settings' currency")
