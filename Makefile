# What a developer does; each target first sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check format soak bench clean FORCE

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first of these that is Python 3.11 or later and can make environments.
PYTHON := python3.11 python3.12 python3.13 python3
FITS := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

run: $(READY) ## train the example workflow on handwritten digits and show its result
	@$(BIN)/weft run examples/digits/workflow.py

test: check ## lint, types and the whole test suite: what CI runs
	@$(BIN)/pytest -q -n auto --dist worksteal

check: $(READY) ## lint and types
	@$(BIN)/ruff format --check --quiet --diff .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

format: $(READY) ## format the code, and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

soak: $(READY) ## the long forms of chaos and simulation (hours)
	@$(BIN)/pytest -q -m soak --timeout=14400

bench: $(READY) ## measure what runs reach beside the machine's own limits; PEER=PYTHON: and beside DBOS
	@$(BIN)/python -m benchmarks.durable
	@$(BIN)/python -m benchmarks.detached $(if $(PEER),--peer-python $(PEER))

clean: ## remove the environment and everything made by tools
	@rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment works only in the folder it was made in, with the Python it was made from:
# a copied or moved tree, or another Python, needs a new one.
USABLE := $(shell grep -qsF '$(CURDIR)/$(VENV)' $(BIN)/activate \
	&& $(BIN)/python -c '$(FITS)' 2>/dev/null && echo yes)

$(READY): pyproject.toml constraints.txt $(if $(USABLE),,FORCE)
ifneq ($(USABLE),yes)
	@for python in $(PYTHON); do $$python -c '$(FITS)' 2>/dev/null && break; python=; done; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or later with its venv module found (tried: $(PYTHON))." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)
endif
	@echo "Installing Weftline and its tools into $(VENV) (once, about a minute)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
	    -c constraints.txt -e '.[dev]'
	@touch $@
