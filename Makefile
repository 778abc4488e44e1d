# What people and CI do with this project. `make` alone lists the targets.
#
#   PYTHON=python3.12 make test      another interpreter for a new .venv
#   make test ARGS="-k highwater"    arguments for the command behind the target

PYTHON ?= python3
ARGS ?=
# Test processes at a time; each starts PostgreSQL servers of its own. Two for a processor: half of the time, a test waits.
JOBS ?= 4
BIN := .venv/bin
STAMP := .venv/.installed
# Directories that are checked when they are there.
TYPED := $(wildcard src projections examples tests bench faults)

.DEFAULT_GOAL := help
.PHONY: help demo test unit bench faults lint type layers check format build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11; say which to use: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## run the daemon on an embedded PostgreSQL with live orders
	$(BIN)/projectiond demo $(ARGS)

test: $(STAMP) ## run all tests: unit, integration, acceptance
	$(BIN)/pytest -n $(JOBS) --maxschedchunk 1 $(ARGS)

unit: $(STAMP) ## run the tests that need no database
	$(BIN)/pytest tests/unit $(ARGS)

bench: $(STAMP) ## measure catch-up, latency, the writers' throughput and memory
	$(BIN)/python -m bench $(ARGS)

faults: $(STAMP) ## kill, stop, cut and fill whatever there is, and see that no event is lost
	$(BIN)/python -m faults $(ARGS)

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

type: $(STAMP) ## check types
	$(BIN)/mypy $(TYPED)

layers: $(STAMP) ## check that imports go down only
	$(BIN)/lint-imports

check: lint type layers test ## everything that CI checks

format: $(STAMP) ## mend style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: $(STAMP) ## build the sdist and, from it, the wheel
	rm -rf dist
	$(BIN)/python -m build

clean: ## remove everything that was made here, the embedded PostgreSQL's data too
	rm -rf .venv .projectiond dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
