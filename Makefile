# Targets as operators' projects use them. `make demo` and `make test` do all their own
# set-up on a machine that has Rust.

CARGO ?= cargo
SEEDS ?= 300
QUORUM_SEEDS ?= 20
SECONDS ?= 60
NODES ?= 3
ZONES ?= 3

.PHONY: help build demo image test test-rust test-e2e test-kubernetes test-kubernetes-long test-long verify fix generate crds bench simulate mutants fuzz \
	kube-build kube-up kube-down clean

help: ## This list.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

build: ## Builds the broker, the operator and the command.
	$(CARGO) build --locked --bins

demo: ## Starts three brokers, sends and reads real data, says what to try next.
	@echo "Building first: about 6 minutes the first time on 2 cores, seconds later; then the demo runs for about fifteen seconds."
	$(CARGO) build --locked --release --bins
	./e2e/demo.sh

image: ## The image of all executables, without Docker: target/image/millrace.tar, localhost/millrace:dev.
	./image/build

test: test-rust test-e2e test-kubernetes ## All tests that a fresh machine can run; installs what it needs.

test-rust: ## Unit, storage and simulation tests.
	$(CARGO) test --locked --workspace

test-e2e: build ## Real processes, foreign clients, Kafka's own tools.
	./e2e/setup.sh
	./e2e/run-tests.sh

test-kubernetes: build ## The operator on a real Kubernetes, which it starts (as root) or MILLRACE_E2E_KUBECONFIG names.
	./e2e/run-kubernetes-tests.sh

test-kubernetes-long: build ## The same with long runs (an hour or so).
	MILLRACE_E2E_FIRST_RECORD_SECONDS=$${MILLRACE_E2E_FIRST_RECORD_SECONDS:-60} ./e2e/run-kubernetes-tests.sh --long

test-long: build ## The same with long runs (an hour or so).
	./e2e/setup.sh
	./e2e/run-tests.sh --long

verify: ## Format, lints, documentation, generated files, chart; writes nothing.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	./e2e/lint.sh
	./charts/check
	git apply --check e2e/simulator/mutants/*.patch e2e/simulator/quorum-mutants/*.patch

fix: ## Formats and mends what lints can mend.
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	./e2e/lint.sh --fix

generate: crds ## All that is made from something else: definitions, and the chart's copies, tables and golden renders.
	./charts/check --write

crds: ## The Kubernetes definitions in crds/yaml, from the Rust types.
	UPDATE=1 $(CARGO) test --locked -p millrace-crds --test definitions generated_yaml_is_fresh

bench: ## Millrace, Apache Kafka and NATS JetStream side by side: one table of ratios.
	CARGO_PROFILE_DIST_STRIP=none $(CARGO) build --locked --profile dist --bins
	./e2e/setup.sh
	./e2e/bench/run

simulate: ## Random runs of storage, whole clusters and the metadata quorum under faults: SEEDS=n, QUORUM_SEEDS=n.
	MILLRACE_SIM_SEEDS=$(SEEDS) $(CARGO) test --locked --profile dist -p millrace-log --test simulation -- --nocapture
	MILLRACE_SIM_SEEDS=$(SEEDS) $(CARGO) test --locked --profile dist -p millrace-simulator --test seeds --test groups --test compaction -- --nocapture
	MILLRACE_QUORUM_SEEDS=$(QUORUM_SEEDS) $(CARGO) test --locked -p millrace-server --lib quorum::tests::chaos -- --nocapture

mutants: ## Takes one safety rule away at a time; the simulator must notice each.
	./e2e/simulator/mutants.sh

fuzz: ## Each fuzz target for SECONDS=n (needs a nightly compiler).
	./e2e/fuzz.sh $(SECONDS)

kube-build: ## Builds Kubernetes, Helm and kubeconform out of Go modules (minutes, once); Linux.
	@./e2e/kubernetes/build

kube-up: ## Starts a real Kubernetes of three nodes on this computer (as root): NODES=n, ZONES=n.
	@./e2e/kubernetes/kube up --nodes $(NODES) --zones $(ZONES)

kube-down: ## Removes it, whatever state it is in.
	@./e2e/kubernetes/kube down

clean: ## Removes what was built.
	$(CARGO) clean
