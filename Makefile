# Everything a checkout does. It wants make, Python 3.11 or newer with its venv module, and the package registry.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# A stamp says that the locked packages are installed; it ages with the locks and pyproject.toml.
CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
NODE := tests/node/node_modules/.stamp
# The benchmark's peers and its profiler: each in an environment of its own, so that none of it is a dependency of ours.
# The directory is hidden, since mypy would else check the programs that packages install.
RECIPES := bench/recipes
ENVS := bench/.peers

PIP := $(PY) -m pip --quiet --disable-pip-version-check --no-input
PIP_LOCKED := $(PIP) install --require-hashes --no-deps --no-build-isolation
LOCK := $(PY) -m uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-long check node-sdk bench peers peers-lock profile lock format clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Serve: OpenAI's gateway with OPENAI_API_KEY set, else the demonstration (PORT=9000, ARGS="…")
	@exec $(PY) -m gateway $(if $(OPENAI_API_KEY),serve,demo) $(if $(PORT),--port $(PORT)) $(ARGS)

test: check node-sdk ## Run every check, the tests last (ARGS="-k name")
	$(PY) -m pytest $(ARGS)

test-long: $(DEV) ## Run the tests that take minutes: a hundred kills under load (ARGS="-k name")
	$(PY) -m pytest -m long $(ARGS)

check: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(RUNTIME) ## Measure the gateway beside nginx and the peers that are installed (ARGS="--quick")
	$(PY) -m bench $(ARGS)

peers: ## Install LiteLLM's proxy and Portkey's gateway for the benchmark, apart from everything else
	@$(MAKE) --no-print-directory $(ENVS)/litellm/.stamp || echo "LiteLLM could not be installed: the benchmark goes without" >&2
	@$(MAKE) --no-print-directory $(ENVS)/portkey/.stamp || echo "Portkey could not be installed: the benchmark goes without" >&2

profile: $(RUNTIME) $(ENVS)/py-spy/.stamp ## Write where the time of a call and a chunk goes to bench/results/profile.md
	$(PY) -m bench.profile $(ARGS)

peers-lock: $(DEV)
	for name in litellm py-spy; do $(LOCK) --upgrade -o $(RECIPES)/$$name.lock $(RECIPES)/$$name.in || exit 1; done
	npm install --prefix $(RECIPES)/portkey --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

format: $(DEV) ## Rewrite the source as the checks want it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# dicttoxml, under the GPL, is for the tests and for those who ask for the extra: `make run` does not install it.
lock: $(DEV) ## Remake the locks from pyproject.toml, every package at its newest (ARGS="--upgrade-package aiohttp": that one)
	$(LOCK) $(or $(ARGS),--upgrade) --extra dicttoxml --group dev -o requirements-dev.lock pyproject.toml
	$(LOCK) --upgrade --group build -c requirements-dev.lock -o requirements.lock pyproject.toml

clean: ## Remove what was made here
	rm -rf $(VENV) build dist *.egg-info bench/build $(ENVS) tests/node/node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache
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

$(ENVS)/portkey/.stamp: $(RECIPES)/portkey/package.json $(RECIPES)/portkey/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)
	@npm ci --prefix $(@D) --loglevel error --no-audit --no-fund --ignore-scripts --fetch-retries 1
	@touch $@

$(ENVS)/%/.stamp: $(RECIPES)/%.lock
	@echo "Installing $* into $(@D)"
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes --no-deps -r $<
	@touch $@
