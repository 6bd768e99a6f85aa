# Commands of this project. Everything is installed into .venv on first use.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install run test faults containers fuzz torture bench bench-quick bench-push screenshot check lint format types coverage clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

install: .venv/installed ## Install everything into .venv

.venv/installed: requirements.txt requirements-client.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'Python 3.11 or newer is needed; name one like this: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo 'Python cannot make virtual environments here. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@echo 'Installing into .venv, once, for a minute or so ...'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

# Apart, so that a first make run waits for nothing that it does not need.
.venv/installed-benchmarks: .venv/installed benchmarks/requirements.txt
	@echo 'Installing what the benchmark needs ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

# Apart for the same reason. The browser itself is the system's: chromium.
.venv/installed-browser: .venv/installed tests/browser/requirements.txt
	@echo 'Installing what drives a browser ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/browser/requirements.txt
	@touch $@

run: .venv/installed ## Run the service with its own PostgreSQL, ready to be called
	@$(BIN)/python -m bulk_metadata.demo

# Processes of pytest-xdist; -n 0 runs the tests in one.
PARALLEL := -n logical --maxprocesses 4
T ?= -m 'not faults and not benchmarks and not browser and not containers'
test: .venv/installed ## Run the tests on a real PostgreSQL; a part: make test T=tests/api
	@$(BIN)/pytest $(PARALLEL) --durations=10 --durations-min=1 $(T)

faults: .venv/installed ## Run the fault tests, which kill, freeze and cut off, for minutes
	@$(BIN)/pytest -m faults

containers: .venv/installed ## Run the service in containers, where there is Docker
	@$(BIN)/pytest tests/containers

# The seed is printed, and with it the same search can be run again.
fuzz: export FUZZ_EXAMPLES ?= 20000
fuzz: export FUZZ_SEED ?= $(shell od -A n -N 4 -t u4 /dev/urandom | tr -d ' ')
fuzz: .venv/installed ## Send the service generated requests, for half an hour
	@echo "To run this again: make fuzz FUZZ_EXAMPLES=$$FUZZ_EXAMPLES FUZZ_SEED=$$FUZZ_SEED"; \
	    $(BIN)/python -m pytest tests/fuzz -v --capture=no --hypothesis-show-statistics

torture: .venv/installed ## Break everything at random for ten minutes, and look for losses
	@TORTURE_SECONDS=$${TORTURE_SECONDS:-600} $(BIN)/pytest -s tests/faults/test_stress.py

bench: .venv/installed-benchmarks ## Run the benchmark (15 min) and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

bench-quick: .venv/installed-benchmarks ## Run a short benchmark (2 min)
	@$(BIN)/python -m benchmarks --effort quick .data/benchmarks

bench-push: .venv/installed-benchmarks ## Measure the upload of a million devices (2 min)
	@$(BIN)/python -m benchmarks.push

screenshot: .venv/installed-benchmarks ## Create docs/push.svg, a screenshot of an upload
	@$(BIN)/python -m benchmarks.screenshot

check: lint types coverage ## Run everything that must be right before a commit

lint: .venv/installed ## Check style and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

format: .venv/installed ## Mend style and format where a program can
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

types: .venv/installed-benchmarks .venv/installed-browser ## Check types
	@$(BIN)/mypy

coverage: .venv/installed-benchmarks .venv/installed-browser ## Run the tests and show that they reach every branch
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -m 'not containers'
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

clean: ## Remove what the other commands made, the demo's data included
	@rm -rf build *.egg-info .venv .venv-alternatives benchmarks/alternatives/*/node_modules .data .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
