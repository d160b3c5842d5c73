# What can be done here: make help

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto

# Tools that are built once and kept with the tree.
TOOLS := $(CURDIR)/.cache/tools
DENY_VERSION := 0.20.2
export PATH := $(PATH):$(TOOLS)/bin

.PHONY: help setup build lint programs demo test check fmt deps openapi deny unit e2e bench soak lines clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 18

setup: ## install what building, testing and the demo need (apt)
	scripts/setup.sh test

build: ## release binaries in target/release
	scripts/setup.sh build
	cargo build --release --locked -p lifeboat -p lifeboat-agent

demo: build ## protect, drill, lose and recover a real machine on this host; KEEP=1 leaves it running
	scripts/setup.sh demo
	scripts/demo.sh

test: ## everything a change must pass: checks, unit, property, conformance and end-to-end tests
	scripts/setup.sh test
	$(MAKE) lint
	$(MAKE) unit
	$(MAKE) e2e

check: lint ## formatting, lints, unit tests, imports, API description, licences
	cargo test --workspace --locked --lib --bins --quiet

lint: fmt
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(MAKE) programs
	target/debug/xtask deps
	target/debug/xtask lines
	target/debug/xtask reliability
	target/debug/xtask openapi --check
	$(MAKE) deny

# Always the whole workspace, so that every dependency is built once, with one set of features.
programs:
	cargo build --workspace --bins --locked

fmt:
	cargo fmt --all -- --check

# Licences, banned and duplicate crates, sources. Needs no network once cargo-deny is there; where it is
# not it is built, without optimisation because it runs for seconds.
deny: ## licences, banned crates and sources of dependencies
	@command -v cargo-deny >/dev/null || { \
	  echo "building cargo-deny $(DENY_VERSION) into .cache/tools, once"; \
	  cargo install --quiet --locked --debug --root $(TOOLS) cargo-deny@$(DENY_VERSION); }
	cargo deny --locked check bans licenses sources

# Everything but the end-to-end tests, which want the machine for themselves.
unit: programs ## unit, property, protocol and conformance tests
	@if command -v cargo-nextest >/dev/null; then \
	  echo "cargo nextest run"; \
	  cargo nextest run --workspace --locked --no-fail-fast -E 'not package(lifeboat-e2e)'; \
	else \
	  echo "cargo test (cargo-nextest is not installed)"; \
	  cargo test --workspace --locked --no-fail-fast --exclude lifeboat-e2e; \
	fi

# One after the other: each boots machines.
e2e: programs ## end-to-end tests with real processes and machines
	@if command -v cargo-nextest >/dev/null; then \
	  echo "cargo nextest run, end to end"; \
	  cargo nextest run --workspace --locked --no-fail-fast --test-threads 1 -E 'package(lifeboat-e2e)'; \
	else \
	  cargo test --locked --no-fail-fast -p lifeboat-e2e -- --test-threads=1; \
	fi

bench: build ## measure against peers; prints: name value goal ok|SHORT
	scripts/setup.sh bench
	cargo run --release --locked -p lifeboat-bench

# A quarter of the time each goes to fuzzing and to simulated worlds, in the profile of the tests: it checks more.
soak: build programs ## fuzz, simulate fresh worlds, then end-to-end tests with many kill rounds again and again, for SOAK seconds (default 3600)
	scripts/setup.sh test
	end=$$((SECONDS + $${SOAK:-3600})); \
	target/debug/lifeboat-fuzz run --for $$(($${SOAK:-3600} / 4)); \
	target/debug/lifeboat-sim world --for $$(($${SOAK:-3600} / 4)) || exit 1; round=0; \
	while [ $$SECONDS -lt $$end ]; do round=$$((round + 1)); echo "soak: round $$round"; \
	  KILL_ROUNDS=$${KILL_ROUNDS:-100} $(MAKE) e2e; done

openapi: ## write docs/openapi.json from the code
	cargo xtask openapi

deps:
	cargo xtask deps

lines:
	cargo xtask lines

clean: ## remove what was built
	cargo clean
