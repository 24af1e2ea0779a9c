# SPDX-License-Identifier: Apache-2.0
# Everything one does with this repository. Each target does the set-up that it needs by itself.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

root := $(CURDIR)
# Node 26 and the tools come from node_modules; the machine's own Node is only used to install them.
with := PATH="$$(echo $(root)/node_modules/node-linux-*/bin):$(root)/node_modules/.bin:$$PATH" NODE_COMPILE_CACHE=$(root)/build/compile-cache
# One test or benchmark at a time on this machine: they share kernel and cores.
alone := flock -o /run/lock/nodemesh-test.lock

BENCH ?=
CHECK ?=
TESTS ?=
CLUSTER ?= main
NODES ?= 2
FUZZ_TIME ?= 60

.PHONY: help setup setup-lint demo test unit bpf-test cni-test local-test e2e faults soak lint fmt proto docs bench fuzz sweep bpf shim keeper agent-parent clean \
  setup-cluster images cluster-up cluster-test cluster-down kind-up

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## checks the machine, installs what is missing, compiles eBPF programs and C parts
	@scripts/setup.sh

setup-lint:
	@scripts/setup.sh lint

demo: setup ## two nodes, the sample shop and a live table until Ctrl-C (CHECK=1: 20 s of traffic, one JSON document)
	@$(with) node cli/demo/main.ts $(if $(CHECK),--check)

test: setup ## every check and every test (root)
	@$(alone) env $(with) sh -c 'node scripts/sweep.ts && node scripts/lint.ts && node test/tools/build.ts && node scripts/test.ts'

unit: setup-lint ## only the tests beside the code (no root; TESTS="file…" for some of them)
	@$(with) node scripts/test.ts unit $(TESTS)

bpf-test cni-test local-test e2e faults: setup ## only that folder of test/ (TESTS="file…" for some of them)
	@$(alone) env $(with) node scripts/test.ts $(@:-test=) $(TESTS)

soak: setup ## the fault tests with their full durations and counts (hours); the output goes to build/soak.txt
	@mkdir -p build
	@$(alone) env $(with) NODEMESH_SOAK=1 bash -o pipefail -c 'node scripts/test.ts faults $(TESTS) | tee build/soak.txt'

setup-cluster:
	@scripts/setup.sh cluster

cluster-up: setup-cluster ## a Kubernetes cluster on this machine (NODES=2, CLUSTER=name; test/kind/kubectl talks to it)
	@$(with) sh -c 'node scripts/images.ts && node test/kind/main.ts up --name $(CLUSTER) --nodes $(NODES) build/images/nodemesh.tar'

images: setup-cluster ## controller, agent and keeper as build/images/nodemesh.tar, without Docker
	@$(with) node scripts/images.ts

cluster-test: setup-cluster ## the suite on that cluster (TESTS="file…" for some of it)
	@$(alone) env $(with) CLUSTER=$(CLUSTER) node scripts/test.ts cluster $(TESTS)

cluster-down: setup-lint ## takes it down and leaves nothing
	@$(with) node test/kind/main.ts down --name $(CLUSTER)

kind-up: images ## a cluster with Docker and kind instead, with the same images (kind delete cluster --name nodemesh)
	@kind create cluster --config test/kind/kind.yaml --wait 120s
	@kind load image-archive --name nodemesh build/images/nodemesh.tar

lint: setup-lint ## layers and house rules, formatting, oxlint with types, tsc (no root)
	@$(with) node scripts/lint.ts

fmt: setup-lint ## formats every file
	@$(with) biome format --write .

proto: setup-lint ## generates the code of the .proto files anew
	@for folder in lib/proto samples/shop/proto; do (cd $$folder && $(with) buf generate) || exit 1; done

docs: setup-lint ## writes the tables of docs/reference anew from the code
	@$(with) node scripts/reference.ts

bench: setup ## CPU per request against haproxy, nginx and nghttpx, latency, memory (BENCH=name for one of them)
	@$(alone) env $(with) node bench/run.ts $(BENCH)

fuzz: setup-lint ## feeds the parsers for FUZZ_TIME seconds; what it finds is kept in test/fuzz/corpus (no root)
	@$(with) node test/fuzz/run.ts $(FUZZ_TIME)

sweep: setup ## removes what killed runs left on this machine: namespaces, mounts, cgroups
	@$(with) node scripts/sweep.ts

bpf shim keeper agent-parent: setup ## compiled by the set-up, into build/

clean: ## removes what was built (node_modules and Debian's packages stay)
	@rm -rf build
