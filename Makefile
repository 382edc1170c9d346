# The commands people and CI share. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
-include .env
export

ML := .venv/ml/bin/python
AIRFLOW := .venv/airflow/bin/python
INFRA := .venv/infra/bin/python
FEATURES := .venv/features/bin/python
CLIENT := .venv/client/bin/python
BASE_PYTHON ?= python3.11
UV_VERSION := 0.13.8
# PyPI's torch is the CUDA build; on a machine without a GPU, set this to PyTorch's index of CPU builds.
TORCH_INDEX ?=
FAMILIES := base data train serving ui
# Images and infrastructure: TAG, REGISTRY and ENVIRONMENT are set by whoever runs them.
TAG ?= dev
REGISTRY ?= local
IMAGE = $(REGISTRY)/flywheel/$(FAMILY):$(TAG)
ENVIRONMENT ?= dev
TERRAFORM = terraform -chdir=infra/terraform/environments/$(ENVIRONMENT)

.PHONY: help
help: ## What each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: install
install: .venv/ml/.installed .venv/airflow/.installed ## Make the two locked environments

.venv/ml/.installed: requirements/laptop.txt requirements/torch.txt requirements/model.txt
	$(BASE_PYTHON) -m venv .venv/ml
	$(ML) -m pip install --quiet uv==$(UV_VERSION)
	$(ML) -m uv pip install --quiet --compile-bytecode --python $(ML) --no-deps --require-hashes -r requirements/laptop.txt
	$(ML) -m uv pip install --quiet --compile-bytecode --python $(ML) --no-deps --require-hashes -r requirements/model.txt
	$(ML) -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	@touch $@

.PHONY: gpu
gpu: install ## DeepSpeed and Liger besides: ZeRO over several processes, faster kernels where there is a GPU
	DS_BUILD_OPS=0 $(ML) -m uv pip install --quiet --python $(ML) --no-deps --no-build-isolation --require-hashes -r requirements/gpu.txt

.venv/airflow/.installed: requirements/airflow.txt | .venv/ml/.installed
	$(BASE_PYTHON) -m venv .venv/airflow
	$(ML) -m uv pip install --quiet --compile-bytecode --python $(AIRFLOW) --no-deps --require-hashes -r requirements/airflow.txt
	@touch $@

.venv/infra/.installed: requirements/infra.txt
	$(BASE_PYTHON) -m venv .venv/infra
	$(INFRA) -m pip install --quiet --no-deps --require-hashes -r requirements/infra.txt
	@touch $@

.venv/sbom/.installed: requirements/sbom.txt
	$(BASE_PYTHON) -m venv .venv/sbom
	.venv/sbom/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/sbom.txt
	@touch $@

.venv/label/.installed: requirements/label.txt | .venv/ml/.installed
	$(BASE_PYTHON) -m venv .venv/label
	$(ML) -m uv pip install --quiet --compile-bytecode --python .venv/label/bin/python --no-deps --require-hashes -r requirements/label.txt
	@touch $@

.venv/features/.installed: requirements/features.txt | .venv/ml/.installed
	$(BASE_PYTHON) -m venv .venv/features
	$(ML) -m uv pip install --quiet --compile-bytecode --python $(FEATURES) --no-deps --require-hashes -r requirements/features.txt
	@touch $@

.PHONY: features
features: .venv/features/.installed ## The feature store's environment, which only it needs; then FLYWHEEL_FEATURES_URL=http://127.0.0.1:16566 make features-server
.PHONY: features-server
features-server: .venv/features/.installed ## Feast's server at FLYWHEEL_FEATURES_URL, until Ctrl-C
	@$(FEATURES) -m features.server
.PHONY: test-features
test-features: .venv/features/.installed ## The feature store's tests
	$(FEATURES) -m pytest tests/features

.venv/docs/.installed: requirements/docs.txt | .venv/ml/.installed
	$(BASE_PYTHON) -m venv .venv/docs
	$(ML) -m uv pip install --quiet --python .venv/docs/bin/python --no-deps --require-hashes -r requirements/docs.txt
	@touch $@

.PHONY: docs
docs: install .venv/docs/.installed ## The handbook as a site, in site/; its reference is written from the code first
	@$(ML) -m docs.reference
	@NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict --quiet
	@echo "open site/index.html, or serve it to search it: python3 -m http.server --bind 127.0.0.1 --directory site"

.venv/client/.installed: requirements/base.txt
	$(BASE_PYTHON) -m venv .venv/client
	$(CLIENT) -m pip install --quiet --no-deps --require-hashes -r requirements/base.txt
	@touch $@

.PHONY: client
client: .venv/client/.installed ## Only what `python -m flywheel` needs to reach an installation elsewhere

.PHONY: lock
lock: .venv/ml/.installed ## Compile requirements/*.in to hashed *.txt
	@links="$$($(ML) -m pip config get global.find-links 2>/dev/null || true)"; \
	compile() { $(ML) -m uv pip compile --python-version 3.11 --generate-hashes --no-header --no-annotate -q $${links:+--find-links "$$links"} "$$@"; }; \
	set -e; \
	compile requirements/laptop.in -o requirements/laptop.txt --no-emit-package torch; \
	for family in $(FAMILIES); do compile requirements/$$family.in -c requirements/laptop.txt -o requirements/$$family.txt --no-emit-package torch; done; \
	compile --no-deps requirements/model.in -o requirements/model.txt; \
	compile --no-deps requirements/gpu.in -c requirements/laptop.txt -o requirements/gpu.txt; \
	compile --no-deps requirements/postgres.in -c requirements/laptop.txt -o requirements/postgres.txt; \
	compile requirements/airflow.in -o requirements/airflow.txt; \
	compile requirements/label.in -o requirements/label.txt; \
	compile requirements/features.in -o requirements/features.txt; \
	compile requirements/sbom.in -o requirements/sbom.txt; \
	compile requirements/infra.in -o requirements/infra.txt; \
	compile requirements/docs.in -o requirements/docs.txt

