"""A question on its way: a thread takes the answer in, and whichever run of the page is there shows how far it is.

So no rerun asks the model again, a reload finds the answer where it is, and Stop works while the model is silent.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flywheel.records import FeedbackIn
from ui import client
from ui.client import ServingError

LOOK_SECONDS = 0.1


@dataclass
class Answer:
    """One answer, complete or on its way, and what its reader said of it."""

    text: str = ""
    answer_id: str = ""
    version: str = ""
    finish: str = ""
    problem: str = ""
    log_probs: tuple[tuple[str, float], ...] = ()
    sources: tuple[dict[str, Any], ...] = ()
    stopped: bool = False
    given: FeedbackIn | None = None
    given_id: str = ""
    unsent: str = ""  # why the last feedback is not stored
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    done: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Take in no more, if it is not whole already; the service stops decoding when it finds nobody listening."""
        if not self.done.is_set():
            self.stopped = True
            self.done.set()

    def _take(self, body: dict[str, Any], token: str) -> None:
        try:
            for piece in client.stream(body, token):
                if self.stopped:
                    break
                self.answer_id, self.version = piece.answer_id or self.answer_id, piece.version or self.version
                self.text += piece.text
                self.finish = piece.finish or self.finish
                self.log_probs += piece.log_probs
                self.sources = piece.sources or self.sources
        except ServingError as error:
            self.problem = str(error)
        except Exception as error:  # the page must hear of it, whatever it is
            self.problem = f"The answer could not be read ({type(error).__name__}). Try again; if it stays so, tell your operator."
        finally:
            self.done.set()


def ask(body: dict[str, Any], token: str = "") -> Answer:
    """Put a question; the answer fills by itself."""
    answer = Answer()
    threading.Thread(target=answer._take, args=(body, token), daemon=True, name="answer").start()
    return answer


def follow(answers: Sequence[Answer], show: Callable[[], object]) -> None:
    """Show answers until they are all there. A click in between ends this run of the page, and the next one follows on."""
    while not all(answer.done.is_set() for answer in answers):
        show()
        for answer in answers:
            answer.done.wait(LOOK_SECONDS)
    show()
