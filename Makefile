# Flame: build, install, test. `make help` lists the targets; each works on its own.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Where install-dev puts a cluster that needs neither root nor systemd.
INSTALL_PREFIX ?= /tmp/flame-dev
# Address of the cluster; the port after it is the node link.
FLAME_ENDPOINT ?= http://127.0.0.1:8080
export INSTALL_PREFIX FLAME_ENDPOINT
# A test of colours would fail.
unexport NO_COLOR

# cargo's target folder, as hack/common.sh finds it (CARGO_TARGET_DIR is honoured).
TARGET = $$(. hack/common.sh && target_dir)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PYTHON_CODE = hack e2e examples
E2E_ARGS ?=
BENCH_ARGS ?=
FLAME_SOAK_SECONDS ?= 60
# Seeds of the simulation, or the one to repeat.
SEEDS ?= 2000
SEED ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  INSTALL_PREFIX (now $(INSTALL_PREFIX)) and FLAME_ENDPOINT (now $(FLAME_ENDPOINT)) choose the development cluster."

# -- build ------------------------------------------------------------------------------------

.PHONY: build
build: ## Build everything for development
	cargo build --workspace --locked

.PHONY: build-release
build-release: ## Build everything for use
	cargo build --workspace --locked --release

.PHONY: format
format: ## Format the code
	cargo fmt --all
	"$$(hack/python-env.sh venv)" -m ruff format $(PYTHON_CODE)

.PHONY: lint
lint: ## Check the formatting, run clippy and ruff; warnings are errors
	cargo fmt --all --check
	"$$(hack/python-env.sh venv)" -m ruff format --no-cache --check $(PYTHON_CODE)
	"$$(hack/python-env.sh venv)" -m ruff check --no-cache $(PYTHON_CODE)
	cargo clippy --workspace --all-targets --locked -- -D warnings

# -- try --------------------------------------------------------------------------------------

.PHONY: quickstart
quickstart: ## Build, start a private cluster, run 10,000 tasks and a word count, remove it
	@env -u FLAME_ENDPOINT hack/quickstart.sh

.PHONY: bench
bench: build-release ## Measure everything docs/benchmarks.md names; BENCH_ARGS="--quick" for a look
	@python3 hack/bench.py --bin-dir "$(TARGET)/release" $(BENCH_ARGS)

.PHONY: bench-micro
bench-micro: ## Measure the session manager's core, scheduler and store alone
	cargo bench -p flame-session-manager --locked

# -- install ----------------------------------------------------------------------------------

.PHONY: install
install: build-release ## Install into /usr/local/flame with systemd units and start them (root)
	$(SUDO) "$(TARGET)/release/flmadm" install --all --skip-build --enable --bin-dir "$(TARGET)/release" --src-dir .

.PHONY: install-dev
install-dev: build-release ## Install into INSTALL_PREFIX, without systemd and root
	FLAME_BIN_DIR="$(TARGET)/release" hack/local-test.sh install

.PHONY: uninstall
uninstall: ## Remove the installation of `make install` (root; data is backed up)
	$(SUDO) /usr/local/flame/bin/flmadm uninstall --force

.PHONY: uninstall-dev
uninstall-dev: ## Stop and remove the installation in INSTALL_PREFIX
	hack/local-test.sh uninstall

.PHONY: start-services
start-services: ## Start the services of `make install` (root)
	$(SUDO) systemctl start flame.target

.PHONY: stop-services
stop-services: ## Stop the services of `make install` (root)
	$(SUDO) systemctl stop flame.target

# -- test -------------------------------------------------------------------------------------

.PHONY: setup
setup: ## Install what the tests need and this machine lacks (Debian packages, cargo-nextest)
	hack/setup.sh test

.PHONY: unit
unit: ## Run the unit and component tests
	cargo nextest run --workspace --locked --no-fail-fast
	cargo test --workspace --locked --doc --quiet

# The dependencies are those of the other tests; only the core has to be fast.
.PHONY: sim
sim: ## Play SEEDS clusters with all that can go wrong (SEED=N repeats one), and find planted bugs
	FLAME_SIM_SEEDS="$(SEEDS)" FLAME_SIM_SEED="$(SEED)" RUST_BACKTRACE=0 \
	    cargo test -p flame-session-manager --lib --locked \
	    --config 'profile.test.package.flame-session-manager.opt-level=2' core::tests::sim -- --nocapture --test-threads=1

.PHONY: e2e
e2e: setup build ## Run the end-to-end tests, on real systemd nodes too (root)
	FLAME_BIN_DIR="$(TARGET)/debug" hack/e2e.sh all $(E2E_ARGS)

.PHONY: e2e-local
e2e-local: build ## Run the end-to-end tests that need neither systemd nor root
	FLAME_BIN_DIR="$(TARGET)/debug" hack/e2e.sh local $(E2E_ARGS)

.PHONY: e2e-py-local
e2e-py-local: build ## Run the tests of the Python client against a cluster of plain processes
	FLAME_BIN_DIR="$(TARGET)/debug" hack/e2e.sh python $(E2E_ARGS)

.PHONY: e2e-vm
e2e-vm: build ## Test limits of memory and CPU in a virtual machine of its own (qemu, 2 to 5 minutes, root)
	hack/setup.sh vm
	FLAME_BIN_DIR="$(TARGET)/debug" hack/vm/run.sh $(E2E_ARGS)

.PHONY: soak
soak: build ## Kill everything under load for a minute (FLAME_SOAK_SECONDS), fill the disk, cut links (root)
	FLAME_BIN_DIR="$(TARGET)/debug" FLAME_SOAK_SECONDS="$(FLAME_SOAK_SECONDS)" \
	    hack/e2e.sh all test_soak.py test_chaos.py test_link_cuts.py $(E2E_ARGS)
	FLAME_BIN_DIR="$(TARGET)/debug" FLAME_UNIT_STARTS=1000 hack/e2e.sh all test_units.py -k many_starts
	FLAME_BIN_DIR="$(TARGET)/debug" FLAME_KILLS_EVERY=1 hack/e2e.sh all test_kills.py

.PHONY: test
test: ## Run every check and every test, as CI does
	$(MAKE) --no-print-directory setup
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory build
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory sim
	$(MAKE) --no-print-directory e2e
