"""infra/helm/flywheel: its objects belong together, ask for no more than they need, and say what the code reads.

.venv/infra/bin/python -m pytest --confcutdir tests/infra tests/infra/chart
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="make test-infra")
from tests.infra.chart.cases import BASE, CASES, CHART, DIGEST, MONITORING, ROOT, TERRAFORM, named, of_kind, render  # noqa: E402


def pods(objects) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, labels, spec) of each pod or template of one."""
    found = []
    for one in of_kind(objects, "Pod", "Deployment", "Job"):
        pod = one if one["kind"] == "Pod" else one["spec"]["template"]
        found.append((one["metadata"]["name"], pod["metadata"]["labels"], pod["spec"]))
    return found


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted_and_its_root_file_system_read_only(rendered, case):
    for name, _, spec in (pod for upgrade in (False, True) for pod in pods(rendered(case, upgrade))):
        secure = spec["securityContext"]
        assert secure["runAsNonRoot"] and secure["runAsUser"] > 0 and secure["seccompProfile"]["type"] == "RuntimeDefault", name
        assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"], name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec) and all({"emptyDir", "secret"} & set(v) for v in spec.get("volumes", [])), name
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, name
            assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"], name
            assert not container["image"].endswith(":latest"), name
            mounted = {one["name"] for one in container.get("volumeMounts", [])}
            assert mounted <= {one["name"] for one in spec.get("volumes", [])}, name


@pytest.mark.parametrize("case", CASES)
def test_what_names_a_pod_finds_one(rendered, case):
    objects = rendered(case)
    labels = [found for _, found, _ in pods(objects)]
    deployments = {one["metadata"]["name"]: one for one in of_kind(objects, "Deployment")}
    for one in of_kind(objects, "Service", "PodDisruptionBudget", "Deployment"):
        if one["metadata"]["name"] == "flywheel-train":
            continue  # of stages' pods
        selector = one["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert sum(wanted.items() <= found.items() for found in labels) == 1, one["metadata"]["name"]
    for one in of_kind(objects, "NetworkPolicy"):
        wanted = one["spec"]["podSelector"]["matchLabels"]
        assert "matchExpressions" in one["spec"]["podSelector"] or any(wanted.items() <= found.items() for found in labels) or case == "alone", one["metadata"]
    for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        assert "replicas" not in deployments[one["spec"]["scaleTargetRef"]["name"]]["spec"]
    for one in deployments.values():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe")} <= ports
        for constraint in one["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == one["spec"]["selector"]["matchLabels"]
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names)), sorted(names)


@pytest.mark.parametrize("case", CASES)
def test_every_variable_is_a_setting_that_the_code_reads(rendered, case):
    def fields(path: str, name: str) -> set[str]:
        (found,) = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.ClassDef) and node.name == name]
        return {node.target.id.upper() for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}

    known = {f"FLYWHEEL_{name}" for name in fields("flywheel/settings.py", "Settings")} | {
        f"FLYWHEEL_SERVING_{name}" for name in fields("serving/settings.py", "Serving")
    }
    found = set(named(rendered(case), "ConfigMap", "flywheel-environment")["data"])
    found |= {name for _, _, spec in pods(rendered(case)) for container in spec["containers"] for name in environment(container)}
    assert {name for name in found if name.startswith("FLYWHEEL_")} <= known


