"""Continuous batching in this process, on the CPU: OpenVINO GenAI decodes every request of a version together, joining and leaving at each token.

Each version is the base's file with its adapter put in while it is compiled, so that an answer
costs no more than the base's; versions share nothing else, and one that breaks breaks nobody.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import Histogram

from flywheel import prompt
from flywheel.errors import ContractError, TransientError
from flywheel.records import Message
from flywheel.settings import settings
from serving.engines.base import Decoding, Piece, Text, Token, Wanted
from serving.engines.convert import openvino_folder
from serving.settings import serving

BATCH = Histogram("flywheel_batch_size", "Requests decoded together", buckets=(1, 2, 4, 8, 16, 32, 64))
BLOCK = 32  # tokens a block of the key-value cache, on a CPU
# A step of the pipeline keeps the interpreter, and would hold back until its end what the event loop has to do after the one before:
BREATH = 0.002  # seconds between two steps in which it sends first tokens, and for each answer that has ended: who got it may ask again
SLICE = 0.03  # seconds for which it may go on, once it has the interpreter
COLDEST = 1e-4  # a lower temperature is greedy: single precision would make it 0, or the scores infinite


class Embedded:
    """Loads versions as OpenVINO pipelines."""

    def load(self, wanted: Wanted) -> EmbeddedModel:
        """See Engine."""
        sys.setswitchinterval(SLICE)
        return EmbeddedModel(wanted)


Event = tuple[list[int], list[float], str] | Exception
"""Ids, log-probabilities and the end, if it is there; or what went wrong."""


@dataclass
class Job:
    """One request in the decoding thread; what it makes comes out of `events`."""

    ids: list[int]
    decoding: Decoding
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    handle: Any = None
    begun: bool = False  # whether its first token has been told


def pipeline(wanted: Wanted) -> Any:
    """OpenVINO's pipeline of a version, set up as the settings say."""
    import openvino_genai as genai

    folder = openvino_folder(wanted.base, settings().home / "cache")
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = serving().kv_tokens // BLOCK
    scheduler.max_num_seqs, scheduler.max_num_batched_tokens = serving().max_batch, 512
    scheduler.dynamic_split_fuse = scheduler.enable_prefix_caching = True
    options: dict[str, Any] = {"ENABLE_CPU_PINNING": False}  # pinned, its threads wait for their core while the gateway's use it
    if serving().threads:
        options["INFERENCE_NUM_THREADS"] = serving().threads
    if wanted.adapter:
        options["adapters"] = _adapter(wanted)
    return genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", options)


