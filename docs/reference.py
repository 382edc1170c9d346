"""Write docs/reference/ from the code: settings, config, stages, commands, API, metrics, DAGs.

    .venv/ml/bin/python -m docs.reference            # `make docs` does it first; a test says when it was forgotten

What can be read without being imported is (the stages' docstrings, the metrics, the DAGs): no Airflow and no model library is needed.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/reference.py from the code: change it there. -->\n"
METRICS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "figure": "gauge"}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; nothing when it has no rows."""
    if not rows:
        return ""
    clean = [[cell.replace("|", "\\|").replace("\n", " ").replace("<", "<" if cell.startswith("`") else "&lt;") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *clean)) + "\n\n"


def code(text: str) -> str:
    """As code, or nothing for nothing."""
    return f"`{text}`" if text else ""


# --- settings and config -------------------------------------------------------------------------------------------------------


def type_of(annotation: Any) -> str:
    """A type as people write it."""
    if get_origin(annotation) is Literal:
        return ", ".join(str(value) or '""' for value in get_args(annotation))
    if get_origin(annotation) is not None:
        return re.sub(
            r"\b(typing|pathlib|flywheel|annotated_types|pydantic)[\w.]*\.|, FieldInfo\(.*?\)|Annotated", "", str(annotation).replace("NoneType", "null")
        )
    return getattr(annotation, "__name__", str(annotation))


def default_of(field: FieldInfo) -> str:
    """A default as YAML would write it; a section's is its fields'."""
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple | list) and any(isinstance(one, BaseModel) for one in value):
        return "see the file"
    if isinstance(value, Path):
        return str(value).replace(str(ROOT) + "/", "")
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, default=str) if value is not None else "null"


def environment(model: type[BaseModel], prefix: str) -> str:
    """The variables of a settings class."""
    rows = [(code(f"{prefix}{n.upper()}"), code(default_of(f)) if default_of(f) != '""' else "", f.description or "") for n, f in model.model_fields.items()]
    return table(("variable", "default", "meaning"), rows)


def settings() -> str:
    """Environment variables."""
    from flywheel.settings import Settings
    from serving.settings import Serving

    text = "# Settings\n\nWhere things are: environment variables, or lines of `.env` (the Makefile reads it). `.env.example` has them all.\n\n"
    text += environment(Settings, "FLYWHEEL_")
    return text + "## The inference service\n\n" + environment(Serving, "FLYWHEEL_SERVING_")


def sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """A section and those inside it."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            yield from sections(inner, f"{path}.{field.alias or name}")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field holds: itself, or the kinds in its list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) if not isinstance(part, str) for found in models_in(part)]


def config() -> str:
    """Every key of the YAML."""
    from flywheel.config import Config

    text = (
        "# Config\n\nWhat a turn does: the keys of `.flywheel/config.yaml`, which extends `config/flywheel.yaml`. A key that is not here is refused.\n"
        "`--set section.key=value` changes one for a run.\n\n"
    )
    own = {name: field for name, field in Config.model_fields.items() if not models_in(field.annotation)}
    text += table(
        ("key", "default", "meaning"), [(code(name), code(default_of(field)), field.description or "Of every random choice") for name, field in own.items()]
    )
    seen: set[tuple[str, type[BaseModel]]] = set()
    for name, field in Config.model_fields.items():
        for top in models_in(field.annotation):
            for path, model in sections(top, field.alias or name):
                if (path, model) in seen:
                    continue
                seen.add((path, model))
                kind = model.model_fields.get("kind") or model.model_fields.get("step")
                value = (
                    f" ({kind.default})" if kind is not None and isinstance(kind.default, str) else f" ({', '.join(get_args(kind.annotation))})" if kind else ""
                )
                text += f"{'#' * min(2 + path.count('.'), 4)} {path}{value}\n\n{(model.__doc__ or '').strip()}\n\n"
                rows = [
                    (code(f.alias or n), type_of(f.annotation), code(default_of(f)), f.description or "")
                    for n, f in model.model_fields.items()
                    if not models_in(f.annotation) and n not in ("kind", "step")
                ]
                text += table(("key", "type", "default", "meaning"), rows)
    return text


# --- what is read without being imported ---------------------------------------------------------------------------------------


def modules(folder: str, pattern: str = "*.py") -> Iterator[tuple[Path, ast.Module]]:
    """The syntax trees of a folder's modules."""
    for path in sorted((ROOT / folder).rglob(pattern)):
        yield path, ast.parse(path.read_text())


