# Everything a person or a CI machine does with this repository. What takes more than a few lines is in scripts/.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

TARGET := $(shell uname -m)-unknown-linux-gnu
SOULBOX := target/release/soulbox
# Templates are kept here between runs; tests take them over by hard links.
DATA_DIR ?= .soulbox
# Sandboxes need root; nothing else does.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env env "PATH=$(PATH)")

.PHONY: help setup guest build base serve demo check test test-kernels soak deny fuzz sbom dist bench guard clean-tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: distribution packages, official clients for the tests
	@scripts/setup

guest: ## build the programs that go into sandboxes, static and small
	@scripts/need-cargo
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile guest --target $(TARGET) \
	  --target-dir target/guest -p soulbox-jail -p soulbox-envd -p soulbox-tar -p soulbox-interpreter

build: guest ## build soulbox with both inside: target/release/soulbox
	cargo build --locked --release -p soulbox

base: build ## make the base template in $(DATA_DIR), and fetch CRIU; quick when they are there
	$(AS_ROOT) $(SOULBOX) template bootstrap base --data-dir $(DATA_DIR)
	$(AS_ROOT) $(SOULBOX) criu --data-dir $(DATA_DIR) || echo "SKIP: without CRIU no memory goes to disk, and its tests are left out"

serve: setup base ## run a server on 127.0.0.1:3000 until Ctrl-C
	$(AS_ROOT) $(SOULBOX) serve --data-dir $(DATA_DIR)

demo: setup base ## start a server, run examples/demo.py with the official package, stop
	@$(AS_ROOT) scripts/demo $(SOULBOX) $(DATA_DIR)

check: guest ## formatting and lints, warnings are errors
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

test: setup base ## unit, privileged and conformance tests, with totals
	@$(AS_ROOT) scripts/test $(DATA_DIR)

test-kernels: setup base ## boot Debian's kernels under QEMU and run the server on each
	@$(AS_ROOT) tests/kernels/run --base-data $(DATA_DIR)

soak: setup base ## SOAK_MINUTES (30) of mixed load while the server is killed now and then
	@$(AS_ROOT) tests/soak/run --base-data $(DATA_DIR)

bench: setup base ## measure everything, beside the container runtimes that are installed: docs/performance.md
	@$(AS_ROOT) scripts/bench $(SOULBOX) $(DATA_DIR)

guard: setup base ## a short bench that fails when something has become slower than what takes turns with it
	@$(AS_ROOT) scripts/guard $(SOULBOX) $(DATA_DIR)

deny: ## licences, bans, sources and known vulnerabilities of what comes from outside
	@scripts/need-cargo
	@scripts/deny

fuzz: ## search for inputs that break a property, FUZZ_SECONDS=60 for each target
	@scripts/need-cargo
	@scripts/fuzz

sbom: ## what the programs are made of, as CycloneDX, in dist/
	@scripts/need-cargo
	@scripts/sbom dist

dist: build sbom ## the one file to install, with its SHA-256 and its parts, in dist/
	install -D -m 0755 $(SOULBOX) dist/soulbox
	cd dist && sha256sum soulbox >soulbox.sha256 && cat soulbox.sha256

clean-tools: ## remove the official clients that setup installed
	rm -rf .tools
