# One command for each chore. Every target first sets up .venv where that is needed.

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test sim check feast-check bench bench-operations bench-features bench-rollouts fuzz soak perf-analyzer docker-check protos clean

PYTHON := .venv/bin/python

# Which ONNX Runtime: GPU=1 asks for CUDA, GPU=0 for the CPU; without either, what .venv has stays.
GPU ?= $(if $(wildcard .venv/.installed-gpu),1,0)
FLAVOUR := $(if $(filter-out 0,$(GPU)),gpu,cpu)
INSTALLED := .venv/.installed-$(FLAVOUR)

ARGS ?=
MODELS ?= models
SIM_SEEDS ?= 300
FUZZ_EXAMPLES ?= 1000

help:  ## this list
	@echo "usage: make <target>"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED)  ## make .venv and install everything (GPU=1: with CUDA)
	@$(PYTHON) scripts/check_setup.py

$(INSTALLED): pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh $(FLAVOUR)

demo: setup  ## train on real flights, serve, predict
	@$(PYTHON) scripts/check_setup.py openmp
	@$(PYTHON) -m examples.flights.demo $(ARGS)

serve: setup  ## serve a folder of models (MODELS=models)
	@$(PYTHON) -m headrace serve --models "$(MODELS)" $(ARGS)

test: setup  ## all tests (ARGS="-k batching")
	@$(PYTHON) scripts/check_setup.py openmp
	$(PYTHON) -m pytest $(ARGS)

sim: setup  ## the whole gateway on virtual time, with many seeds (SIM_SEEDS=300)
	SIM_SEEDS=$(SIM_SEEDS) $(PYTHON) -m pytest tests/sim $(ARGS)

check: setup  ## style, types, import contracts, architecture
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-logo
	$(PYTHON) -m pytest tests/arch

bench: setup  ## measure, and compare with what others do
	@$(PYTHON) -m loadtests.bench $(ARGS)

bench-operations: setup  ## swap, kill, workers, streams, telemetry under load, with verdicts
	@$(PYTHON) -m loadtests.operations $(ARGS)

bench-features: setup  ## what feature lookups cost, beside values sent and beside Feast, with verdicts
	@$(PYTHON) -m loadtests.feature_lookups $(ARGS)

bench-rollouts: setup  ## what routing, changes of weights and copies cost under load, with verdicts
	@$(PYTHON) -m loadtests.rollouts --save $(ARGS)

fuzz: setup  ## odd requests by the thousand, for codecs and ports (FUZZ_EXAMPLES=1000)
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PYTHON) -m pytest tests/e2e/test_openapi.py tests/unit/edge $(ARGS)

soak: setup  ## an hour at half load, memory watched (ARGS="--minutes 60")
	@$(PYTHON) -m loadtests.soak $(ARGS)

perf-analyzer: setup  ## drive both fronts with Triton's perf_analyzer, write docs/perf-analyzer.md
	@$(PYTHON) -m loadtests.perf_analyzer $(ARGS)

docker-check: setup  ## do what the Dockerfile does, without Docker
	@$(PYTHON) -m scripts.docker_check

feast-check: setup  ## read a store that the real feast writes (installs it beside, 600 MB)
	@sh scripts/feast_venv.sh
	$(PYTHON) -m pytest -m feast tests/e2e/test_feast_layout.py $(ARGS)

protos: setup  ## compile protos/*.proto anew
	@$(PYTHON) scripts/generate_protos.py

clean:  ## remove what tools left behind (.venv stays: rm -rf .venv)
	@rm -rf build dist .bench .demo .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -name .git -prune -o -type d -name __pycache__ -exec rm -rf {} +
