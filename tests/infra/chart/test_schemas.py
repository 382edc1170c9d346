"""Everything that the chart renders is what Kubernetes 1.30 to 1.35, KEDA and Prometheus Operator take, strictly."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("kubernetes_validate")
from kubernetes_validate.utils import schema_contents  # noqa: E402
from referencing import Registry, Resource  # noqa: E402

from tests.infra.chart.cases import CASES, named, of_kind  # noqa: E402

VERSIONS = ("1.30.0", "1.31.0", "1.32.0", "1.33.0", "1.34.0", "1.35.0")


@cache
def kubernetes_schema(version: str, kind: str, api: str) -> Any:
    """Kubernetes' own schema of a kind, in its strict form: no field that it does not know."""
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    own = Resource.from_contents(schema_contents(f"{folder}/{kind.lower()}-{group}.json", version))
    return jsonschema.Draft202012Validator(own.contents, registry=own @ (definitions(version) @ Registry()))


@cache
def definitions(version: str) -> Any:
    return Resource.from_contents(schema_contents(f"kubernetes-json-schema/v{version}-local-strict/_definitions.json", version))


@cache
def custom_schema(kind: str) -> Any:
    """The schema of a custom resource's definition, as KEDA 2.16 and Prometheus Operator 0.80 have it, made strict."""
    import cloudcoil.models.keda.v1alpha1 as keda
    import cloudcoil.models.prometheus_operator.v1 as operator

    schema = getattr(keda if kind == "ScaledObject" else operator, kind).model_json_schema(by_alias=True)

    def strict(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node:
                node["additionalProperties"] = False
            for value in node.values():
                strict(value)
        elif isinstance(node, list):
            for value in node:
                strict(value)

    strict(schema)
    schema["$defs"].pop("ObjectMeta", None)
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_what_this_version_of_kubernetes_takes(rendered, case, version):
    objects = {json.dumps(one, sort_keys=True) for upgrade in (False, True) for one in rendered(case, upgrade)}
    assert len(objects) > 10 or case == "alone"
    for text in objects:
        one = json.loads(text)
        if one["kind"] in ("ScaledObject", "ServiceMonitor", "PrometheusRule"):
            continue
        error = jsonschema.exceptions.best_match(kubernetes_schema(version, one["kind"], one["apiVersion"]).iter_errors(one))
        assert error is None, f"{one['kind']} {one['metadata']['name']}: {error.json_path}: {error.message}"


@pytest.mark.parametrize("case", ["keda", "to-zero", "prod", "staging", "everything"])
def test_every_custom_object_is_what_its_definition_takes(rendered, case):
    found = of_kind(rendered(case), "ScaledObject", "ServiceMonitor", "PrometheusRule")
    assert found
    for one in found:
        error = jsonschema.exceptions.best_match(custom_schema(one["kind"]).iter_errors(one))
        assert error is None, f"{one['kind']} {one['metadata']['name']}: {error.json_path}: {error.message}"


def test_the_strict_schemas_do_refuse(rendered):
    deployment = json.loads(json.dumps(named(rendered("default"), "Deployment", "flywheel-serving")))
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert list(kubernetes_schema("1.32.0", "Deployment", "apps/v1").iter_errors(deployment))
    scaled_object = json.loads(json.dumps(of_kind(rendered("keda"), "ScaledObject")[0]))
    scaled_object["spec"]["triggers"][0]["metadata"]["threshold"] = 8
    assert list(custom_schema("ScaledObject").iter_errors(scaled_object))
    scaled_object["spec"]["triggers"][0]["metadata"]["threshold"] = "8"
    scaled_object["spec"]["minReplicas"] = 1
    assert list(custom_schema("ScaledObject").iter_errors(scaled_object))
