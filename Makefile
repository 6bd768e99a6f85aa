# The commands of this project. The first one installs all dependencies into .venv.

PYTHON ?= python3
BIN := .venv/bin
# The tests start hundreds of Python processes, which start faster from compiled modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test check soak mutants lint format types coverage bench bench-quick bench-push screenshot clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

install: .venv/installed ## Install everything into .venv

.venv/installed: requirements.txt requirements-client.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'Python 3.11 or later is required. To choose one: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo 'Python cannot create virtual environments. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@echo 'Installing into .venv (once, about a minute) ...'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

# Separate, because make run does not need them.
.venv/installed-benchmarks: .venv/installed benchmarks/requirements.txt
	@echo 'Installing the dependencies of the benchmark ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

.venv/installed-browser: .venv/installed tests/browser/requirements.txt
	@echo 'Installing the dependencies of the browser tests ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/browser/requirements.txt
	@touch $@

.venv/installed-mutants: .venv/installed tests/mutants-requirements.txt
	@echo 'Installing the dependencies of make mutants ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/mutants-requirements.txt
	@touch $@

run: .venv/installed ## Run the service with an embedded PostgreSQL and a demo organization
	@$(BIN)/python -m bulk_metadata.demo

# Four processes, also on two cores, because most tests wait for another process.
PYTEST := pytest -n 4 --durations=10 --durations-min=1
# The others need a browser, Docker, or the dependencies of the benchmark.
TESTS := tests --ignore=tests/browser --ignore=tests/containers --ignore=tests/benchmarks
T ?= $(TESTS) -m 'not faults'

test: .venv/installed ## Run the tests without fault injection (2 min), or only some: make test T=tests/api
	@$(BIN)/$(PYTEST) $(T)

check: lint types coverage ## Run all checks before a commit: lint, types, coverage (5 min)

soak: export SOAK_FACTOR ?= 50
soak: export SOAK_SEED ?= $(shell od -A n -N 4 -t u4 /dev/urandom | tr -d ' ')
soak: .venv/installed-benchmarks ## Run long random searches, fault injection, and the tests of the benchmark (30 min)
	@echo "To repeat this run: make soak SOAK_FACTOR=$$SOAK_FACTOR SOAK_SEED=$$SOAK_SEED"
	@$(BIN)/$(PYTEST) --hypothesis-seed=$$SOAK_SEED -m 'soak or hypothesis or benchmarks'

mutants: .venv/installed-mutants ## Run mutation tests of the core modules (25 min)
	@$(BIN)/python -m tests.mutants

bench: .venv/installed-benchmarks ## Run the benchmark (15 min) and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

bench-quick: .venv/installed-benchmarks ## Run a short benchmark (2 min)
	@$(BIN)/python -m benchmarks --effort quick .data/benchmarks

bench-push: .venv/installed-benchmarks ## Measure check, upload, import and export of a million devices (5 min)
	@$(BIN)/python -m benchmarks.push

screenshot: .venv/installed-benchmarks ## Create docs/push.svg, a screenshot of an upload
	@$(BIN)/python -m benchmarks.screenshot

lint: .venv/installed ## Check style, format, and the layers of the package
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@output=$$($(BIN)/lint-imports --no-logo) || { echo "$$output"; exit 1; }

format: .venv/installed ## Fix lint and format issues automatically
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

types: .venv/installed-benchmarks .venv/installed-browser ## Check types
	@$(BIN)/mypy

coverage: .venv/installed ## Run the tests and the fault tests with branch coverage
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m $(PYTEST) $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

clean: ## Remove all generated files, including the data of make run
	@rm -rf build *.egg-info .venv .venv-alternatives benchmarks/alternatives/*/node_modules .data .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
