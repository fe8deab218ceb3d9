# The single door: what can be done here. `make` alone lists it.

CARGO_FLAGS := --locked
ROOT := $(filter 0,$(shell id -u))

.PHONY: help run test test-rungs-1-2 test-peers test-rung-3 killer not-as-root bench bench-quick bench-smoke lint lint-unit deb rpm bless tools clean

help: ## This list.
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: ## Show drained being stopped, restarted and killed under load, in about 15 s.
	cargo run $(CARGO_FLAGS) --release -- demo

test: $(if $(ROOT),tools) test-rungs-1-2 bench-smoke $(if $(ROOT),test-peers test-rung-3,not-as-root) ## All tests; as root those with real servers and systemds too.

# Pure logic, and the real binary against a fake service manager. Then the library alone.
test-rungs-1-2:
	cargo test $(CARGO_FLAGS)
	cargo test $(CARGO_FLAGS) --no-default-features --lib

# The real binary between servers and clients that others wrote, one test after the other: some
# measure when a stop ends.
test-peers:
	cargo test $(CARGO_FLAGS) --test it -- --ignored --test-threads=1 peers::

killer: ## Kill the daemon at points chosen by a seed, for an hour or DRAINED_KILLER_SECONDS.
	DRAINED_KILLER_SECONDS=$${DRAINED_KILLER_SECONDS:-3600} \
	    cargo test $(CARGO_FLAGS) --test it -- --nocapture --test-threads=1 not_one_byte

# The installed package under a real systemd 252 and a real 257, one test after the other: some
# measure milliseconds, others load both cores.
test-rung-3: deb rpm
	DRAINED_TEST_DEB="$$(realpath target/debian/drained_*.deb)" \
	DRAINED_TEST_RPM="$$(realpath target/generate-rpm/drained-*.rpm)" \
	    sh -euc 'cargo test $(CARGO_FLAGS) --test it -- --ignored --test-threads=1 systemd::; \
	        cargo test $(CARGO_FLAGS) --bench restarts -- --rounds 1 --connections 200'

not-as-root:
	@echo '======================================================================'
	@echo 'NOT RUN: the tests with real servers and clients (nginx, PostgreSQL, ...),'
	@echo 'and those of the installed package under a real systemd 252 and 257.'
	@echo 'They install packages, boot containers and need root:'
	@echo '    sudo env "PATH=$$PATH" make test'
	@echo '======================================================================'

# Everything with one worker, the core with two, and restarts. Nothing else may run meanwhile.
bench: ## Measure drained beside haproxy, nginx and socket-proxyd, into docs/benchmarks.md: half an hour.
	benches/run

bench-quick: ## The core of it, in less than three minutes.
	cargo bench $(CARGO_FLAGS) --bench compare -- --quick --rounds 5 --seconds 0.15

# That they work: not what they measure.
bench-smoke:
	cargo test $(CARGO_FLAGS) --bench compare -- --quick --rounds 1 --seconds 0.1
	cargo test $(CARGO_FLAGS) --bench micro

lint: lint-unit ## Everything that is checked without running the program.
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets --all-features -- -D warnings
	cargo clippy $(CARGO_FLAGS) --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(CARGO_FLAGS) --no-deps
	# Without advisories: their database changes from day to day, and a build with it.
	cargo deny check bans licenses sources

# The unit's exposure, here from the file; the tests ask systemd 252 and 257 about the installed
# one. 15 stands for 1.5.
lint-unit:
	systemd-analyze security --offline=true --no-pager --threshold=15 units/drained.service >/dev/null

deb: ## The Debian package, in target/debian.
	cargo build $(CARGO_FLAGS) --release --bins
	rm -rf target/debian
	cargo deb $(CARGO_FLAGS) --no-build --dbgsym
	lintian --allow-root --fail-on error,warning target/debian/drained_*.deb

rpm: ## The RPM package, in target/generate-rpm.
	cargo build $(CARGO_FLAGS) --release --bins
	rm -rf target/generate-rpm
	cargo generate-rpm

bless: ## Write the generated files (man pages, completions) anew.
	DRAINED_BLESS=1 cargo test $(CARGO_FLAGS) --test it generated

tools: ## Install what tests, lints and packages need (Debian, as root).
	tests/tools

clean: ## Remove what was built here. The containers' roots in /var/cache/drained-tests stay.
	cargo clean
