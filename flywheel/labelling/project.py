"""The project in Label Studio: its labeling config, a task for an item, and what an annotation says.

Wording and layout may be changed in Label Studio; the controls that are read (`CONTROLS`) must stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from flywheel.errors import ContractError, NotFound
from flywheel.labelling.judgements import Judgement
from flywheel.labelling.label_studio import LabelStudio
from flywheel.ledger.review import Decision, ReviewItem
from flywheel.settings import settings

VERDICTS: tuple[Decision, ...] = ("approve", "edit", "reject")
BETTER = ("left", "right", "tie", "both bad")
CONTROLS = {"verdict": "Choices", "better": "Choices", "rating": "Rating", "edited": "TextArea", "comment": "TextArea"}
HOOK = "/v1/webhooks/label-studio"
HEADER = "X-Flywheel-Secret"
ACTIONS = ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED"]
INSTRUCTION = """Is the proposed answer right? Where nobody proposed one, the model's own answer is what is asked about.
approve: it is. edit: it is nearly; write how it should be below. reject: it is not. When in doubt, skip."""


def _choices(name: str, values: Sequence[str], more: str = "") -> str:
    return (
        f'<Choices name="{name}" toName="response" choice="single" showInline="true" {more}>'
        + "".join(f"<Choice value={quoteattr(v)}/>" for v in values)
        + "</Choices>"
    )


CONFIG = f"""<View>
  <Header value="Question"/><Text name="prompt" value="$prompt"/><Text name="input" value="$input"/>
  <View style="display: grid; grid-template-columns: 1fr 1fr; gap: 1em">
    <View><Header value="Left: the model's answer"/><Text name="response" value="$response"/></View>
    <View><Header value="Right: the proposed answer"/><Text name="proposal" value="$proposal"/></View>
  </View>
  <Header value="Which is better? (where there are two)"/>{_choices("better", BETTER)}
  <Header value="Verdict"/>{_choices("verdict", VERDICTS, 'required="true" requiredMessage="Give a verdict, or skip the task."')}
  <Header value="Rating of the model's answer"/><Rating name="rating" toName="response" maxRating="5"/>
  <Header value="The answer as it should be (for edit)"/><TextArea name="edited" toName="response" rows="6" editable="true" maxSubmissions="1"/>
  <Header value="Comment"/><TextArea name="comment" toName="response" rows="2" editable="true" maxSubmissions="1"/>
</View>"""


def create(studio: LabelStudio, title: str, annotators: int) -> int:
    """A new project; its id."""
    body = {"title": title, "label_config": CONFIG, "maximum_annotations": annotators, "expert_instruction": INSTRUCTION, "show_instruction": True}
    return int(studio.call("POST", "/api/projects", json=body)["id"])


def named(studio: LabelStudio, title: str) -> int | None:
    """The project of this very title, if there is one."""
    return min((one["id"] for one in studio.pages("/api/projects", "results") if one["title"] == title), default=None)


def look(studio: LabelStudio, project: int) -> dict[str, Any]:
    """The project, if it can be read still. Raises NotFound when it was deleted, ContractError when a control that is read has gone."""
    found: dict[str, Any] = studio.call("GET", f"/api/projects/{project}")
    controls = found.get("parsed_label_config") or {}
    lost = [name for name, kind in CONTROLS.items() if controls.get(name, {}).get("type") != kind]
    lost += [f"verdict={value}" for value in VERDICTS if "verdict" not in lost and value not in controls["verdict"]["labels"]]
    if lost:
        mend = f"Put back {', '.join(f'`{name}`' for name in lost)} in its settings, or delete the project: what waits is then pushed to a new one."
        raise ContractError("its labeling config was changed and can no longer be read", where=f"{studio.url}/projects/{project}", mend=mend)
    return found


def hook(studio: LabelStudio, project: int) -> None:
    """Let the project knock at serving; once, and again when the address or the secret has changed."""
    if not settings().label_studio_secret:
        return
    wanted = {"url": f"{settings().serving_url}{HOOK}", "headers": {HEADER: settings().label_studio_secret}}
    ours = [one for one in studio.call("GET", "/api/webhooks/", params={"project": project}) if one["url"].endswith(HOOK)]
    body = {**wanted, "project": project, "actions": ACTIONS, "send_for_all_actions": False, "send_payload": True, "is_active": True}
    for one in ours[1:]:
        studio.call("DELETE", f"/api/webhooks/{one['id']}/")
    if not ours:
        studio.call("POST", "/api/webhooks/", json=body)
    elif {key: ours[0][key] for key in wanted} != wanted or not ours[0]["is_active"]:
        studio.call("PATCH", f"/api/webhooks/{ours[0]['id']}/", json=body)


def task_of(item: ReviewItem) -> dict[str, Any]:
    """An item as Label Studio imports it; what the answer might become is its prediction."""
    data = {"item": item.id, "feedback": item.feedback_id or "", "answer": item.answer_id, "model_version": item.model_version, "reason": item.reason}
    data |= {"prompt": item.prompt, "input": item.input, "response": item.response, "proposal": item.correction or ""}
    said = {"from_name": "edited", "to_name": "response", "type": "textarea", "value": {"text": [item.correction or item.response]}}
    return {"data": data, "predictions": [{"model_version": f"version {item.model_version}", "result": [said]}]}


def judgement(annotation: Mapping[str, Any], data: Mapping[str, Any], people: Mapping[int, str]) -> Judgement:
    """What an annotation says; one that cannot count says why in `problem`."""
    said: dict[str, Any] = {}
    for part in annotation["result"]:
        if part.get("from_name") in CONTROLS:
            said[part["from_name"]] = next(iter(part["value"].values()), None)
    by = annotation["completed_by"]
    by = by["id"] if isinstance(by, dict) else by  # a single task says more of them
    verdict, text, better = (_first(said.get(name)) for name in ("verdict", "edited", "better"))
    shown = str(data.get("proposal") or data.get("response") or "").strip()
    changed = bool(text) and text != shown
    problem = ""
    decision: Decision | None = "skip" if annotation["was_cancelled"] else next((v for v in VERDICTS if v == verdict), None)
    if decision is None:
        problem = "it has no verdict: open it, choose one and update it, or skip it"
    elif decision == "edit" and not changed:
        problem = "it says edit and leaves the answer as it was: write how it should be, or choose another verdict"
    elif decision in ("approve", "reject") and changed:
        problem = f"it says {decision} and yet changes the answer: choose edit, or put the text back"
    return Judgement(
        key=str(annotation["id"]), annotator=people.get(by, f"user {by}"), changed=annotation["updated_at"], decision=decision,
        correction=text if decision == "edit" else None, rating=said.get("rating"), better=better or None, comment=_first(said.get("comment")) or None, problem=problem,
    )  # fmt: skip


def _first(value: Any) -> str:
    """A control's text: Label Studio gives a list, or what a single line holds."""
    return str((value[0] if value else "") if isinstance(value, list) else value or "").strip()


def find(studio: LabelStudio, title: str, annotators: int, known: int | None) -> tuple[int, str]:
    """The project to push to: the one we know, or one of this title, or a new one; and a sentence when the one we know was deleted."""
    said = ""
    if known is not None:
        try:
            return int(look(studio, known)["id"]), said
        except NotFound:
            said = f"project {known} was deleted in Label Studio: what waits is pushed anew."
    found = named(studio, title)
    return (create(studio, title, annotators) if found is None else int(look(studio, found)["id"])), said
