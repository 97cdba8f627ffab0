# The doors for people. Everything ends up in .venv; `make clean` removes it again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAKE ?=

.DEFAULT_GOAL := help
.PHONY: help build system-packages test check demo bench docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

system-packages: ## what the machine needs (says what it installs, then installs it)
	@PYTHON=$(PYTHON) sh .ci/system-packages

build: $(VENV)/.built ## .venv/bin/tierfs

$(VENV)/.built: pyproject.toml requirements.txt .ci/system-packages
	@$(MAKE) --no-print-directory system-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.built requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

test: $(VENV)/.dev ## every test but the long ones (real mounts, a real S3 server)
	$(BIN)/python -m pytest -m 'not long' $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(VENV)/.built ## see it work, in under five minutes (LAKE=s3://... reads your own data)
	$(BIN)/python -m bench.demo $(if $(LAKE),--lake $(LAKE))

bench: $(VENV)/.dev ## the measured bars, one table
	$(BIN)/python -m bench

docs: $(VENV)/.built ## write docs/configuration.md from the option table
	$(BIN)/tierfs reference > docs/configuration.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