class EmbeddedModel:
    """One version: a pipeline and the thread that steps it."""

    can = frozenset({"logprobs"})

    def __init__(self, wanted: Wanted) -> None:
        self.version, self.style = wanted.version, wanted.style
        self.tokenizer = prompt.load_tokenizer(wanted.base)
        self.context = int(json.loads((wanted.base / "config.json").read_bytes()).get("max_position_embeddings", 2048))
        self._pipeline = pipeline(wanted)
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._number = 0
        self._first()
        threading.Thread(target=self._run, name=f"decoding {self.version}", daemon=True).start()

    def _first(self) -> None:
        """A first token, so that a version that cannot answer is found out before anybody asks it."""
        handle = self._add([self.tokenizer.eos_token_id] * 4, Decoding(1))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        if not handle.read_all()[0].generated_ids:
            raise ContractError("it answers nothing", where=f"version {self.version}", mend="Roll back; look at its adapter.")

    async def stream(self, turns: Sequence[Message] | str, decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """See Model."""
        from tokenizers.decoders import DecodeStream

        ids = prompt.encode(self.tokenizer, turns, self.style) if not isinstance(turns, str) else self.tokenizer.encode(turns, add_special_tokens=False)
        if len(ids) + decoding.max_tokens > self.context:
            what = f"the prompt has {len(ids)} tokens; with {decoding.max_tokens} for the answer that is over the model's {self.context}"
            raise ContractError(what, where="prompt", mend="Send a shorter prompt or ask for fewer tokens.")
        if not ids:
            raise ContractError("it has no token", where="prompt", mend="Send some text.")
        job = Job(ids, decoding, asyncio.get_running_loop())
        self._inbox.put(job)
        text, decoder, count = Text(decoding.stop), DecodeStream(skip_special_tokens=True), 0
        try:
            finish = ""
            while not finish:
                event = await job.events.get()
                if isinstance(event, Exception):
                    raise event
                new, logprobs, finish = event
                if finish == "stop" and new and new[-1] == self.tokenizer.eos_token_id:
                    new = new[:-1]
                count += len(new)
                parts = [decoder.step(self.tokenizer.backend_tokenizer, i) or "" for i in new]
                shown = text.add("".join(parts), last=bool(finish))
                if text.stopped:
                    finish = "stop"
                tokens = tuple(Token(self.tokenizer.decode([i]), p) for i, p in zip(new, logprobs, strict=False)) if decoding.logprobs else ()
                if finish:
                    yield Piece(shown, tokens, _end(finish), len(ids), count)
                elif shown or tokens:
                    yield Piece(shown, tokens)
        finally:
            job.cancelled = True

    def room(self, turns: Sequence[Message], tokens: int) -> int:
        """See Model."""
        return self.context - tokens - len(prompt.encode(self.tokenizer, turns, self.style))

    def close(self) -> None:
        """See Model."""
        self._inbox.put(None)

    def _add(self, ids: list[int], decoding: Decoding) -> Any:
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.max_new_tokens, config.apply_chat_template = decoding.max_tokens, False
        config.eos_token_id, config.stop_token_ids = self.tokenizer.eos_token_id, {self.tokenizer.eos_token_id}
        config.do_sample = decoding.temperature > COLDEST
        if config.do_sample:
            config.temperature, config.top_p, config.rng_seed = decoding.temperature, decoding.top_p, (decoding.seed or self._number) % 2**32
        config.logprobs = int(decoding.logprobs)
        self._number += 1
        return self._pipeline.add_request(self._number, ov.Tensor(np.array([ids], dtype=np.int64)), config)

    def _run(self) -> None:
        jobs: list[Job] = []
        while True:
            try:
                while not jobs or not self._inbox.empty():
                    job = self._inbox.get()
                    if job is None:
                        return
                    jobs.append(job)
                    job.handle = self._add(job.ids, job.decoding)
                BATCH.observe(len(jobs))
                self._pipeline.step()
                told = [(job, event) for job in jobs for event in _read(job)]
                _tell(told)
                first = [job for job, _ in told if not job.begun]
                for job in first:
                    job.begun = True
                going = [job for job in jobs if not job.cancelled]
                ended = len(jobs) - len(going)
                jobs = going
                time.sleep(BREATH * (ended + bool(first)))
            except Exception as error:  # the thread must live: whatever a batch does wrong is those requests' answer
                failed = TransientError(f"decoding failed ({type(error).__name__}: {error})", where=f"version {self.version}", mend="Ask again.")
                for job in jobs:
                    job.cancelled = True
                    if job.handle:
                        job.handle.cancel()
                _tell([(job, failed) for job in jobs])
                jobs = []


def _read(job: Job) -> list[Event]:
    """What a job's request has made since the last step; a request whose reader has gone is cancelled."""
    made: list[Event] = []
    if job.cancelled:
        job.handle.cancel()
        return made
    while job.handle.can_read():
        for part in job.handle.read().values():
            finish = str(part.finish_reason).rpartition(".")[2].lower()
            made.append((list(part.generated_ids), list(part.generated_log_probs), "" if finish == "none" else finish))
            job.cancelled = job.cancelled or finish != "none"
    return made


def _tell(told: list[tuple[Job, Event]]) -> None:
    """From the decoding thread to who waits, all of a step at once: each call wakes the loop, which then wants the interpreter too."""
    for loop in {job.loop for job, _ in told}:
        if not loop.is_closed():  # a closed one waits for nothing
            loop.call_soon_threadsafe(_give, [(job, event) for job, event in told if job.loop is loop])


def _give(told: list[tuple[Job, Event]]) -> None:
    for job, event in told:
        job.events.put_nowait(event)


def _end(finish: str) -> Literal["stop", "length"]:
    return "length" if finish == "length" else "stop"


def _adapter(wanted: Wanted) -> Any:
    """PEFT's adapter, with the scale that PEFT gives it, as part of the compiled model."""
    import openvino_genai as genai

    assert wanted.adapter
    conf = json.loads((wanted.adapter / "adapter_config.json").read_bytes())
    scale = conf["lora_alpha"] / (conf["r"] ** 0.5 if conf.get("use_rslora") else conf["r"])
    odd = [key for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern") if conf.get(key)]
    if conf.get("peft_type") != "LORA" or odd:
        what = f"the embedded engine knows plain LoRA only, this is {conf.get('peft_type')} with {', '.join(odd) or 'nothing more'}"
        raise ContractError(what, where=f"version {wanted.version}", mend="Train plain LoRA, or serve it with an upstream.")
    return genai.AdapterConfig(genai.Adapter(str(wanted.adapter / "adapter_model.safetensors")), scale, genai.AdapterConfig.Mode.MODE_STATIC)
