"""The embedded engine with nothing around it, in a process of its own: what serving's own part costs shows beside it. For benchmarks/serve.py.

Reads a JSON line {"questions": [...], "clients": 16, "tokens": 64}, answers all, so many at a time, and prints a line with the tokens, the
seconds, the process's CPU-seconds, and the median milliseconds to a first token.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flywheel import prompt
from serving.engines.base import Wanted
from serving.engines.embedded import pipeline


def answer(pipe: Any, asked: list[list[int]], clients: int, config: Any) -> tuple[int, list[float]]:
    """The tokens of all answers, and the seconds to each one's first."""
    import openvino as ov

    waiting, running, tokens, first = asked[::-1], {}, 0, []
    while waiting or running:
        while waiting and len(running) < clients:
            number = len(waiting)
            running[number] = [pipe.add_request(number, ov.Tensor(np.array([waiting.pop()], dtype=np.int64)), config), time.perf_counter()]
        pipe.step()
        for number, (handle, began) in list(running.items()):
            while handle.can_read():
                for made in handle.read().values():
                    if began:
                        first.append(time.perf_counter() - began)
                        running[number][1] = began = 0.0
                    tokens += len(made.generated_ids)
                    if not str(made.finish_reason).endswith("NONE"):
                        running.pop(number)
    return tokens, first


def main(base: Path) -> None:
    """Until standard input ends."""
    import openvino_genai as genai

    tokenizer, pipe = prompt.load_tokenizer(base), pipeline(Wanted("base", base, None, "auto"))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        config = genai.GenerationConfig()
        config.max_new_tokens, config.apply_chat_template = task["tokens"], False
        config.eos_token_id, config.stop_token_ids = tokenizer.eos_token_id, {tokenizer.eos_token_id}
        asked = [prompt.encode(tokenizer, prompt.messages(question, ""), "auto") for question in task["questions"]]
        used, began = time.process_time(), time.perf_counter()
        tokens, first = answer(pipe, asked, task["clients"], config)
        seconds, used = time.perf_counter() - began, time.process_time() - used
        print(json.dumps({"tokens": tokens, "seconds": seconds, "cpu_seconds": used, "first_ms": float(np.median(first)) * 1000}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
