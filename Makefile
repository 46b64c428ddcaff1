# What one does with this repository, one word each. `make` alone lists them.

SHELL := /bin/bash
CARGO ?= cargo
SERVERS := tests/servers/servers

# Where `make dev` keeps its state, and where it listens.
DATA ?= target/dev
LISTEN ?= 127.0.0.1:8080

# How long `make torture` lasts, and the seed of its plan: another each time unless it is given.
SECONDS ?= 120
SEED ?= $(shell date +%s)

.PHONY: help build demo dev test test-fast test-kubernetes test-spark torture servers-up servers-down lint fmt layering deny bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary, in debug
	$(CARGO) build --locked

demo: ## a tour on embedded parts: uploads, reports, refused rows, an e-mail, two queries; needs no server
	@.ci/toolchain
	@examples/demo.sh

dev: ## tidemill on embedded parts until Ctrl-C; DATA=folder LISTEN=address
	$(CARGO) run --locked --bin tidemill -- dev --data $(DATA) --listen $(LISTEN) --pipelines pipelines

test: ## every test, on real servers, installed and started when missing, stopped at the end
	@.ci/toolchain
	@$(SERVERS) with $(CARGO) test --workspace --locked --no-fail-fast

test-fast: ## the tests that need no server
	$(CARGO) test --locked -p tidemill-pipelines
	$(CARGO) test --locked --workspace --lib --exclude tidemill-pipelines

test-kubernetes: ## k8s/, Dockerfile, compose.yaml and workflows, on a real kube-apiserver, built once by Go, and real servers
	@.ci/toolchain
	@$(SERVERS) with tests/kubernetes/run

test-spark: ## the lake under Apache Spark with two executors; fetches 400 MB, once
	@.ci/toolchain
	@# Built as for the other tests: `cargo build` would choose other features of the libraries and build them all again.
	$(CARGO) test --workspace --locked --no-run --test house
	@tests/spark/spark $${CARGO_TARGET_DIR:-target}/debug/tidemill

torture: ## a cluster on real servers under kills, cuts, restarts and failpoints, then the checker; SECONDS=… SEED=…; needs root
	@.ci/toolchain
	@# Built as for the other tests: that binary has failpoints.
	$(CARGO) test --workspace --locked --no-run --test house
	@$(SERVERS) with tests/torture/torture $${CARGO_TARGET_DIR:-target}/debug/tidemill "$(SECONDS)" "$(SEED)"

servers-up: ## the test servers, left running; prints the variables that tests read
	@$(SERVERS) up

servers-down: ## stops them
	@$(SERVERS) down

lint: fmt layering deny ## format, clippy, layering, licences and advisories; warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

fmt: ## is all code formatted?
	$(CARGO) fmt --all --check

layering: ## do the crates lean only on those below them?
	$(CARGO) test --locked --workspace --test house

deny: ## licences, advisories and sources of the dependencies
	@.ci/deny

bench: ## measurements on real servers, printed; benches/README.md tells what they mean
	$(CARGO) build --locked --release --bins -p tidemill -p tidemill-benches
	python3 benches/decode_peers.py
	@$(SERVERS) with bash -ec 'for program in decode flights latency fetch query lake; do target/release/$$program; done'