def test_serving_drains_before_it_is_killed_and_an_upgrade_never_has_fewer(rendered):
    deployment = named(rendered("default"), "Deployment", "flywheel-serving")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    spec = deployment["spec"]["template"]["spec"]
    variables = environment(spec["containers"][0])
    drain, longest = float(variables["FLYWHEEL_SERVING_DRAIN_SECONDS"]), float(variables["FLYWHEEL_SERVING_REQUEST_SECONDS"])
    idle = int(re.search(r"timeout_keep_alive=(\d+)", (ROOT / "serving" / "__main__.py").read_text()).group(1))
    assert drain > idle and spec["terminationGracePeriodSeconds"] >= drain + longest
    for name in ("flywheel-ui", "flywheel-mlflow"):
        template = named(rendered("default"), "Deployment", name)["spec"]["template"]["spec"]
        assert template["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"


def test_pods_are_made_anew_when_the_environment_changes(chart):
    def checksum(**more: Any) -> str:
        text = render(chart, {**BASE, **more})["flywheel/templates/serving.yaml"]
        return next(yaml.safe_load_all(text))["spec"]["template"]["metadata"]["annotations"]["checksum/environment"]

    assert checksum() == checksum() != checksum(modelName="other")


@pytest.mark.parametrize("case", ["keda", "to-zero", "staging", "prod"])
def test_a_scaled_object_says_what_keda_reads(rendered, case):
    (found,) = of_kind(rendered(case), "ScaledObject")
    spec, wanted = found["spec"], named(rendered(case), "Deployment", "flywheel-serving")
    assert wanted["metadata"]["name"] == spec["scaleTargetRef"]["name"]
    for trigger in spec["triggers"]:
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert trigger["metadata"]["ignoreNullValues"] == "false" and "metricName" not in trigger["metadata"]
        assert trigger["metricType"] == "AverageValue"  # the fallback knows no other
    assert 0 < spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    requests = spec["triggers"][0]["metadata"]["query"]
    if case == "to-zero":  # what is at the gateway is known when no replica is there to be asked
        assert spec["minReplicaCount"] == 0 and "flywheel_" not in requests and 'proxy="flywheel-serving"' in requests
        assert spec["triggers"][1]["metadata"]["query"].endswith("or vector(0)")
    else:
        assert spec["minReplicaCount"] >= 2
        assert "flywheel_queued_requests" in requests and "flywheel_running_requests" in requests
    names = {name for trigger in spec["triggers"] for name in re.findall(r"flywheel_\w+", trigger["metadata"]["query"])}
    served = "".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    assert all(f'"{name}"' in served for name in names)


def test_rules_and_dashboards_are_those_of_the_repository_and_are_not_copied(rendered):
    objects = rendered("everything")
    for path in sorted((MONITORING / "rules").glob("*.yaml")):
        groups = yaml.safe_load(path.read_text().replace("{{ $externalLabels.runbook }}", "https://example.org/runbook"))["groups"]
        found = named(objects, "PrometheusRule", f"flywheel-rules-{path.stem}")
        assert found["spec"]["groups"] == groups and found["metadata"]["labels"]["release"] == "monitoring"
    boards = sorted((MONITORING / "grafana").glob("*.json"))
    assert len(boards) > 3
    for path in boards:
        found = named(objects, "ConfigMap", f"flywheel-dashboard-{path.stem}")
        assert json.loads(found["data"][f"flywheel-{path.name}"]) == json.loads(path.read_text())
    assert {one.name for one in (CHART / "files").iterdir() if one.is_symlink()} == {one.name for one in (CHART / "files").iterdir()} == {"grafana", "rules"}
    jobs = {one["metadata"]["labels"][one["spec"]["jobLabel"]] for one in of_kind(objects, "ServiceMonitor")}
    assert jobs == {"serving", "exporter"}  # by which the rules ask


def test_the_package_holds_the_rules_and_the_dashboards(chart, tmp_path):
    files = {one["name"] for one in helm.Chart.load(helm.package(chart, destination=tmp_path)).files}
    assert {f"files/{path.parent.name}/{path.name}" for folder in ("rules", "grafana") for path in (MONITORING / folder).iterdir()} <= files


def test_service_accounts_are_those_that_pods_and_terraform_name(rendered):
    ours = {one["metadata"]["name"] for one in of_kind(rendered("terraform"), "ServiceAccount")}
    stages = yaml.safe_load((ROOT / "config" / "pods.yaml").read_text())["stages"].values()
    assert {stage["service_account"] for stage in stages} <= ours
    terraform = (ROOT / "infra" / "terraform" / "modules" / "platform" / "access.tf").read_text()
    assert set(re.findall(r"^    (flywheel-\w+) += \{ (?:read|write)", terraform, re.MULTILINE)) == ours
    serving = named(rendered("terraform"), "ServiceAccount", "flywheel-serving")
    assert serving["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].endswith("role/flywheel-serving")
    assert [one["metadata"]["name"] for one in of_kind(rendered("terraform"), "ServiceAccount") if one["automountServiceAccountToken"]] == ["flywheel-airflow"]


def test_terraforms_output_is_taken_as_values():
    text = (ROOT / "infra" / "terraform" / "modules" / "platform" / "outputs.tf").read_text()
    block = text[text.index('output "helm_values"') :]
    keys = set(re.findall(r"^    (\w+) += ", block, re.MULTILINE))
    assert keys == set(TERRAFORM)


def test_the_chart_brings_what_stages_need_and_airflow_may_do_no_more(rendered):
    """The same as infra/kubernetes/stages.yaml, which tests/cluster tries on a real API server."""
    by_hand = list(yaml.safe_load_all((ROOT / "infra" / "kubernetes" / "stages.yaml").read_text()))
    ours = rendered("default")
    (role,) = of_kind(ours, "Role")
    assert role["rules"] == of_kind(by_hand, "Role")[0]["rules"]
    assert named(ours, "Service", "flywheel-train")["spec"] == of_kind(by_hand, "Service")[0]["spec"]
    (training,) = of_kind(ours, "PriorityClass")
    assert {k: v for k, v in training.items() if k != "metadata"} == {k: v for k, v in of_kind(by_hand, "PriorityClass")[0].items() if k != "metadata"}
    assert {one["metadata"]["name"] for one in of_kind(by_hand, "ServiceAccount")} <= {one["metadata"]["name"] for one in of_kind(ours, "ServiceAccount")}
    (binding,) = of_kind(ours, "RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "flywheel-airflow", "namespace": "team"}]
    assert not of_kind(rendered("everything"), "ClusterRole", "ClusterRoleBinding")


def test_a_pods_file_of_ones_own_reaches_airflow(rendered):
    objects = rendered("everything")
    assert yaml.safe_load(named(objects, "ConfigMap", "flywheel-pods")["data"]["pods.yaml"]) == CASES["everything"]["stages"]["pods"]
    airflow = json.loads(named(objects, "ConfigMap", "airflow-stub")["data"]["values"])
    path = named(objects, "ConfigMap", "flywheel-environment")["data"]["FLYWHEEL_PODS"]
    assert path == f"{airflow['volumeMounts'][0]['mountPath']}/pods.yaml" and airflow["volumes"][0]["configMap"]["name"] == "flywheel-pods"
    assert "FLYWHEEL_PODS" not in named(rendered("default"), "ConfigMap", "flywheel-environment")["data"]


def test_the_first_migration_waits_for_nothing_that_comes_later(rendered):
    """A hook runs before the installation's own objects are there: it may use Secrets, which people made, and nothing else."""
    job = named(rendered("default"), "Job", "flywheel-migrations")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "default" and [c["args"][1:] for c in spec["containers"]] == [["-m", "flywheel", "migrate"]]
    assert not any("envFrom" in container for container in spec["containers"])
    upgrade = named(rendered("default", upgrade=True), "Job", "flywheel-migrations")["spec"]["template"]["spec"]["containers"]
    assert [container["name"] for container in upgrade] == ["ledger", "mlflow"]
    own = named(rendered("everything"), "Job", "flywheel-migrations")  # its own database comes with the installation
    assert own["metadata"]["annotations"]["helm.sh/hook"].startswith("post-install")


def test_helm_test_asks_every_part(rendered):
    (pod,) = of_kind(rendered("default"), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    urls = pod["spec"]["containers"][0]["args"][3:]
    services = {f"{one['metadata']['name']}:{one['spec']['ports'][0]['port']}" for one in of_kind(rendered("default"), "Service") if "ports" in one["spec"]}
    assert {re.match(r"http://([^/]+)/", url).group(1) for url in urls} == services
    compile(pod["spec"]["containers"][0]["args"][2], "the test", "exec")


def test_nothing_is_shown_without_tls_and_of_serving_only_the_api(rendered):
    shown = of_kind(rendered("everything"), "Ingress")
    assert {one["spec"]["rules"][0]["host"] for one in shown} == {"api.example.org", "flywheel.example.org"}
    for one in shown:
        assert one["spec"]["tls"] == [{"hosts": [one["spec"]["rules"][0]["host"]], "secretName": "flywheel-tls"}]
    (api,) = named(shown, "Ingress", "flywheel-serving")["spec"]["rules"][0]["http"]["paths"]
    assert api["path"] == "/v1" and not of_kind(rendered("prod"), "Ingress")


def test_nobody_is_let_in_whom_no_policy_names(rendered):
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(rendered("default"), "NetworkPolicy")}
    closed = policies["flywheel-closed"]
    assert closed["policyTypes"] == ["Ingress"] and "ingress" not in closed
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"] and all(peer for peer in rule["from"]), name  # an empty list lets everybody in
    named_labels = [found for _, found, _ in pods(rendered("default"))]
    assert all(closed["podSelector"]["matchLabels"].items() <= found.items() for found in named_labels)
    (stages,) = [spec for spec in policies.values() if "matchExpressions" in spec["podSelector"]]
    assert stages["podSelector"]["matchExpressions"] == [{"key": "app.kubernetes.io/instance", "operator": "DoesNotExist"}]


def test_an_image_is_named_by_its_digest_where_one_is_given(rendered):
    images = {name: spec["containers"][0]["image"] for name, _, spec in pods(rendered("everything"))}
    assert images["flywheel-serving"] == f"local/flywheel/serving@{DIGEST}" and images["flywheel-ui"] == f"local/flywheel/ui@{DIGEST}"
    assert {name: spec["containers"][0]["image"] for name, _, spec in pods(rendered("default"))}["flywheel-ui"] == "local/flywheel/ui:dev"


def test_the_charts_below_are_pinned_off_by_default_and_get_their_values(rendered):
    for dependency in yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", dependency["version"]) and dependency["condition"].endswith(".enabled")
    assert not [one for one in of_kind(rendered("prod"), "ConfigMap") if one["metadata"]["name"].endswith("-stub")]
    airflow = json.loads(named(rendered("everything"), "ConfigMap", "airflow-stub")["data"]["values"])
    terraform = (ROOT / "infra" / "terraform" / "modules" / "platform" / "access.tf").read_text()
    for secret in (airflow["data"]["metadataSecretName"], airflow["fernetKeySecretName"], airflow["jwtSecretName"]):
        assert re.search(rf"^    {secret} +=", terraform, re.MULTILINE), secret
    assert airflow["airflowVersion"] in (ROOT / "requirements" / "airflow.in").read_text()


def test_helm_lint_finds_nothing(chart):
    report = helm.lint(chart, BASE, strict=True, kube_version="v1.32.0")
    assert not report["errors"] and not [m for m in report["messages"] if m["severity"] > 1], report