.PHONY: demo
demo: install ## Turn the flywheel twice and show what got better [SOURCE=records.jsonl]
	@$(ML) -m flywheel demo $(if $(SOURCE),--source "$(SOURCE)")

.PHONY: up down status logs turn
up: install ## Start the laptop stack
	@$(ML) -m flywheel up
down: install ## Stop it; its data stays in .flywheel/
	@$(ML) -m flywheel down
status: install ## What runs, where, and how it feels
	@$(ML) -m flywheel status
logs: install ## Follow a service's log, e.g. S=serving
	@$(ML) -m flywheel logs $(S)
turn: install ## One turn now, on your config
	@$(ML) -m flywheel turn

.PHONY: monitoring
monitoring: install ## Prometheus and Alertmanager beside the stack, until Ctrl-C
	@$(ML) -m flywheel monitoring

.PHONY: review
review: install .venv/label/.installed ## A Label Studio of its own in the stack, for people to review in
	@$(ML) -m flywheel review start

# These run in an environment of their own, with the tools that look at infra/ and .github/.
INFRA_TESTS := tests/infra/test_workflows.py tests/infra/test_terraform.py tests/infra/chart tests/infra/test_images.py

.PHONY: test
test: install .venv/label/.installed ## Every test that needs no Docker, cluster or GPU
	$(ML) -m pytest tests --ignore tests/dags --ignore tests/cluster $(addprefix --ignore ,$(INFRA_TESTS))
	$(AIRFLOW) -m pytest tests/dags

.PHONY: test-slow
test-slow: install ## Planted bad challengers, backfilled nights, kills, chaos under Airflow, adapter swaps, every page in a browser: hours
	$(ML) -m pytest -s -m slow tests/tasks tests/e2e tests/serving tests/ui tests/docs

.PHONY: test-cluster
test-cluster: install ## Pods and chart on a real cluster [KUBECONFIG=file, or K8S_CLUSTER=program; ONLY=files]
	$(ML) -m pytest -s $(or $(ONLY),tests/cluster)

.PHONY: test-infra
test-infra: .venv/infra/.installed ## Checks of infra/ and .github/ [ONLY=files]
	$(INFRA) -m pytest --confcutdir tests/infra $(or $(ONLY),$(INFRA_TESTS))

.PHONY: audit
audit: .venv/infra/.installed ## Known vulnerabilities in what is locked; asks the network
	@set -e; for file in requirements/*.txt; do echo "$$file"; $(INFRA) -m pip_audit --disable-pip --no-deps --strict --progress-spinner off -r "$$file"; done

.PHONY: families image images push sbom
families: ## The images that can be built, as JSON
	@python3 -c 'import json, pathlib; print(json.dumps(sorted(p.parent.name for p in pathlib.Path("images").glob("*/Dockerfile"))))'
image: ## Build one image [FAMILY=train TAG=dev REGISTRY=local TORCH_INDEX= BUILD_OPTIONS=]
	docker build $(BUILD_OPTIONS) --file images/$(FAMILY)/Dockerfile --tag $(IMAGE) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) \
	  --label org.opencontainers.image.version=$(TAG) --label org.opencontainers.image.revision=$$(git rev-parse HEAD) .
	@docker image inspect --format '$(IMAGE) {{.Size}}' $(IMAGE) | awk '{printf "%s: %.0f MB\n", $$1, $$2 / 1e6}'
images: ## Build them all, for docker-compose.yaml
	@set -e; for dockerfile in images/*/Dockerfile; do $(MAKE) --no-print-directory image FAMILY=$$(basename $$(dirname $$dockerfile)); done
push: ## Push it; the last line is its digest
	@docker push --quiet $(IMAGE) >&2
	@docker image inspect --format '{{index .RepoDigests 0}}' $(IMAGE)
sbom: .venv/sbom/.installed ## What is in it, as CycloneDX: sbom/FAMILY.python.cdx.json and .debian.cdx.json
	@PATH="$$PWD/.venv/sbom/bin:$$PATH" images/bill $(IMAGE) sbom/$(FAMILY)

.PHONY: plan apply
plan: ## What Terraform would change [ENVIRONMENT=dev]
	$(TERRAFORM) init -input=false -backend-config=backend.hcl
	$(TERRAFORM) plan -input=false -out=$(ENVIRONMENT).tfplan
apply: ## Apply exactly that plan
	$(TERRAFORM) apply -input=false $(ENVIRONMENT).tfplan

.PHONY: screenshots
screenshots: install ## Pictures of every page of the running stack, and of Airflow's, for the handbook
	@$(ML) -m tests.ui.screens
	@$(ML) -m tests.ui.airflow

.PHONY: bench
bench: install ## Measure beside a peer; the last line is JSON [NAME=dag_import]
	@PYTHONPATH=. $(ML) benchmarks/$(or $(NAME),dag_import).py

.PHONY: lint
lint: install ## Format, lint, types, import rules
	$(ML) -m ruff format --check .
	$(ML) -m ruff check .
	$(ML) -m mypy
	$(ML) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
