"""infra/terraform: format, types, its own tests, checkov, the plan of each environment, and a whole life on a mocked AWS.

    .venv/infra/bin/python -m pytest --confcutdir tests/infra tests/infra/test_terraform.py            # minutes
    .venv/infra/bin/python -m pytest --confcutdir tests/infra tests/infra/test_terraform.py -m slow    # apply, inspect, destroy

The provider comes from the registry, from what TF_CLI_CONFIG_FILE says, or from the folder FLYWHEEL_TF_MIRROR
(`terraform providers mirror FOLDER` makes one); without any of them the tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SOURCE = Path(__file__).resolve().parents[2] / "infra" / "terraform"
SCRIPTS = Path(sys.executable).parent
ROOTS = ("bootstrap", "environments/dev", "environments/prod")

pytestmark = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")

# What moto does not have, or has wrongly: these parts are left out there. `terraform test` looks at each of them.
MOTO_LACKS = {
    "modules/eks/moto_override.tf": """
resource "aws_eks_addon" "network" { for_each = {} }
resource "aws_eks_addon" "workload" { for_each = {} }
resource "aws_eks_access_entry" "admin" { for_each = {} }
resource "aws_eks_access_policy_association" "admin" { for_each = {} }
output "security_group_id" { value = aws_security_group.moto.id }
""",
    "modules/eks/moto.tf": """
