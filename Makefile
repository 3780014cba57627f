# The two commands of the README: `make train` and `make test`. Both set up .venv first; nothing but Python 3.10-3.13,
# make and a C compiler is expected on the machine. `make train` continues an unfinished run in runs/pocket.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PACKAGES := protos reward_models services trainer_client cli

# Graphs exported from packages (EfficientNet, MiniLM) live in the checkout, so that a fresh clone leaves no trace elsewhere.
export SYNC_R1_GRAPHS ?= $(CURDIR)/build/graphs

.PHONY: train test test-all protos lint bench soak drill lock clean sbom audit k8s-render k8s-test

train: $(STAMP)
	$(BIN)/sync-r1 train --config trainer_client/configs/pocket.yaml --out runs/pocket \
		$(if $(wildcard runs/pocket/config.json),--resume) $(ARGS)

# Tests mostly wait (for services, for processes that end), so three workers share two cores; a file's tests stay together.
TESTERS ?= 3
test: lint
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile $(ARGS)

test-all: lint
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

lint: $(STAMP) build/mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	MYPYPATH=build/mypy $(BIN)/mypy --namespace-packages --explicit-package-bases $(addprefix build/mypy/sync_r1/,$(PACKAGES))
	$(BIN)/lint-imports

protos: $(STAMP)
	$(BIN)/python protos/generate.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks.all $(ARGS)

# Every fault drill in its long form, and benchmarks/RELIABILITY.md; `make drill NAME=overload ARGS=--short` for one.
soak: $(STAMP)
	$(BIN)/python -m benchmarks.reliability $(ARGS)

drill: $(STAMP)
	$(BIN)/python -m benchmarks.reliability $(NAME) $(ARGS)

# What is installed, from the lock; needs no network.
sbom: $(STAMP)
	mkdir -p build
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --no-validate --of JSON -o build/sbom.json

# Known vulnerabilities of everything that is locked. No database to ask is an error (2), not a clean audit.
# `make audit ARGS="--osv-url URL"` asks a mirror of OSV.
audit: $(STAMP)
	@$(BIN)/python -m benchmarks.reliability.audit $(ARGS)

# What a cluster would get: build/k8s/OVERLAY.yaml.
k8s-render: $(STAMP)
	mkdir -p build/k8s
	for overlay in k8s/overlays/*; do $(BIN)/kubectl kustomize $$overlay > build/k8s/$$(basename $$overlay).yaml || exit 1; done

# `cpu-pocket` for real: images from a Debian base, its pods under podman. Says SKIPPED and why where that cannot be.
k8s-test: $(STAMP)
	SYNC_R1_K8S=1 $(BIN)/python -m pytest -m slow tests/k8s/test_k8s_podman.py $(ARGS)

include k8s/images/images.mk

# mypy must see the folders under their installed names: a link folder stands in for the `sync_r1` namespace.
build/mypy:
	mkdir -p build/mypy/sync_r1
	for package in $(PACKAGES); do ln -sfn ../../../$$package build/mypy/sync_r1/$$package; done

# uv is bootstrapped by pip, then installs exactly what the lock says; the link mode is chosen by uv.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# onnxruntime and onnxruntime-gpu exclude each other, so the `gpu` extra is not locked here.
lock:
	$(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
		--override requirements.overrides.txt --extra services --extra embedded --extra train --extra export --extra scorers \
		--extra cli --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf build runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
