"""Bad values are refused, by name."""

from __future__ import annotations

import pytest

helm = pytest.importorskip("helm_python", reason="make test-infra")
from tests.infra.chart.cases import BASE, DIGEST, INGRESS, render, scaled  # noqa: E402

BAD = {
    "sevring": ({"sevring": {}}, "sevring"),
    "an unknown key below": ({"serving": {"replica": 3}}, "/serving"),
    "text for a number": ({"serving": {"replicas": "three"}}, "/serving/replicas"),
    "a number for text": ({"store": 3}, "/store"),
    "a store without a scheme": ({"store": "bucket/prefix"}, "/store"),
    "an engine there is none of": ({"serving": {"engine": "vllm"}}, "/serving/engine"),
    "no door": ({"serving": {"auth": False}}, "/serving/auth"),
    "a setting in small letters": ({"serving": {"settings": {"max_batch": "3"}}}, "/serving/settings"),
    "a setting that is no text": ({"serving": {"settings": {"MAX_BATCH": 3}}}, "/serving/settings/MAX_BATCH"),
    "memory in megabytes": ({"serving": {"resources": {"requests": {}, "limits": {"memory": "4 GB"}}}}, "/serving/resources/limits/memory"),
    "no limits": ({"ui": {"resources": {"limits": None}}}, "/ui/resources"),
    "a digest that is none": ({"image": {"digests": {"serving": "latest"}}}, "/image/digests/serving"),
    "an image there is none of": ({"image": {"digests": {"worker": DIGEST}}}, "/image/digests"),
    "to zero without keda": (scaled(kind="hpa", toZero={"enabled": True, "backend": "x"}), "/serving/autoscaling/kind"),
    "to zero without a gateway": (scaled(kind="keda", toZero={"enabled": True}), "/serving/autoscaling/toZero"),
    "an ingress without TLS": ({"ingress": {**INGRESS, "tlsSecret": ""}}, "/ingress/tlsSecret"),
    "an ingress for nobody": ({"ingress": {"enabled": True, "tlsSecret": "x"}}, "/ingress"),
    "two exporters": ({"exporter": {"replicas": 2}}, "/exporter/replicas"),
    "a port beyond the last": ({"networkPolicy": {"egressPorts": [70000]}}, "/networkPolicy/egressPorts/0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_and_named(chart, case):
    values, where = BAD[case]
    with pytest.raises(helm.HelmValuesError) as refused:
        render(chart, {**BASE, **values})
    assert f"'{where}" in str(refused.value), str(refused.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "store is needed"),
        ({**BASE, "mlflow": {"enabled": False}}, "mlflow.url is needed"),
        (scaled(kind="keda", min=9, max=3), "raise max"),
        ({**BASE, "serving": {"auth": "off"}, "ingress": INGRESS}, "take one of them back"),
    ],
)
def test_what_no_schema_can_say_is_a_sentence(chart, values, says):
    with pytest.raises(helm.HelmRenderError, match=says):
        render(chart, values)
