# `make help` lists everything.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
CHART := charts/llm-d-operator
OPERATOR := $(TARGET)/debug/llm-d-operator
RIG := $(TARGET)/debug/rig
# The clients of test-sdk stay in the user's cache.
SDK_VENV := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llm-d-rig/sdk

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
lint: ## Format check and clippy, warnings are errors; lock files that fit.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@for other in bench/epp fuzz; do \
		$(CARGO) metadata --locked --format-version 1 --manifest-path $$other/Cargo.toml >$(TARGET)/metadata.json \
			|| { echo "make: $$other/Cargo.lock does not fit the programs: cargo metadata --manifest-path $$other/Cargo.toml writes it"; exit 1; }; \
	done

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
test: lint check-features check-generated test-unit test-cluster test-fuzz ## Everything a change must pass.

.PHONY: test-unit
test-unit: build ## Unit tests beside a real Redis, rules of the source tree, conformance.
	$(RIG) with-redis -- $(CARGO) test --locked --workspace --lib --bins --test it

.PHONY: test-cluster
test-cluster: build sdk-clients ## The programs together, on a real control plane, Envoy and Valkey.
	RUST_LIB_BACKTRACE=0 $(SDK_PYTHON) $(CARGO) test --locked --test cluster -- --nocapture

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

FUZZ_TARGETS := ext_proc kv_events openai sse zmtp

.PHONY: fuzz
fuzz: ## Look for inputs that crash a parser: FUZZ_SECONDS (600) for each target.
	@echo "make: building the fuzz targets (minutes the first time)"
	RUSTC_WRAPPER=$(CURDIR)/fuzz/rustc-instrumented $(CARGO) build --locked --release --manifest-path fuzz/Cargo.toml --target-dir $(TARGET)/fuzz
	@mkdir -p $(TARGET)/reports; \
	for target in $(FUZZ_TARGETS); do \
		log="$(TARGET)/reports/fuzz-$$target.log"; \
		echo "make: fuzzing $$target for $(or $(FUZZ_SECONDS),600) s: $$log"; \
		mkdir -p fuzz/corpus/$$target fuzz/artifacts/$$target; \
		$(TARGET)/fuzz/release/$$target -max_total_time=$(or $(FUZZ_SECONDS),600) -timeout=10 -rss_limit_mb=1024 -max_len=8192 \
			-artifact_prefix=fuzz/artifacts/$$target/ -verbosity=0 -print_final_stats=1 fuzz/corpus/$$target >"$$log" 2>&1 \
			|| { tail -n 40 "$$log"; echo "$$target: see fuzz/artifacts/$$target"; exit 1; }; \
		grep -E 'stat::number_of_executed_units: [1-9]' "$$log" || { tail -n 40 "$$log"; echo "$$target: nothing was run"; exit 1; }; \
	done
	@echo "$(words $(FUZZ_TARGETS)) passed, 0 failed"

.PHONY: test-fuzz
test-fuzz: # A short run of each target: that it builds and finds nothing at once.
	$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=10

.PHONY: test-sdk
test-sdk: ## OpenAI's and Anthropic's Python clients see the same with and without us; at DIRECT=URL and ROUTED=URL, or on a cluster of its own.
ifdef ROUTED
test-sdk: $(SDK_VENV)/installed
	@test -n "$(DIRECT)" || { echo "make: say DIRECT=http://HOST:PORT (an engine), too"; exit 2; }
	MODEL="$(MODEL)" PYTHONDONTWRITEBYTECODE=1 $(SDK_VENV)/bin/python tests/sdk/compare.py "$(DIRECT)" "$(ROUTED)"
else
test-sdk: build $(SDK_VENV)/installed
	RUST_LIB_BACKTRACE=0 $(SDK_PYTHON) $(CARGO) test --locked --test cluster -- --nocapture clients_see_the_same
endif

SDK_PYTHON = $(shell test -e $(SDK_VENV)/installed && echo SDK_PYTHON=$(SDK_VENV)/bin/python)

.PHONY: sdk-clients
sdk-clients: # Without a package index the rest of the tests still run; the scenario says that it was skipped.
	@$(MAKE) --no-print-directory $(SDK_VENV)/installed || echo "make: no Python clients: their scenario is skipped"

$(SDK_VENV)/installed: tests/sdk/requirements.txt
	rm -rf $(SDK_VENV)
	python3 -m venv $(SDK_VENV)
	$(SDK_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

##@ Measure it

BENCH_EPP = $(TARGET)/bench/release/bench-epp

.PHONY: build-bench
build-bench: # The EPP as it is shipped, and what it is measured with.
	$(CARGO) build --locked --release --bin epp --no-default-features --features epp
	$(CARGO) build --locked --release --manifest-path bench/epp/Cargo.toml --target-dir $(TARGET)/bench

.PHONY: bench-epp
bench-epp: build-bench ## What the EPP costs beside a server that decides nothing; QUICK=1 shortens, ARGS=… for more (see docs/bench-epp.md).
	EPP=$(TARGET)/release/epp $(BENCH_EPP) table $(ARGS)

.PHONY: soak-epp
soak-epp: build-bench ## What the EPP bears: five minutes of load, 10,000 open answers, hostile clients; QUICK=1 shortens.
	EPP=$(TARGET)/release/epp $(BENCH_EPP) soak $(ARGS)

.PHONY: test-envoy
test-envoy: build-bench ## What real Envoy makes of the EPP's answers, in each body mode, and when the EPP fails.
	$(CARGO) build --locked --bin llm-d-operator
	EPP=$(TARGET)/release/epp OPERATOR=$(OPERATOR) $(BENCH_EPP) modes $(ARGS)

##@ Clean up

.PHONY: clean
clean: ## Remove build output (programs fetched for the rig stay in the user's cache).
	$(CARGO) clean

.PHONY: help
help: ## This list.
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
