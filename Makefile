POSTGRES := tests/support/postgres.sh
SCRIPTS := $(wildcard tests/*/*.sh) .ci/run .ci/release

.PHONY: help run demo-db demo-db-stop test test-versions torture simulate soak lint rust-version bench dist try-packages install uninstall clean
.DEFAULT_GOAL := help
# What a property test finds is printed with its seed; it leaves no file among the sources.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE := true
# Most tests wait for something: two cores carry four of them at once. With six, busy machines miss deadlines.
export RUST_TEST_THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 4); echo $$((n > 4 ? n : 4)))
export PREFIX DESTDIR

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Sync 100 campaigns from a mock API to a throwaway Postgres (FAITHFUL=1: in real time, 11 minutes)
	@FAITHFUL=$(FAITHFUL) tests/support/demo.sh run

demo-db: ## The same, but leave the database up and say how to connect
	@FAITHFUL=$(FAITHFUL) tests/support/demo.sh db

demo-db-stop: ## End and remove the database of demo-db
	@tests/support/demo.sh db-stop

test: ## Run all tests, against a real Postgres
	@$(POSTGRES) install
	@cargo test --workspace --all-features --locked --no-run
	@$(POSTGRES) with target/test -- sh -c \
		'CAMPAIGN_SYNC_TEST_DATABASE=$$POSTGRES_URL exec cargo test --workspace --all-features --locked --no-fail-fast'

test-versions: ## Run the tests of what is stored on each Postgres from 13 to 18, fetched by npm (VERSIONS="13 18", TESTS="sync resume": some)
	@VERSIONS="$(VERSIONS)" TESTS="$(TESTS)" tests/support/versions.sh

torture: ## Sync under ever new schedules of faults, and feed the parsers nonsense (SECONDS=600; SEED=n: the first seed), and count what breaks
	@$(POSTGRES) install
	@FUZZ_SECONDS=$$(($(or $(SECONDS),600) / 10 + 1)) FUZZ_SEED=$(or $(SEED),$$(date +%s)) \
		cargo test --locked --test fuzz -- --nocapture
	@TORTURE_SECONDS=$(or $(SECONDS),600) SEED=$(SEED) cargo test --locked --test torture -- --nocapture

simulate: ## Play the engine under schedules of faults on virtual time (SECONDS=60; SEED=n: the first seed) and count what breaks
	@SIMULATE_SECONDS=$(or $(SECONDS),60) SEED=$(or $(SEED),$$(date +%s)) \
		cargo test --release --locked --test simulation -- --nocapture

soak: ## Sync without a pause under faults, and show that memory, files, connections and tables stay flat (SECONDS=1800)
	@$(POSTGRES) install
	@SOAK_SECONDS=$(SECONDS) cargo test --locked --test torture flat -- --ignored --nocapture

lint: ## Check format, lints, documentation and scripts
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --all-features --no-deps --locked
	@for script in $(SCRIPTS); do bash -n $$script || exit 1; done
	@tests/support/deny.sh
	@if command -v shellcheck >/dev/null; then shellcheck -x -S warning $(SCRIPTS); fi

rust-version: ## Check that the Rust version stated in Cargo.toml is enough
	@tests/support/rust_version.sh

bench: dist ## Measure speed, memory and limits as one table, in about 25 minutes (PARTS="a b c d e f g h" for some of it)
	@$(POSTGRES) install
	@cargo build --release --workspace --bins --examples --locked
	@$(POSTGRES) with target/bench -- sh -c 'exec $${CARGO_TARGET_DIR:-target}/release/examples/bench "$$POSTGRES_URL" $(PARTS)'

dist: ## Build target/dist/campaign-sync, one static binary, and pack it as a tarball, .deb, .rpm and OCI image
	@tests/support/dist.sh

try-packages: ## Install, upgrade and remove what dist has packed, below a folder, and start the image's program
	@tests/support/try_packages.sh

install: ## Install the static program, manual page, completions and systemd units below PREFIX (/usr/local), within DESTDIR if set
	@tests/support/dist.sh program
	@tests/support/install.sh target/dist/campaign-sync target/dist/campaign-sync.1

uninstall: ## Remove what install has put there
	@tests/support/install.sh --remove

clean: demo-db-stop ## Remove everything that was built
	@cargo clean
