# Everything a checkout needs, as plain commands. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# An index for torch alone: on Linux without a GPU, the address of its CPU builds (see pytorch.org).
TORCH_INDEX ?=
PYTEST := $(BIN)/python -m pytest -c tests/pytest.ini --rootdir=tests
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --no-emit-package torch --overrides requirements/overrides.txt

.DEFAULT_GOAL := help
.PHONY: help install run test lint types wheel prove lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "AutoGPT needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements/runtime.lock
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.lock
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements/dev.lock
	@mkdir -p $(VENV)/link && ln -sfn "$(CURDIR)" $(VENV)/link/autogpt
	@touch $@

install: $(VENV)/.runtime ## create .venv with pinned versions; autogpt is then .venv/bin/autogpt

run: $(VENV)/.runtime ## install, fetch the default model, run the example goals and show the outcome
	$(BIN)/autogpt model fetch
	$(BIN)/autogpt run examples/

test: $(VENV)/.dev ## the whole suite, on two processes
	$(PYTEST) -n 2 tests

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.dev ## mypy, strict, on the package and its tests
	cd tests && MYPYPATH=../$(VENV)/link:. ../$(BIN)/mypy --config-file mypy.ini --cache-dir ../.mypy_cache . \
		../$(VENV)/link/autogpt

wheel: $(VENV)/.dev ## build dist/autogpt-*.whl
	rm -rf build  # else files that are gone from the tree come back
	$(BIN)/python -m build --wheel --no-isolation

prove: $(VENV)/.dev ## the full kill and grammar campaigns (long)
	$(BIN)/autogpt model fetch
	$(BIN)/python benchmarks/prove_kills.py --kills 600
	$(BIN)/python benchmarks/prove_grammar.py --calls 10000
	$(BIN)/python benchmarks/prove_memory.py --kills 200

lock: $(VENV)/.dev ## resolve requirements/*.in anew into the hashed locks
	$(BIN)/python -m pip install uv==0.13.9
	$(LOCK) --upgrade requirements/runtime.in --output-file requirements/runtime.lock
	$(LOCK) --upgrade --constraint requirements/runtime.lock requirements/dev.in \
		--output-file requirements/dev.lock

clean: ## remove what was built (.venv too)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache tests/.pytest_cache
