# `make help` lists everything.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
CHART := charts/llm-d-operator
OPERATOR := $(TARGET)/debug/llm-d-operator
RIG := $(TARGET)/debug/rig

.DEFAULT_GOAL := help

##@ Try it

.PHONY: demo
demo: build ## Serve a model on this machine and send it requests; ONCE=1 ends after that, MANIFESTS=DIR applies another folder.
	$(RIG) demo --chart $(CHART) --manifests "$(or $(MANIFESTS),examples/llama-3-2-1b)" --report $(TARGET)/reports/demo.html $(if $(ONCE),--once)

.PHONY: up
up: build ## Start the bare cluster of the demo, with nothing installed.
	$(RIG) up

##@ Develop

.PHONY: build
build: ## Build all programs (debug).
	@echo "make: building the programs (minutes the first time: several hundred crates)"
	$(CARGO) build --locked --workspace --bins

.PHONY: fmt
fmt: ## Format the sources.
	$(CARGO) fmt --all

.PHONY: lint
lint: ## Format check and clippy, warnings are errors.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: check-features
check-features: ## Each program compiles alone, and the pure core with none of them.
	for features in "" operator epp proxy sim; do \
		echo "make: checking with features [$$features]"; \
		$(CARGO) check --locked --quiet --lib --bins --no-default-features --features "$$features"; \
	done

.PHONY: generate
generate: build ## Write the CRD and the chart's RBAC from the types.
	$(OPERATOR) crd > crds/llm-d.ai_modelservices.yaml
	cp crds/llm-d.ai_modelservices.yaml $(CHART)/crds/
	for program in operator leader-election epp; do $(OPERATOR) rbac $$program > $(CHART)/files/rbac-$$program.yaml; done

.PHONY: check-generated
check-generated: generate ## Fail when generated files in the tree are not what the types say.
	git diff --exit-code -- crds $(CHART)/crds $(CHART)/files

##@ Prove it

.PHONY: test
test: lint check-features check-generated test-unit test-cluster ## Everything a change must pass.

.PHONY: test-unit
test-unit: build ## Unit tests beside a real Redis, rules of the source tree, conformance.
	$(RIG) with-redis -- $(CARGO) test --locked --workspace --lib --bins --test it

.PHONY: test-cluster
test-cluster: build ## The programs together, on a real control plane, Envoy and Valkey.
	RUST_LIB_BACKTRACE=0 $(CARGO) test --locked --test cluster -- --nocapture

.PHONY: test-cluster-loop
test-cluster-loop: build ## Run test-cluster N times in a row (20); LOAD=1 keeps every core busy meanwhile. Not part of CI.
	@program=$$($(CARGO) test --locked --test cluster --no-run 2>&1 | tee >(cat >&2) | sed -n 's/.*Executable.*(\(.*\))$$/\1/p'); \
	load=(); \
	trap 'for job in "$${load[@]}"; do kill "$$job" 2>/dev/null || true; done' EXIT; \
	trap 'exit 130' INT TERM HUP; \
	if [ "$(LOAD)" = 1 ]; then \
		for _ in $$(seq "$$(nproc)"); do \
			( while kill -0 $$$$ 2>/dev/null; do for _ in {1..100000}; do :; done; done ) & load+=($$!); \
		done; \
		echo "make: $${#load[@]} busy loops beside the tests"; \
	fi; \
	mkdir -p "$(TARGET)/reports"; \
	passed=0; failed=0; \
	for run in $$(seq "$(or $(N),20)"); do \
		log="$(TARGET)/reports/cluster-$$run.log"; began=$$SECONDS; \
		if RUST_LIB_BACKTRACE=0 "$$program" --nocapture >"$$log" 2>&1; then \
			passed=$$((passed + 1)); result=passed; \
		else \
			failed=$$((failed + 1)); result=FAILED; \
		fi; \
		echo "make: run $$run $$result after $$((SECONDS - began)) s: $$log"; \
		[ $$result = passed ] || grep -E '^test .* FAILED|^Error: ' "$$log" || tail -n 20 "$$log"; \
	done; \
	echo "$$passed passed, $$failed failed"; \
	[ "$$failed" = 0 ]

##@ Clean up

.PHONY: clean
clean: ## Remove build output (programs fetched for the rig stay in the user's cache).
	$(CARGO) clean

.PHONY: help
help: ## This list.
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
