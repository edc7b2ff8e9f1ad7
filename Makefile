# What people type. Each target installs the Debian packages it needs where
# they are missing; the lists stand here and nowhere else.
TEST_PACKAGES  := iproute2 nftables keepalived mariadb-server galera-4 rsync postgresql-15 postgresql-client redis-server haproxy bind9 bind9-dnsutils knot knot-dnsutils pdns-server pdns-backend-sqlite3 sqlite3
BENCH_PACKAGES := iproute2 keepalived haproxy nginx libnginx-mod-stream
DEMO_PACKAGES  := iproute2
ifeq ($(DB),mariadb)
DEMO_PACKAGES  += mariadb-server
endif

.PHONY: help demo model test bench-balancer bench-failover bench-pick
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: ## a failover in a small network of its own; DB=mariadb with real databases
	@tests/install-packages $(DEMO_PACKAGES)
	@cargo build --package vipd --package vipd-tests --bins
	@target/debug/demo $(if $(DB),--db $(DB))

model: ## every state of election and lease: never two owners with a quorum, a shortest way to two without; ARGS='--only 0'
	@cargo build --quiet --release --package vipd-tests --bin model
	@target/release/model $(ARGS)

test: ## everything a change must pass
	@tests/install-packages $(TEST_PACKAGES)
	@tests/run-all

bench-balancer: ## what vipd costs a connection, beside HAProxy and nginx; ARGS='--rounds 5 --only connect --seconds 3'
	@tests/install-packages $(BENCH_PACKAGES)
	@cargo build --quiet --release --package vipd --package vipd-tests --bins
	@target/release/bench-balancer $(ARGS)

bench-failover: ## what failovers cost, beside keepalived; ARGS='--runs 3 --only SIGKILL'
	@tests/install-packages $(BENCH_PACKAGES)
	@cargo build --quiet --release --package vipd --package vipd-tests --bins
	@target/release/bench-failover $(ARGS)

bench-pick: ## what the choice of a server costs, by way of balancing; ARGS='least'
	@cargo bench --quiet --package vipd-core --bench pick -- $(ARGS)
