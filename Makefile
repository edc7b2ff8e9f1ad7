# What people type. Each target installs the Debian packages it needs where
# they are missing; the lists stand here and nowhere else.
TEST_PACKAGES  := iproute2 gcc libc6-dev nftables keepalived etcd-server etcd-client mariadb-server galera-4 rsync postgresql-15 postgresql-client redis-server haproxy bind9 bind9-dnsutils knot knot-dnsutils pdns-server pdns-backend-sqlite3 sqlite3 python3-venv
TEST_PYTHON    := moto==5.2.5 flask flask-cors
DEB_PACKAGES   := gcc libc6-dev debhelper lintian
TEST_PACKAGES  += $(DEB_PACKAGES) debootstrap systemd-container chromium prometheus
BENCH_PACKAGES := iproute2 gcc libc6-dev keepalived haproxy nginx libnginx-mod-stream mariadb-server
BENCH_DNS_PACKAGES := iproute2 gcc libc6-dev dnsperf bind9 knot pdns-server pdns-backend-bind
NEMESIS_PACKAGES := iproute2 gcc libc6-dev nftables etcd-server etcd-client
FUZZ_PACKAGES  := g++
DEMO_PACKAGES  := iproute2 gcc libc6-dev
ifeq ($(DB),mariadb)
DEMO_PACKAGES  += mariadb-server
endif

.PHONY: help demo model test fuzz deb test-packages bench-balancer bench-dns bench-failover bench-pick bench-witness nemesis
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: ## a failover in a small network of its own; DB=mariadb with real databases, DNS=1 with a name instead of an address, PICTURES=docs draws it
	@tests/install-packages $(DEMO_PACKAGES)
	@cargo build --package vipd --package vipd-tests $(if $(DNS),--package dnsd) --bins
	@target/debug/demo $(if $(DB),--db $(DB)) $(if $(DNS),--dns) $(if $(PICTURES),--pictures $(PICTURES))

model: ## every state of election and lease: never two owners with a quorum, a shortest way to two without; ARGS='--only 0'
	@cargo build --quiet --release --package vipd-tests --bin model
	@target/release/model $(ARGS)

test: ## everything a change must pass
	@tests/install-packages $(TEST_PACKAGES)
	@tests/install-python $${CARGO_TARGET_DIR:-target}/python $(TEST_PYTHON)
	@tests/run-all

TARGET  ?= node
SECONDS ?= 60
# What cargo-fuzz passes without a sanitizer, so that a stable compiler does: the
# core has no unsafe code for a sanitizer to look into.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing
fuzz: ## libFuzzer on what comes by the network: TARGET=advert, message or node, SECONDS=60; a find is left in target/fuzz
	@tests/install-packages $(FUZZ_PACKAGES)
	@mkdir -p target/fuzz/corpus/$(TARGET)
	@RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --quiet --release --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --target $$(rustc -vV | sed -n 's/^host: //p') --bin $(TARGET)
	@target/fuzz/$$(rustc -vV | sed -n 's/^host: //p')/release/$(TARGET) -max_total_time=$(SECONDS) -max_len=8192 -timeout=5 -artifact_prefix=target/fuzz/$(TARGET)- target/fuzz/corpus/$(TARGET) tests/fuzz/corpus/$(TARGET)

nemesis: ## random faults against real daemons: never two owners with a quorum, each time listed without; SEED=7 replays one, SCHEDULES=20, ARGS='--quorum none'
	@tests/install-packages $(NEMESIS_PACKAGES)
	@cargo build --quiet --release --package vipd --package vipd-tests --bins
	@target/release/nemesis $(if $(SEED),--seed $(SEED)) $(if $(SCHEDULES),--schedules $(SCHEDULES)) $(ARGS)

deb: ## the Debian packages of this machine's architecture, in target/deb
	@tests/install-packages $(DEB_PACKAGES)
	@packaging/build-deb $(ARGS)
	@lintian --fail-on error,warning target/deb/*.deb

test-packages: ## the release's packages on two hosts with a real systemd, and their figures
	@tests/install-packages $(DEB_PACKAGES) debootstrap iproute2 systemd-container
	@rm -rf target/deb-of-release
	@packaging/build-deb --out target/deb-of-release
	@packaging/build-deb --out target/deb-of-release --version 0.1.1-1
	@ls -l target/deb-of-release/*_0.1.0-1_*.deb | awk '{ print $$5, "bytes", $$9 }'
	@VIPD_DEBS=$(CURDIR)/target/deb-of-release LAB_NEEDS_ARE_MET=yes cargo test --quiet --package vipd-packaging --test packages

bench-balancer: ## what vipd costs a connection, beside HAProxy and nginx; ARGS='--rounds 5 --only connect --seconds 3'
	@tests/install-packages $(BENCH_PACKAGES)
	@cargo build --quiet --release --package vipd --package vipd-tests --bins
	@target/release/bench-balancer $(ARGS)

bench-dns: ## what dnsd costs a query, a name, an update, beside BIND, Knot and PowerDNS; ARGS='--rounds 5 --only few'
	@tests/install-packages $(BENCH_DNS_PACKAGES)
	@cargo build --quiet --release --package dnsd --package vipd-tests --bins
	@target/release/bench-dns $(ARGS)

bench-failover: ## what failovers cost, beside keepalived; ARGS='--runs 3 --only SIGKILL'
	@tests/install-packages $(BENCH_PACKAGES)
	@cargo build --quiet --release --package vipd --package vipd-tests --bins
	@target/release/bench-failover $(ARGS)

bench-witness: ## a witness's votes, CPU and memory, up to the leases of 100 clusters; ARGS='--seconds 30'
	@tests/install-packages $(BENCH_PACKAGES)
	@cargo build --quiet --release --package vipd --package vipd-tests --bins
	@target/release/bench-witness $(ARGS)

bench-pick: ## what the choice of a server costs, by way of balancing; ARGS='least'
	@cargo bench --quiet --package vipd-core --bench pick -- $(ARGS)
