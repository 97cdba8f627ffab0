# The doors for people. Everything ends up in .venv; `make clean` removes it again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAKE ?=
FUZZ_S ?= 600
# Processes that run tests; 0: none beside pytest's own, for a debugger.
WORKERS ?= auto

# The S3 server and the clients of the measurements are in Rust; without a recent one the tests that
# need them are skipped, and there is no `make bench`.
RUST_NEEDED := $(shell sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' native/Cargo.toml)
RUST := $(shell cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
HAS_RUST := $(shell test "$(RUST)" -ge $(RUST_NEEDED) 2>/dev/null && echo yes)
NATIVE := native/target/release
# Where the tests and the benchmark look for them, whatever the caller's environment says.
export CARGO_TARGET_DIR := $(CURDIR)/native/target

.DEFAULT_GOAL := help
.PHONY: help build system-packages test check test-native check-native native demo bench bench-quick bars fuzz audit docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

system-packages: ## what the machine needs (says what it installs, then installs it)
	@PYTHON=$(PYTHON) sh .ci/system-packages

build: $(VENV)/.built ## .venv/bin/tierfs

$(VENV)/.built: pyproject.toml requirements.txt .ci/system-packages $(shell find native/listing -type f)
	@$(MAKE) --no-print-directory system-packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.built requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

native: $(NATIVE)/.built

$(NATIVE)/.built: native/Cargo.toml native/Cargo.lock $(shell find native/front native/lakesim native/listing native/loadgen -type f)
	cd native && cargo build --quiet --release --locked
	@install -m 755 $(NATIVE)/lib_listing.so tierfs/_listing.abi3.so
	@touch $@

test-native: # Rust's own tests
	cd native && cargo test --quiet --locked

check-native:
	cd native && cargo fmt --check
	cd native && cargo clippy --quiet --all-targets --locked -- -D warnings

test: $(VENV)/.dev $(if $(HAS_RUST),native test-native) ## every test but the long ones (real mounts, a real S3 server)
	$(BIN)/python -m pytest -m 'not long' -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

check: $(VENV)/.dev $(if $(HAS_RUST),check-native) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(VENV)/.built ## see it work, in under five minutes (LAKE=s3://... reads your own data)
	$(BIN)/python -m bench.demo $(if $(LAKE),--lake $(LAKE))

bench: $(VENV)/.dev native ## how fast it is beside the others: all scenarios, a table and a page (hours; goes on where it was cut off)
	$(BIN)/python -m bench run --resume --json bench.json --html bench.html

bench-quick: $(VENV)/.dev native ## the same in ten minutes: smaller data, fewer rounds
	$(BIN)/python -m bench run --quick --json bench-quick.json --html bench-quick.html

bars: $(VENV)/.dev ## tierfs's own bars, without peers
	$(BIN)/python -m bench bar

fuzz: ## fuzz the native front's decoders, ten minutes each (needs cargo-fuzz: cargo install cargo-fuzz)
	cd native/fuzz && for target in request record upcall answer; do \
		RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target cargo fuzz run $$target -- -max_total_time=$(FUZZ_S) || exit 1; done

audit: ## licences and advisories of the Rust crates (needs cargo-deny: cargo install cargo-deny, and the network)
	cd native && cargo deny --locked check

docs: $(VENV)/.built ## write docs/configuration.md from the option table
	$(BIN)/tierfs reference > docs/configuration.md

clean:
	rm -rf native/fuzz/target $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis native/target tierfs/*.so