data "aws_subnet" "any" { id = var.subnet_ids[0] }
resource "aws_security_group" "moto" { # EKS makes the cluster's group itself
  name        = var.name
  description = "stands in for the cluster's own"
  vpc_id      = data.aws_subnet.any.vpc_id
}
""",
    "modules/alarms/moto_override.tf": 'resource "aws_budgets_budget" "monthly" { count = 0 }',
    # It ignores a policy's conditions, so "deny what is not TLS" would deny everything.
    "modules/s3/moto_override.tf": 'resource "aws_s3_bucket_policy" "this" { for_each = { logs = aws_s3_bucket.logs } }',
}
VALUES = {
    "owner": "ml-platform",
    "admin_arns": ["arn:aws:iam::123456789012:role/admin"],
    "api_cidrs": ["203.0.113.0/24"],
    "alarm_emails": ["ml@example.com"],
    "monthly_budget": 600,
}
# Where a wildcard is right, and why.
JUSTIFIED = {
    "aws_kms_key": "in a key's policy * is this key, and without kms:* for the account nobody could manage it",
    "module.github[0].aws_iam_policy.boundary": "an upper bound grants nothing",
    "module.github[0].aws_iam_role_policy.images": "ecr:GetAuthorizationToken knows no resources",
    "module.github[0].aws_iam_role_policy.plan": "secretsmanager:GetRandomPassword knows no resources",
    "module.platform.module.eks.aws_iam_role_policy.autoscaler": "Describe calls know no resources",
}
TAGS = {"Project", "Environment", "Owner", "ManagedBy"}


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)


def terraform(folder: Path, env: dict[str, str], *arguments: str) -> str:
    done = run(["terraform", *arguments], folder, env)
    assert done.returncode == 0, f"terraform {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def env(tmp_path_factory) -> dict[str, str]:
    """An environment in which terraform finds the AWS provider and no account of yours."""
    folder = tmp_path_factory.mktemp("provider")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_VAR_"))}
    env |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    env |= {"TF_IN_AUTOMATION": "1", "TF_CLI_ARGS": "-no-color", "TF_PLUGIN_CACHE_DIR": str(folder)}
    if not Path(env.get("TF_CLI_CONFIG_FILE", "/")).is_file():
        env.pop("TF_CLI_CONFIG_FILE", None)
        if mirror := env.get("FLYWHEEL_TF_MIRROR"):
            config = folder / "terraform.rc"
            config.write_text(f"provider_installation {{\n  filesystem_mirror {{\n    path = {json.dumps(mirror)}\n  }}\n}}\n")
            env["TF_CLI_CONFIG_FILE"] = str(config)
    shutil.copy(SOURCE / "versions.tf", folder)
    if (done := run(["terraform", "init"], folder, env)).returncode:
        pytest.skip(f"no AWS provider: set FLYWHEEL_TF_MIRROR to a mirror of it ({' '.join(done.stderr.split())[:200]})")
    return env


@pytest.fixture(scope="session")
def tree(env, tmp_path_factory) -> Path:
    """A copy of infra/terraform, initialised: nothing is written into the repository."""
    tree = tmp_path_factory.mktemp("terraform") / "tree"
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "terraform.tfvars", "backend.hcl"))
    for root in (".", *ROOTS):
        terraform(tree / root, env, "init", "-backend=false")
    return tree


@pytest.fixture(scope="session")
def moto(env) -> Iterator[dict[str, str]]:
    """The environment, with a mocked AWS behind every address."""
    if not (SCRIPTS / "moto_server").exists():
        pytest.skip("moto_server is not installed: requirements/infra.txt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [str(SCRIPTS / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=2).close()
            break
        except OSError:
            time.sleep(0.1)
    yield env | {"AWS_ENDPOINT_URL": url}
    server.terminate()
    server.wait()


@pytest.fixture
def cloud(tree, moto, tmp_path) -> Path:
    """A copy for moto: the parts it lacks are left out, and buckets are reached by path."""
    cloud = tmp_path / "tree"
    shutil.copytree(tree, cloud, symlinks=True)
    for file, text in MOTO_LACKS.items():
        (cloud / file).write_text(text)
    for root in ROOTS:
        (cloud / root / "moto_override.tf").write_text('provider "aws" {\n  s3_use_path_style = true\n}\n')
        (cloud / root / "terraform.tfvars.json").write_text(
            json.dumps(VALUES if root != "bootstrap" else {"owner": "ml", "repository": "example-org/flywheel"})
        )
    return cloud


def resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every managed resource of a plan's or state's module, and of those below it."""
    yield from (r for r in module.get("resources", []) if r["mode"] == "managed")
    for child in module.get("child_modules", []):
        yield from resources(child)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The statements of all policies that a resource holds."""
    for key in ("policy", "assume_role_policy"):
        if isinstance(values.get(key), str) and values[key].startswith("{"):
            yield from listed(json.loads(values[key]).get("Statement", []))


def findings(module: dict[str, Any]) -> list[str]:
    """What must never be in a plan or a state: public access, wildcards nobody justified, no encryption, no tags."""
    found = []
    for resource in resources(module):
        address, kind, values = resource["address"], resource["type"], resource.get("values", {})
        justified = any(part in address for part in JUSTIFIED)
        for statement in statements(values):
            if statement["Effect"] != "Allow" or kind == "aws_vpc_endpoint":  # an endpoint's policy grants nothing: a module test looks at it
                continue
            principal = statement.get("Principal", {})
            if principal == "*" or (isinstance(principal, dict) and "*" in listed(principal.get("AWS", []))):
                found.append(f"{address}: allows anybody")
            wild = [a for a in listed(statement.get("Action", statement.get("NotAction", "*"))) if a.endswith(":*") or a == "*"]
            if (wild or "*" in listed(statement.get("Resource", []))) and not justified:
                found.append(f"{address}: wildcard {wild or '* resource'}")
        if "tags" in values and (missing := TAGS - set(values.get("tags_all") or {})):
            found.append(f"{address}: lacks the tags {sorted(missing)}")
        if kind == "aws_s3_bucket_public_access_block" and not all(
            values[k] for k in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
        ):
            found.append(f"{address}: may become public")
        if kind == "aws_s3_bucket_acl" and str(values.get("acl", "")).startswith("public"):
            found.append(f"{address}: public")
        if "ingress_rule" in kind and values.get("cidr_ipv4") == "0.0.0.0/0":
            found.append(f"{address}: open to the internet")
        if kind == "aws_db_instance" and (values["publicly_accessible"] or not values["storage_encrypted"] or values.get("password")):
            found.append(f"{address}: public, not encrypted, or with a password in the state")
        if kind == "aws_launch_template" and values["metadata_options"][0]["http_tokens"] != "required":
            found.append(f"{address}: IMDSv1")
    buckets, blocks = (sum(r["type"] == kind for r in resources(module)) for kind in ("aws_s3_bucket", "aws_s3_bucket_public_access_block"))
    if buckets != blocks:
        found.append(f"{buckets} buckets, but {blocks} public access blocks")
    return found


def by_type(module: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [r.get("values", {}) for r in resources(module) if r["type"] == kind]


def planned(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    terraform(folder, env, "plan", "-input=false", "-lock=false", "-out=plan")
    return json.loads(terraform(folder, env, "show", "-json", "plan"))["planned_values"]["root_module"]


def checkov(folder: Path) -> dict[str, Any]:
    if not (SCRIPTS / "checkov").exists():
        pytest.skip("checkov is not installed: requirements/infra.txt")
    done = run([sys.executable, str(SCRIPTS / "checkov"), "-d", str(folder), "--framework", "terraform", "-o", "json", "--skip-download"], folder)
    return json.loads(done.stdout)


def test_format():
    done = run(["terraform", "fmt", "-check", "-recursive", "-diff"], SOURCE)
    assert done.returncode == 0, done.stdout


def test_every_variable_is_described_and_validated():
    for file in SOURCE.rglob("variables.tf"):
        for name, block in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', file.read_text(), re.M | re.S):
            assert "description" in block and "validation" in block, f"{file}: {name}"


def test_nothing_of_an_account_is_in_the_code():
    for file in [*SOURCE.rglob("*.tf"), *SOURCE.rglob("*.example")]:
        text = file.read_text()
        assert not re.search(r"\b\d{12}\b|AKIA|(password|secret|token)\s*=\s*\"[^\"$<]", text), file
    assert not list(SOURCE.rglob(".terraform.lock.hcl")), "a lock made here holds one platform's checksums only"


@pytest.mark.parametrize("root", ROOTS)
def test_validate(tree, env, root):
    terraform(tree / root, env, "validate")


def test_modules(tree, env):
    print(terraform(tree, env, "test"))


def test_checkov_finds_nothing():
    report = checkov(SOURCE)
    assert report["summary"]["passed"] > 200
    assert [f"{c['check_id']} {c['resource']}" for c in report["results"]["failed_checks"]] == []
    for skipped in report["results"]["skipped_checks"]:
        assert len(skipped["check_result"]["suppress_comment"]) > 20, skipped["resource"]


PLANTED = """
provider "aws" {
  region                      = "us-east-1"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
}
resource "aws_s3_bucket" "open" { bucket = "open-to-all" }
resource "aws_s3_bucket_acl" "open" {
  bucket = aws_s3_bucket.open.bucket
  acl    = "public-read"
}
resource "aws_s3_bucket_policy" "open" {
  bucket = aws_s3_bucket.open.bucket
  policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Principal = "*", Action = "s3:GetObject", Resource = "arn:aws:s3:::open-to-all/*" }] })
}
resource "aws_iam_policy" "wild" {
  name   = "wild"
  policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "*", Resource = "*" }] })
}
"""


def test_a_public_bucket_and_a_wildcard_policy_are_caught(env, tmp_path):
    (tmp_path / "main.tf").write_text(PLANTED)
    shutil.copy(SOURCE / "versions.tf", tmp_path)
    terraform(tmp_path, env, "init")
    caught = "\n".join(findings(planned(tmp_path, env)))
    for sentence in (
        "bucket_acl.open: public",
        "bucket_policy.open: allows anybody",
        "policy.wild: wildcard ['*']",
        "policy.wild: lacks the tags",
        "0 public access blocks",
    ):
        assert sentence in caught
    failed = {(c["check_id"], c["resource"]) for c in checkov(tmp_path)["results"]["failed_checks"]}
    assert ("CKV_AWS_20", "aws_s3_bucket.open") in failed
    assert {("CKV_AWS_62", "aws_iam_policy.wild"), ("CKV_AWS_63", "aws_iam_policy.wild")} <= failed


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_plan_of_an_environment(cloud, moto, environment):
    folder = cloud / "environments" / environment
    (folder / "backend_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
    terraform(folder, moto, "init", "-reconfigure")
    plan = planned(folder, moto)
    assert findings(plan) == []
    durable = environment == "prod"
    (database,) = by_type(plan, "aws_db_instance")
    assert (database["deletion_protection"], database["multi_az"], database["skip_final_snapshot"]) == (durable, durable, not durable)
    assert len(by_type(plan, "aws_nat_gateway")) == (3 if durable else 1)
    assert {b["force_destroy"] for b in by_type(plan, "aws_s3_bucket")} == {not durable}
    assert {c["automatic_failover_enabled"] for c in by_type(plan, "aws_elasticache_replication_group")} == ({True} if durable else set())
    for group in by_type(plan, "aws_eks_node_group"):
        taints = [f"{t['key']}={t['value']}:{t['effect']}" for t in group["taint"]]
        gpu = group["labels"]["flywheel/pool"] != "cpu"
        assert taints == (["nvidia.com/gpu=present:NO_SCHEDULE"] if gpu else [])
        assert (group["scaling_config"][0]["min_size"] == 0) == gpu


def test_pods_find_their_nodes_and_roles(cloud, moto):
    """config/pods.yaml and Terraform name the same pools and service accounts."""
    pods = yaml.safe_load((SOURCE.parents[1] / "config" / "pods.yaml").read_text())
    text = (SOURCE / "modules" / "platform" / "access.tf").read_text()
    for stage in pods["stages"].values():
        assert re.search(rf"^\s+{stage['service_account']}\s+= \{{", text, re.M), stage
    for environment in ("dev", "prod"):
        main = (SOURCE / "environments" / environment / "main.tf").read_text()
        for pool in ("cpu", "gpu"):
            assert f'pool = "{pool}"' in main and pods["pools"][pool]["node_selector"] == {"flywheel/pool": pool}


@pytest.mark.slow
def test_a_whole_life(cloud, moto):
    """Bootstrap, dev applied on its remote state (without a cache, which moto cannot describe), every resource looked at, a held lock respected, all destroyed."""
    boto3 = pytest.importorskip("boto3")
    bootstrap, dev = cloud / "bootstrap", cloud / "environments" / "dev"
    terraform(bootstrap, moto, "apply", "-auto-approve", "-input=false")
    assert findings(json.loads(terraform(bootstrap, moto, "show", "-json"))["values"]["root_module"]) == []
    output = json.loads(terraform(bootstrap, moto, "output", "-json"))
    for root, name in ((bootstrap, "bootstrap"), (dev, "dev")):
        (root / "backend.hcl").write_text(output["backend"]["value"][name] + "use_path_style = true\n")
    (bootstrap / "backend.tf").write_text('terraform {\n  backend "s3" {}\n}\n')
    terraform(bootstrap, moto, "init", "-migrate-state", "-force-copy", "-backend-config=backend.hcl")
    (bootstrap / "terraform.tfstate").unlink()
    assert "module.state.aws_s3_bucket.store" in terraform(bootstrap, moto, "state", "list")

    values = VALUES | {"permissions_boundary_arn": output["permissions_boundary_arn"]["value"]}
    (dev / "terraform.tfvars.json").write_text(json.dumps(values))
    terraform(dev, moto, "init", "-reconfigure", "-backend-config=backend.hcl")

    s3 = boto3.client(
        "s3", endpoint_url=moto["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    )  # fmt: skip
    lock = {"Bucket": "flywheel-state-123456789012", "Key": "dev/terraform.tfstate.tflock"}
    s3.put_object(**lock, Body=b'{"ID": "somebody-else"}')
    held = run(["terraform", "apply", "-auto-approve", "-input=false"], dev, moto)
    assert held.returncode == 1 and "Error acquiring the state lock" in held.stderr
    s3.delete_object(**lock)
    terraform(dev, moto, "apply", "-auto-approve", "-input=false")

    state = json.loads(terraform(dev, moto, "show", "-json"))["values"]["root_module"]
    assert findings(state) == []
    kinds = {r["type"] for r in resources(state)}
    assert {"aws_eks_cluster", "aws_db_instance", "aws_flow_log", "aws_secretsmanager_secret_version"} <= kinds
    assert {role["permissions_boundary"] for role in by_type(state, "aws_iam_role")} == {values["permissions_boundary_arn"]}
    drawn = [v for v in by_type(state, "aws_secretsmanager_secret_version") if v["has_secret_string_wo"]]
    assert len(drawn) == 5 and not any(v["secret_string"] for v in drawn), "generated secrets are in no state"
    helm = yaml.safe_load(terraform(dev, moto, "output", "-raw", "helm_values"))
    assert helm["store"] == "s3://flywheel-dev-store-123456789012" and helm["image"]["registry"] == output["registry"]["value"]
    assert helm["serviceAccounts"]["flywheel-train"]["annotations"]["eks.amazonaws.com/role-arn"].endswith(":role/flywheel-dev-train")

    terraform(dev, moto, "destroy", "-auto-approve", "-input=false")
    assert terraform(dev, moto, "state", "list").strip() == ""