def stages() -> str:
    """The stages: what each does, reads and writes."""
    text = (
        "# Stages\n\nEach is `python -m tasks.<stage> --config URI --run-dir URI [--set key=value …]`, here or in a pod. Exit codes: 0 done; 2 config or\n"
        "contract, 3 data, neither is retried; 75 something outside, 143 stopped after a checkpoint, both are retried.\n\n"
    )
    for path, tree in modules("tasks", "*.py"):
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "stage.Stage"]
        if path.parent.name == "tasks" and calls:
            needs = next((ast.literal_eval(k.value) for k in calls[0].keywords if k.arg == "needs"), ())
            words = (ast.get_docstring(tree) or "").replace("\n    python -m", "\n```text\npython -m")
            words = re.sub(r"(```text\n[^\n]+)\n", r"\1\n```\n", words)
            text += f"## {path.stem}\n\n{words}\n\n" + (f"Reads what these have written: {', '.join(needs)}.\n\n" if needs else "")
    return text


def metrics() -> str:
    """Every figure for Prometheus."""
    rows: list[tuple[str, ...]] = []
    for folder in ("flywheel", "serving", "rag"):
        for path, tree in modules(folder):
            for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
                kind = METRICS.get(ast.unparse(call.func).split(".")[-1])
                words = [a.value for a in call.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                if kind and len(words) == 2:
                    named = [ast.literal_eval(a) for a in call.args[2:] if isinstance(a, ast.List | ast.Constant)]
                    labels = [x for one in named for x in (one if isinstance(one, list) else [one]) if isinstance(x, str)]
                    name = words[0] if words[0].startswith("flywheel_") else f"flywheel_{words[0]}"
                    rows.append((code(name), kind, ", ".join(map(code, labels)), words[1], path.relative_to(ROOT).as_posix()))
    text = "# Metrics\n\nServing's are at its `/metrics`, the others at the exporter's; Airflow's own are beside those. [Monitoring](../monitoring.md) says what they are for.\n\n"
    return text + table(("metric", "kind", "labels", "meaning", "where"), sorted(rows))


def dags() -> str:
    """The DAGs, and the fields of their forms."""
    text = "# DAGs\n\nThe fields are those of the trigger form, and the keys of `conf` over REST.\n\n"
    forms = ast.parse((ROOT / "dags" / "launch" / "params.py").read_text())
    functions = {n.name: n for n in forms.body if isinstance(n, ast.FunctionDef)}
    constants = {ast.unparse(n.targets[0]): n.value for n in forms.body if isinstance(n, ast.Assign)}
    for _path, tree in modules("dags", "*_dag.py"):
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "DAG"):
            named = {k.arg: k.value for k in call.keywords}
            schedule = ast.unparse(named["schedule"]) if "schedule" in named else "None"
            text += f"## {ast.literal_eval(call.args[0])}\n\n{(ast.get_docstring(tree) or '').splitlines()[0]}\n\n"
            text += f"Schedule: {'by hand' if schedule == 'None' else code(schedule)}.\n\n"
            if "params" in named:
                text += table(("field", "default", "allowed", "meaning"), list(params(named["params"], functions, constants)))
    return text


