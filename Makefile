# `make` alone says what there is to make.
PYTHON ?= python3.11 python3
PIP_ARGS ?=
DEMO ?= runs/demo
BIN := .venv/bin
PIP = $(BIN)/python -m pip install -q -c constraints.txt $(PIP_ARGS)
# One thread a process: two workers share two cores, and threads that wait for a busy core cost more than they give.
ONE = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help demo install dev lint test test-quick test-slow bench wheel

help: ## say this
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16
	@echo
	@echo "PYTHON=... picks the interpreter; PIP_ARGS=... goes to pip (an index or folder with torch's CPU build, say)."

demo: | .venv/installed ## a short ablation on the digits: one VAE under five priors, its answer and its report
	$(BIN)/compose ablate prior seeds=3 budget.steps=400 --workers 2 --out $(DEMO)

install: .venv/installed ## make .venv with compose in it

dev: .venv/installed-dev ## the same, with what tests, lint and builds need

lint: .venv/installed-dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint ## lint, then every test but the slow ones
	$(ONE) -m pytest -n 2

test-quick: .venv/installed-dev ## a part of each room's tests, some minutes, without lint
	$(ONE) -m pytest -n 2 -m 'not slow and not long'

test-slow: .venv/installed-dev ## the tests that take minutes
	$(ONE) -m pytest -n 2 -m slow

bench: .venv/installed-dev ## ratios of speed against plain torch
	@set -e; for file in tests/benchmarks/*.py; do echo "== $$file"; $(ONE) $$file; done

wheel: .venv/installed-dev ## dist/: wheel and sdist, recipes inside
	$(BIN)/python -m build --no-isolation

.venv/made:
	@found=; for python in $(PYTHON); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "compose needs Python 3.11 or later, and none of these is one: $(PYTHON)." >&2; \
	    echo "Install one (Debian 12, Ubuntu 24.04 or later: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	fi; \
	if ! $$found -m venv .venv; then \
	    echo "$$found makes no virtual environment. On Debian and Ubuntu venv is a package of its own: apt install python3-venv" >&2; \
	    exit 1; \
	fi
	@touch $@

.venv/installed: .venv/made pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/made pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@ .venv/installed
