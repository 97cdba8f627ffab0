# The doors for people. Everything ends up in .venv; `make clean` removes it again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAKE ?=

# The S3 server of the tests and measurements is in Rust. Without a recent one its tests are skipped.
RUST_NEEDED := $(shell sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' native/Cargo.toml)
RUST := $(shell cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
HAS_RUST := $(shell test "$(RUST)" -ge $(RUST_NEEDED) 2>/dev/null && echo yes)
LAKESIM := native/target/release/lakesim

.DEFAULT_GOAL := help
.PHONY: help build system-packages test check test-native check-native demo bench docs clean

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

$(LAKESIM): native/Cargo.toml native/Cargo.lock $(shell find native/lakesim -type f)
	cd native && cargo build --quiet --release --locked -p lakesim
	@touch $@

test-native: # Rust's own tests
	cd native && cargo test --quiet --locked

check-native:
	cd native && cargo fmt --check
	cd native && cargo clippy --quiet --all-targets --locked -- -D warnings

test: $(VENV)/.dev $(if $(HAS_RUST),$(LAKESIM) test-native) ## every test but the long ones (real mounts, a real S3 server)
	$(BIN)/python -m pytest -m 'not long' $(PYTEST_ARGS)

check: $(VENV)/.dev $(if $(HAS_RUST),check-native) ## lint, format, types
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
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis native/target