def params(node: ast.expr, functions: dict[str, ast.FunctionDef], constants: dict[str, ast.expr]) -> Iterator[tuple[str, ...]]:
    """The fields of a form: of a dictionary, those it takes in, and what functions of `dags.launch.params` return."""

    def read(value: ast.expr | None) -> Any:
        try:
            return ast.literal_eval(ast.unparse(Constants(constants).visit(value))) if value is not None else None
        except ValueError:
            return ast.unparse(value) if value is not None else None

    if isinstance(node, ast.Call) and (found := functions.get(ast.unparse(node.func).split(".")[-1])):
        returned = next(n.value for n in ast.walk(found) if isinstance(n, ast.Return) and n.value is not None)
        yield from params(returned, functions, constants)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                yield from params(value, functions, constants)
            elif isinstance(value, ast.Call):
                named = {k.arg: k.value for k in value.keywords}
                allowed = read(named.get("enum")) or read(named.get("type")) or ""
                shown = ", ".join(map(str, allowed)) if isinstance(allowed, list) else str(allowed)
                title, text = read(named.get("title")) or "", read(named.get("description")) or ""
                text = f": {text}" if text and text != "text" and not text.startswith("f'") else ""
                yield code(str(read(key))), code(json.dumps(read(value.args[0]))), shown, f"{title}{text}"


class Constants(ast.NodeTransformer):
    """Puts a module's constants in the place of their names."""

    def __init__(self, known: dict[str, ast.expr]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """One name."""
        return self.known.get(node.id, node)


# --- commands and API ----------------------------------------------------------------------------------------------------------


def commands() -> str:
    """What `python -m flywheel` knows, and the Makefile's targets."""
    from flywheel.cli import app

    text = "# Commands\n\n## python -m flywheel\n\nIn the environment `.venv/ml`, or `.venv/client` (`make client`) to reach an installation elsewhere. Exit codes are those of the stages.\n\n"
    text += "".join(_command(name, one) for name, one in _walk(typer.main.get_command(app), ""))
    targets = re.findall(r"^([a-z -]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.M)
    return text + "## make\n\n" + table(("target", "what it does"), [(code(names), what) for names, what in targets])


def _walk(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, one in sorted(group.commands.items()):
        if hasattr(one, "commands"):
            yield from _walk(one, f"{before}{name} ")
        else:
            yield before + name, one


def _command(name: str, one: Any) -> str:
    rows = []
    for param in one.params:
        shown = param.metavar or param.name.upper() if param.param_type_name == "argument" else ", ".join((*param.opts, *param.secondary_opts))
        default = "" if param.required or param.default in (None, False, (), "") or callable(param.default) else code(str(param.default))
        rows.append((code(shown), "required" if param.required else default, getattr(param, "help", None) or ""))
    return f"### {name}\n\n{(one.help or '').strip()}\n\n" + table(("argument", "default", "meaning"), rows)


def api() -> str:
    """The inference service's operations."""
    from serving.app import app

    schema = app.openapi()
    text = "# HTTP API\n\nThe service's own page is `/docs`, its OpenAPI document `/openapi.json`. How to use it: [Serving](../serving.md).\n\n"
    for path, operations in schema["paths"].items():
        for method, told in operations.items():
            text += f"## {method.upper()} {path}\n\n{(told.get('description') or told.get('summary') or '').strip()}\n\n"
            fields = [(code(p["name"]), p["in"], "required" if p.get("required") else "", p.get("description", "")) for p in told.get("parameters", [])]
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            model = schema.get("components", {}).get("schemas", {}).get(body.get("$ref", "").rsplit("/", 1)[-1], {})
            required = set(model.get("required", ()))
            fields += [(code(n), "body", "required" if n in required else "", p.get("description", "")) for n, p in model.get("properties", {}).items()]
            text += table(("field", "in", "", "meaning"), fields)
            text += f"Answers: {', '.join(sorted(told['responses']))}.\n\n"
    return text


PAGES = {"settings": settings, "config": config, "stages": stages, "commands": commands, "api": api, "metrics": metrics, "dags": dags}


def write() -> None:
    """Write every page."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / f"{name}.md").write_text(NOTE + "\n" + page().rstrip() + "\n")


if __name__ == "__main__":
    write()
