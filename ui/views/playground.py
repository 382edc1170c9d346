"""Playground: one question under any setting, and how sure the model was of each token."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from flywheel.settings import settings
from ui import asking, client, memory, rating
from ui.asking import Answer
from ui.client import ServingError
from ui.doors import Person
from ui.showing import version_of

KEPT = 5  # trials on the page


@dataclass
class Trial:
    """What was asked, how, and the answer."""

    question: str
    how: str
    answer: Answer


@dataclass
class Bench:
    """Trials, the newest first."""

    trials: list[Trial] = field(default_factory=list)


def page(who: Person) -> None:
    """Settings, question, trials."""
    bench = memory.current(who.name, "bench", Bench)
    st.title("Playground")
    try:
        models = client.models(who.token)
    except ServingError as error:
        st.error(str(error), icon=":material/cloud_off:")
        models = {}
    with st.form("playground", border=False):
        question = st.text_area("Question", key="question", height=100, placeholder="What does `shutil.copytree` do?")
        system = st.text_area("System prompt", key="system", height=68, placeholder="Optional")
        model, how = _settings(models, expanded=not bench.trials)
        if st.form_submit_button("Run", type="primary", icon=":material/play_arrow:", shortcut="Ctrl+Enter"):
            if question.strip():
                _run(bench, who, model, how, question, system)
            else:
                st.info("Write a question first.")
    for trial in bench.trials:
        _trial(trial, who)


def _settings(models: dict[str, str], expanded: bool) -> tuple[str, dict[str, Any]]:
    with st.expander("How to answer", expanded=expanded, icon=":material/tune:"):
        left, right = st.columns(2)
        base = f"{settings().model_name}:base"
        adapted = [name for name in models if name != base] or [settings().model_name]
        model = left.selectbox(
            "Version", adapted, key="model", format_func=lambda name: version_of(models.get(name, "")) + (" (in use)" if ":" not in name else "")
        )
        adapter = right.toggle("With its adapter", value=True, key="adapter", help="Off: the base model answers, untrained.")
        how = {
            "temperature": left.slider("Temperature", 0.0, 2.0, 0.0, 0.05, key="temperature", help="0 always takes the likeliest token."),
            "top_p": right.slider("Top-p", 0.05, 1.0, 1.0, 0.05, key="top_p", help="Only the likeliest tokens that together have this probability."),
            "max_tokens": left.slider("Longest answer (tokens)", 1, 1024, 128, key="longest"),
            "seed": right.number_input("Seed", 0, 2**31 - 1, 0, key="seed", help="The same seed draws the same answer."),
        }
    return model if adapter else base, how


def _run(bench: Bench, who: Person, model: str, how: dict[str, Any], question: str, system: str) -> None:
    messages = ([{"role": "system", "content": system}] if system.strip() else []) + [{"role": "user", "content": question}]
    answer = asking.ask({"model": model, "messages": messages, "user": who.name, "logprobs": True, **how}, who.token)
    said = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in how.items())
    bench.trials = [Trial(question, said + (", with a system prompt" if system.strip() else ""), answer), *bench.trials][:KEPT]


def _trial(trial: Trial, who: Person) -> None:
    answer = trial.answer
    with st.container(border=True):
        st.markdown(f"**{trial.question[:300]}**")
        spot = st.empty()
        if not answer.done.is_set():
            st.button("Stop", on_click=answer.stop, key=f"stop-{answer.key}", shortcut="Esc", icon=":material/stop_circle:")
            asking.follow([answer], lambda: spot.markdown(answer.text or "_Thinking …_"))
            st.rerun()
        if answer.log_probs:
            spot.html(tokens(answer.log_probs))
            mean = sum(value for _, value in answer.log_probs) / len(answer.log_probs)
            st.caption(f"{len(answer.log_probs)} tokens, perplexity {math.exp(-mean):.2f}. Point at a token, or reach it with Tab, to see its probability.")
        else:
            spot.markdown(answer.text or "_(an empty answer)_")
        if answer.problem:
            st.error(answer.problem, icon=":material/error:")
        st.caption(" · ".join(filter(None, (version_of(answer.version), trial.how))))
        if answer.finish:
            rating.form(answer, who)


def tokens(log_probs: tuple[tuple[str, float], ...]) -> str:
    """The tokens, the doubtful ones tinted, each with its log-probability for pointer and keyboard."""
    parts = []
    for token, value in log_probs:
        chance = math.exp(value)
        said = f"{chance:.1%} · log-probability {value:.3f}"
        parts.append(
            f'<span tabindex="0" style="background: rgba(217, 119, 6, {0.5 * (1 - chance):.2f})" data-said="{said}"'
            f' aria-label="{html.escape(token, quote=True)}: {said}" role="note">{html.escape(token)}</span>'
        )
    return f'<div class="tokens">{"".join(parts)}</div>'
