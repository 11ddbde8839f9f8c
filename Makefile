# Everything a checkout does. It wants make, Python 3.11 or newer with its venv module, and the package registry.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# A stamp says that the locked packages are installed; it ages with the locks and pyproject.toml.
CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
NODE := tests/node/node_modules/.stamp

PIP := $(PY) -m pip --quiet --disable-pip-version-check --no-input
PIP_LOCKED := $(PIP) install --require-hashes --no-deps --no-build-isolation
LOCK := $(PY) -m uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check node-sdk bench lock format clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Serve: OpenAI's gateway with OPENAI_API_KEY set, else the demonstration (PORT=9000, ARGS="…")
	@exec $(PY) -m gateway $(if $(OPENAI_API_KEY),serve,demo) $(if $(PORT),--port $(PORT)) $(ARGS)

test: check node-sdk ## Run every check, the tests last (ARGS="-k name")
	$(PY) -m pytest $(ARGS)

check: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(RUNTIME) ## Measure the gateway beside nginx (ARGS="--quick")
	$(PY) -m bench $(ARGS)

format: $(DEV) ## Rewrite the source as the checks want it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# dicttoxml, under the GPL, is for the tests and for those who ask for the extra: `make run` does not install it.
lock: $(DEV) ## Remake the locks from pyproject.toml, every package at its newest (ARGS="--upgrade-package aiohttp": that one)
	$(LOCK) $(or $(ARGS),--upgrade) --extra dicttoxml --group dev -o requirements-dev.lock pyproject.toml
	$(LOCK) --upgrade --group build -c requirements-dev.lock -o requirements.lock pyproject.toml

clean: ## Remove what was made here
	rm -rf $(VENV) build dist *.egg-info bench/build tests/node/node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv that broke half-way is removed: the next run must not take it for a whole one.
$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not. Name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no whole venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch $@

# pip and setuptools come first: one dependency is published as source only, and nothing unlocked may build it.
$(RUNTIME): $(CREATED) requirements.lock pyproject.toml
	@echo "Installing the locked packages into $(VENV)"
	@sed -n '/^\(pip\|setuptools\)==/,/[^\\]$$/p' requirements.lock > $(VENV)/build.lock
	@$(PIP_LOCKED) -r $(VENV)/build.lock
	@$(PIP_LOCKED) -r requirements.lock
	@PYTHONWARNINGS=ignore $(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	@echo "Installing the locked tools of development into $(VENV)"
	@$(PIP_LOCKED) -r requirements-dev.lock
	@mkdir -p $(VENV)/mypy && ln -sfn ../../plugins $(VENV)/mypy/gateway_plugins
	@touch $@

node-sdk: $(NODE)

# Without npm, or without its registry, the one test that wants these packages skips itself and says so.
$(NODE): tests/node/package-lock.json
	@if command -v npm >/dev/null; then \
	  npm ci --prefix tests/node --loglevel error --no-audit --no-fund --ignore-scripts --fetch-retries 1 && touch $@ || \
	  echo "npm ci failed" >&2; fi
