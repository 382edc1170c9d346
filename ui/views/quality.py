"""Quality: which version was better, what people say, what the last turn did and why, and which data it learned from."""

from __future__ import annotations

from typing import Any

import altair as alt
import streamlit as st

from ui import client
from ui.client import ServingError
from ui.doors import Person

LOOKS = {"promote": ("green", "check_circle"), "hold": ("orange", "pause_circle"), "refuse": ("red", "block"), "skipped": ("gray", "skip_next")}
COLOURS = alt.Scale(domain=["promote", "hold", "refuse"], range=["#0f8378", "#b7791f", "#d64545"])


def page(who: Person) -> None:
    """The whole story, the shortest part first."""
    st.title("Quality")
    days = st.segmented_control("Time", [7, 30, 90], default=30, required=True, format_func=lambda n: f"{n} days", key="days", label_visibility="collapsed")
    try:
        found = client.call("GET", "/v1/quality", who.token, days=days)
        stats = client.call("GET", "/v1/stats", who.token, days=days)
    except ServingError as error:
        st.error(str(error), icon=":material/cloud_off:")
        return
    for problem in found["problems"]:
        st.warning(problem, icon=":material/cloud_off:")
    _figures(stats)
    _versions(found["versions"], found["metric"])
    _trends(found["trends"])
    _turn(found["turn"])
    _data(found["data"])
    with st.container(horizontal=True):
        for name, url in (found["links"] if who.may("operator") else {}).items():
            st.link_button(name, url, icon=":material/open_in_new:")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _figures(stats: dict[str, Any]) -> None:
    seconds = stats["seconds_to_learn"]
    with st.container(horizontal=True):
        st.metric("Approval", _share(stats["approval"]), border=True, help="Thumbs up among all thumbs; stars count, too.")
        st.metric("Answers rated", _share(stats["feedback_rate"]), border=True)
        st.metric("Waiting", f"{stats['waiting']:,}", border=True, help="Records that no turn has taken yet.")
        st.metric("Learned", f"{stats['learned']:,}", border=True, help="Records that a version has learned.")
        st.metric(
            "Time to learn", "–" if seconds is None else f"{seconds / 3600:.1f} h", border=True, help="Median, from a record to the version that learned it."
        )


def _versions(points: list[dict[str, Any]], metric: str) -> None:
    st.header("Versions", divider="gray")
    names = list(dict.fromkeys(name for point in points for name in point["figures"]))
    if not names:
        st.info("No version has been compared yet. The first turn brings one.", icon=":material/hourglass_empty:")
        return
    chosen = st.selectbox("Figure", names, index=names.index(metric) if metric in names else 0, format_func=lambda n: n.replace("_", " "))
    rows = [
        {
            "version": f"v{p['version']}",
            "verdict": p["verdict"],
            "reason": p["reason"][:120],
            "serving": "yes" if p["champion"] else "no",
            **p["figures"][chosen],
        }
        for p in points
        if chosen in p["figures"]
    ]
    x = alt.X("version:N", sort=None, title=None, axis=alt.Axis(labelAngle=0))
    colour = alt.Color("verdict:N", scale=COLOURS, legend=alt.Legend(orient="top", title=None))
    tips = ["version:N", "verdict:N", alt.Tooltip("value:Q", format=".4g"), alt.Tooltip("gain:Q", format="+.3g"), "reason:N", "serving:N"]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    zero = alt.Chart(alt.Data(values=[{"gain": 0}])).mark_rule(strokeDash=[4, 4], color="#888").encode(y="gain:Q")
    interval = base.mark_rule(strokeWidth=3).encode(y=alt.Y("low:Q", title="gain, 95 % interval"), y2="high:Q", color=colour)
    gain = base.mark_point(filled=True, size=110, opacity=1).encode(y="gain:Q", color=colour, tooltip=tips)
    label = chosen.replace("_", " ")
    st.caption(f"Gain in {label} over the champion of its day, on the same questions: above the line is better.")
    st.altair_chart((zero + interval + gain).properties(height=240, description=f"Gain of each version in {label}, with its interval"), key="gains")
    st.caption(f"{label.capitalize()} of each version; promoted ones are joined.")
    promoted = base.transform_filter("datum.verdict == 'promote'").mark_line(color="#0f8378").encode(y="value:Q")
    value = base.mark_point(filled=True, size=110, opacity=1).encode(y=alt.Y("value:Q", title=label, scale=alt.Scale(zero=False)), color=colour, tooltip=tips)
    st.altair_chart((promoted + value).properties(height=200, description=f"{label} of each version"), key="values")


