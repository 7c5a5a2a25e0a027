# One profile (release) and one target directory for everything, so that RocksDB is compiled once.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# Where rustup puts cargo, for shells that were not told.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help deps build up down test scale verify fix clean
.DEFAULT_GOAL := help

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Installs the Debian packages that are missing (needs root or sudo for that)
	@scripts/deps

build: deps ## Builds all programs
	cargo build --release

up: build ## Starts metad and three chunkds on this machine and mounts them at ./mnt
	@$(BIN)/dfs dev up --dir .dev --mount ./mnt

down: ## Unmounts ./mnt and stops what `make up` started; the data stays
	@if [ -f .dev/cluster.toml ]; then $(BIN)/dfs dev down --dir .dev; else echo "nothing was started here"; fi

test: build ## Runs all tests, real daemons and real mounts included
	@scripts/test

scale: build ## Measures metad with a million files: memory, restart, check (some minutes)
	DFS_SCALE=1 cargo test --release -p dfs-integration --test scale -- --nocapture

verify: build ## Checks format, lints, tests and documentation; changes nothing
	cargo fmt --all -- --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	@scripts/test
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

fix: ## Formats, and applies what the lints can repair
	cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

clean: ## Removes what was built; keeps the data in .dev
	cargo clean
