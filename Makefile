# One profile (release) and one target directory for everything, so that RocksDB is compiled once.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release
# Where rustup puts cargo, for shells that were not told.
export PATH := $(PATH):$(HOME)/.cargo/bin
# A clang++ that compiles RocksDB in half the time; what cargo does without it is the same but slower.
export PATH := $(CURDIR)/scripts/compilers:$(PATH)

.PHONY: help healing deps tools build programs-and-tests up down test scale faults conformance apps fuzz fuzz-parsers verify fix clean bench
.DEFAULT_GOAL := help

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Installs the Debian packages that are missing (needs root or sudo for that)
	@scripts/deps

tools: deps ## Installs the test suites that others wrote, beside what is built
	@scripts/tools

build: deps ## Builds all programs
	cargo build --release

up: build ## Starts metad and three chunkds on this machine and mounts them at ./mnt
	@$(BIN)/dfs dev up --dir .dev --mount ./mnt

down: ## Unmounts ./mnt and stops what `make up` started; the data stays
	@if [ -f .dev/cluster.toml ]; then $(BIN)/dfs dev down --dir .dev; else echo "nothing was started here"; fi

# All at once: programs that are built without the tests would be compiled again with the features that tests want.
programs-and-tests: deps
	cargo build --release --workspace --all-targets

test: programs-and-tests tools ## Runs all tests, real daemons and real mounts included
	@scripts/test

scale: build ## Measures metad with a million files: memory, restart, check (some minutes)
	DFS_SCALE=1 cargo test --release -p dfs-integration --test scale -- --nocapture

faults: build ## Breaks two things at a time at random under load, 100 rounds (DFS_FAULT_ROUNDS, DFS_SEED; a quarter of an hour)
	DFS_FAULT_ROUNDS=$${DFS_FAULT_ROUNDS:-100} cargo test --release --workspace --test healing -- --nocapture two_faults

healing: build ## Runs the tests of healing for long: an hour of overwriting, a gigabyte missed (two hours)
	DFS_LONG=1 cargo test --release --workspace --test healing -- --nocapture --test-threads=1

conformance: build tools ## Runs pjdfstest, fsx, stress-ng and fio for long (an hour and a half)
	DFS_LONG=1 cargo test --release --workspace --test conformance -- --nocapture --test-threads=1

apps: build tools ## Runs PostgreSQL, sqlite, git, rsync, cargo, npm and overlayfs on a mount for long (about ten minutes)
	@scripts/deps apps
	DFS_LONG=1 cargo test --release --workspace --test apps -- --nocapture --test-threads=1 --include-ignored

fuzz: build ## Compares a mount with a local directory, call by call, for two hours (DFS_FUZZ_MINUTES, DFS_FUZZ_SEED)
	DFS_FUZZ_MINUTES=$${DFS_FUZZ_MINUTES:-120} cargo test --release --workspace --test fuzz -- --nocapture --test-threads=1 a_mount

fuzz-parsers: build ## Fuzzes all parsers of what peers and disks bring, an hour each (DFS_FUZZ_SECONDS, TARGETS)
	@scripts/fuzz-parsers $(TARGETS)

bench: build ## Measures this, the local disk and every competitor installed; three times; writes docs/benchmark.md (two hours with all four)
	@scripts/bench $(ARGS)

verify: programs-and-tests tools ## Checks format, lints, tests and documentation; changes nothing
	cargo fmt --all -- --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	@scripts/test
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

fix: ## Formats, and applies what the lints can repair
	cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

clean: ## Removes what was built; keeps the data in .dev
	cargo clean