def _trends(trends: list[dict[str, Any]]) -> None:
    st.header("What people say", divider="gray")
    if not any(t["up"] + t["down"] for t in trends):
        st.info("Nobody has rated an answer in this time.", icon=":material/hourglass_empty:")
        return
    names = sorted({t["version"] for t in trends}, key=lambda v: (v.isdigit(), v.zfill(9)))
    chosen = st.pills("Version", names, selection_mode="multi", key="trend-versions", format_func=lambda v: "base model" if v == "base" else f"version {v}")
    shown = [t for t in trends if not chosen or t["version"] in chosen]
    rows = [
        {"day": t["day"], "version": "base" if t["version"] == "base" else f"v{t['version']}", "said": said, "answers": t[said]}
        for t in shown
        for said in ("up", "down", "corrected")
    ]
    said = alt.Color(
        "said:N", scale=alt.Scale(domain=["up", "down", "corrected"], range=["#0f8378", "#d64545", "#b7791f"]), legend=alt.Legend(orient="top", title=None)
    )
    bars = alt.Chart(alt.Data(values=rows)).mark_bar().encode(
        x=alt.X("day:O", title=None, axis=alt.Axis(labelAngle=0, labelOverlap=True)), xOffset=alt.XOffset("said:N", sort=["up", "down", "corrected"]),
        y=alt.Y("sum(answers):Q", title="answers"), color=said, tooltip=["day:O", "version:N", "said:N", "answers:Q"],
    )  # fmt: skip
    st.altair_chart(bars.properties(height=220, description="Thumbs up, thumbs down and corrections by day"), key="trend")
    tags = [{"tag": tag, "version": t["version"], "n": n} for t in shown for tag, n in t["tags"].items()]
    if tags:
        chart = alt.Chart(alt.Data(values=tags)).mark_bar(color="#0f8378").encode(
            y=alt.Y("tag:N", sort="-x", title=None), x=alt.X("sum(n):Q", title="answers tagged so", axis=alt.Axis(tickMinStep=1, format="d")), tooltip=["tag:N", "sum(n):Q"]
        )  # fmt: skip
        st.altair_chart(chart.properties(description="How answers were tagged"), key="tags")


def _turn(turn: dict[str, Any] | None) -> None:
    st.header("The last turn", divider="gray")
    if turn is None:
        st.info("No turn has ended yet.", icon=":material/hourglass_empty:")
        return
    colour, icon = LOOKS[turn["outcome"]]
    st.markdown(f":{colour}-badge[:material/{icon}: {turn['outcome']}] ended {turn['ended'][:16].replace('T', ' ')} UTC")
    st.write(turn["story"])
    with st.container(horizontal=True):
        for name, count in turn["learned"].items():
            st.metric(name.capitalize(), f"{count:,}", border=True)
        st.metric("Cost", f"{turn['money']:.3g} {turn['currency']}", border=True)
        st.metric("Time", f"{sum(turn['seconds'].values()) / 60:.0f} min", border=True)
    if turn["rules"]:
        kept = sum(rule["outcome"] == "pass" for rule in turn["rules"])
        with st.expander(f"{kept} of {len(turn['rules'])} rules kept", icon=":material/gavel:"):
            order = ("refuse", "hold", "pass", "skip")
            rules = sorted(turn["rules"], key=lambda rule: order.index(rule["outcome"]))
            st.table([{"rule": r["name"].replace("_", " "), "outcome": r["outcome"], "what was found": r["text"]} for r in rules], hide_index=True)
    for name, url in turn["links"].items():
        st.link_button(name, url, icon=":material/description:")


def _data(versions: list[dict[str, Any]]) -> None:
    st.header("Data", divider="gray")
    if not versions:
        st.info("There is no data set version yet.", icon=":material/hourglass_empty:")
        return
    st.table(
        [
            {
                "version": v["id"][:10], "made": v["created"][:16].replace("T", " "), "train": v["records"].get("train", 0), "held out": v["records"].get("heldout", 0),
                "dropped": sum(v["dropped"].values()), "sources": ", ".join(f"{name} {n:,}" for name, n in v["sources"].items()),
            }
            for v in versions
        ],
        hide_index=True,
    )  # fmt: skip
    newest = versions[0]
    if newest["dropped"]:
        st.caption(
            "Dropped on the way to the newest one, by step: " + ", ".join(f"{step.replace('_', ' ')} {n:,}" for step, n in newest["dropped"].items()) + "."
        )
