# Mirage: set-up, run, tests. Every target sets up what it needs; `make help` lists them.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 2>/dev/null))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.mirage-ready
TESTS_READY := $(VENV)/.mirage-tests-ready
# What the pipeline, teachers and `mirage serve` need; TEST_EXTRAS: and what the checks and the tests do.
EXTRAS ?= train,teacher,serve
TEST_EXTRAS ?= $(EXTRAS),scenes,machines,dev
RECIPE ?= tiny
# Number of SIGKILLs of `make soak`.
N ?= 200
# More settings for `make run`, for example SET="--set grpo.enabled=false"
SET ?=
# The index of torch for pip, for example TORCH_INDEX=https://download.pytorch.org/whl/cpu (smaller, no CUDA)
TORCH_INDEX ?=
TORCH := $(shell grep -i '^torch==' constraints.txt)

export PYTHONUNBUFFERED := 1
# What is imported is compiled once and kept. pip compiles nothing: most of what it installs is never imported.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help setup run up down test e2e soak mutants check format clean

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10

setup: $(READY) ## make .venv, install what `make run` needs under the constraints, check DeepSpeed

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make setup: neither python3.11 nor python3.12 was found. Install one, or set PYTHON=/path/to/python." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { echo "make setup: $(PYTHON) is $$("$(PYTHON)" --version 2>&1), expected Python 3.11 or 3.12. Set PYTHON=/path/to/python." >&2; exit 1; }
	@echo "== 1/4 virtual environment: $(VENV) ($$("$(PYTHON)" --version))"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { echo "make setup: could not create a virtual environment. On Debian: apt install python3-venv. Then: make setup" >&2; exit 1; }
	@echo "== 2/4 $(TORCH) (the largest download)"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)" || { echo "make setup: pip could not install $(TORCH); its message is above. Without a network, or with a mirror, configure pip (PIP_INDEX_URL, PIP_FIND_LINKS); on a full disk, free some space. Then: make setup" >&2; exit 1; }
	@echo "== 3/4 everything else: .[$(EXTRAS)] (two to three minutes)"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]" || { echo "make setup: pip could not install the rest; its message is above. Then: make setup" >&2; exit 1; }
	@echo "== 4/4 check: the pipeline's imports, one training step of DeepSpeed"
	@$(BIN)/python -c "import flows.cli, flows.full_pipeline" & imports=$$!; $(BIN)/python -m mirage_core.training.engine.deepspeed_setup && wait $$imports
	@touch $@
	@echo "== ready: make run, make test, $(BIN)/mirage --help"

$(TESTS_READY): $(READY) pyproject.toml constraints.txt
	@echo "== for the tests: .[$(TEST_EXTRAS)]"
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[$(TEST_EXTRAS)]" || { echo "make: pip could not install what the tests need; its message is above. Then: make test" >&2; exit 1; }
	@touch $@

run: $(READY) ## set up, start the local Prefect server and worker, deploy, run the pipeline, show the scores
	@$(BIN)/mirage up
	@$(BIN)/mirage deploy
	@$(BIN)/mirage run --recipe $(RECIPE) $(SET)

up: $(READY) ## start the local Prefect server and worker in the background (PORT=... to choose the port)
	@$(BIN)/mirage up $(if $(PORT),--port $(PORT))

down: ## stop the local Prefect server and worker
	@if test -x $(BIN)/mirage; then $(BIN)/mirage down; else echo "nothing is set up here, so nothing runs"; fi

check: $(TESTS_READY) ## ruff, mypy, import-linter
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import-linter" && $(BIN)/lint-imports --no-logo

test: $(TESTS_READY) ## set up, check, and run the tests
	@$(MAKE) --no-print-directory check
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadgroup -m "not e2e"

e2e: $(TESTS_READY) ## browser, S3, PostgreSQL, vLLM, crash and short soak tests; installs what they need (vLLM: 3.5 GB, once)
	@bash tests/install-e2e.sh
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m e2e

soak: $(TESTS_READY) ## N SIGKILLs during the pipeline (N=200) and hundreds of other faults; prints counts
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --long --kills $(N) --json .mirage/soak.json

mutants: $(TESTS_READY) ## change forty lines of the core one by one, run the related tests, print what no test noticed
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench.mutants

format: $(TESTS_READY) ## format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: down ## stop the local stack and remove its files and the caches (the store stays)
	@rm -rf .mirage/prefect .mirage/logs .mirage/stack .mirage/mypy .pytest_cache .ruff_cache .import_linter_cache .hypothesis
