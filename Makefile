# SanFran's commands. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# What a user may set.
# The name of the local cluster; several can stand side by side.
CLUSTER ?= sanfran
# How many nodes (kubelets) it has; unset: those it has, or one.
NODES ?=
# Further flags of the local cluster, such as --dual-stack.
CLUSTER_FLAGS ?=
# The namespace SanFran is installed in.
NAMESPACE ?= sanfran-system
# Further flags of helm, such as --set agent.pool.target=10.
HELM_FLAGS ?=
# For a cluster that is not local: where the image is pushed, registry/name.
IMAGE_REPOSITORY ?=
# Where builds that are the same for every checkout are kept.
export SANFRAN_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sanfran

export CLUSTER NODES CLUSTER_FLAGS NAMESPACE HELM_FLAGS IMAGE_REPOSITORY
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export VERSION

LOCAL := go -C deploy/local run .
BUF := go tool -modfile=../internal/tools/buf/go.mod buf
GO_PACKAGES := ./...
# Packages with tests of tag integration, which run beside their unit tests.
INTEGRATION_PACKAGES := deploy/images internal/failpoint nodeagent router warmpool

.PHONY: help
help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use

# machine says what this machine lacks before anything is installed on it; with
# a cluster of the user's own there is nothing it must have.
.PHONY: machine
machine:
	@[ -n "$${KUBECONFIG:-}" ] || internal/tools/require.sh machine

.PHONY: demo
demo: machine deps ## Start a local Kubernetes (unless KUBECONFIG names one), install SanFran, run functions
	@demo/run.sh

.PHONY: cluster
cluster: ## Start the local Kubernetes, or mend it
	@internal/tools/require.sh cluster
	@$(LOCAL) up --name "$(CLUSTER)" $(if $(NODES),--nodes "$(NODES)") $(CLUSTER_FLAGS)

.PHONY: cluster-down
cluster-down: ## Remove the local Kubernetes and everything of it
	@internal/tools/require.sh cluster
	@$(LOCAL) down --name "$(CLUSTER)"

.PHONY: install
install: ## Build the image and install SanFran with Helm
	@deploy/install.sh

.PHONY: uninstall
uninstall: ## Remove SanFran from the cluster
	@deploy/install.sh --uninstall

.PHONY: kubeconfig
kubeconfig: ## Print the path of the cluster's kubeconfig
	@deploy/target.sh kubeconfig

.PHONY: gateway-url
gateway-url: ## Print the gateway's base URL as reachable from this machine
	@deploy/target.sh gateway-url

.PHONY: bin-dir
bin-dir: ## Print the folder of kubectl and helm that fit the local Kubernetes
	@deploy/target.sh bin-dir

##@ Build

.PHONY: deps
deps: ## Install what building and testing need (Debian packages, npm packages, Go modules)
	@internal/tools/deps.sh

.PHONY: build
build: ## Build sanfrand into bin/
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/...

.PHONY: image
image: ## Build the OCI image into the archive bin/sanfran.tar
	@mkdir -p bin && go run ./deploy/images --version "$(VERSION)" --output bin/sanfran.tar

.PHONY: generate
generate: ## Generate code from proto/
	@cd proto && $(BUF) lint && $(BUF) generate

##@ Check

.PHONY: test
test: machine deps lint test-others test-worker test-integration test-e2e ## Everything: lint, unit, integration (real containers), end-to-end (real cluster)

.PHONY: lint
lint: ## gofmt, go vet, buf, and that generated code is current
	@internal/tools/lint.sh

.PHONY: golangci
golangci: ## Every linter of .golangci.yml; the first time builds golangci-lint for minutes
	@go tool -modfile=internal/tools/golangci/go.mod golangci-lint run --timeout 20m ./...
	@cd deploy/local && go tool -modfile=../../internal/tools/golangci/go.mod golangci-lint run --timeout 20m ./...

.PHONY: test-unit
test-unit: ## Unit tests, with the race detector
	@go test -race -shuffle=on $(GO_PACKAGES)
	@go test -run 'Gigabytes|Megabytes' ./router # as many as the race detector leaves no time for
	@go -C deploy/local test -race -shuffle=on ./...

# Of packages that test-integration tests whole the unit tests need not run twice.
.PHONY: test-others
test-others:
	@$(MAKE) -s test-unit GO_PACKAGES="$$(go list ./... | grep -vE '^sanfran.dev/($(subst $() ,|,$(INTEGRATION_PACKAGES)))(/|$$)' | tr '\n' ' ')"

.PHONY: test-worker
test-worker: ## The worker's own tests, on every Node.js its containers may run
	@npm --prefix nodeagent/worker test --silent

.PHONY: test-integration
test-integration: ## Tests with real crun and runc, kernel networking and mounts; needs root
	@internal/tools/require.sh root
	@internal/tools/integration.sh $(patsubst %,./%/...,$(INTEGRATION_PACKAGES))

.PHONY: test-e2e
test-e2e: ## End-to-end tests on a local Kubernetes of their own; needs root
	@internal/tools/require.sh cluster
	@test/e2e/run.sh

.PHONY: test-attacks
test-attacks: ## Attack the installation from inside functions, and say what held
	@[ -n "$${KUBECONFIG:-}" ] || internal/tools/require.sh cluster
	@test/attacks/run.sh

.PHONY: test-long
test-long: ## Long tests: outages, soaks, scale; one part alone with PART=<name>
	@internal/tools/require.sh cluster
	@test/robustness/run.sh

.PHONY: bench
bench: ## Measure on the cluster and write docs/bench/ (15 minutes at most)
	@internal/tools/require.sh cluster
	@test/bench/router.sh
	@test/bench/agent.sh
	@test/bench/run.sh

.PHONY: bench-long
bench-long: ## Measure what does not fit into bench
	@internal/tools/require.sh cluster
	@test/bench/agent.sh --long
	@test/bench/run.sh --long

##@ Run one component from the checkout, beside those of the cluster

.PHONY: run-controlplane
run-controlplane: build ## Run the control plane here, in place of the cluster's
	@internal/tools/run.sh controlplane

.PHONY: run-agent
run-agent: build ## Run the agent of one node here, in place of the cluster's
	@internal/tools/run.sh agent

.PHONY: run-gateway
run-gateway: build ## Run a gateway here, beside the cluster's
	@internal/tools/run.sh gateway

.PHONY: clean
clean: ## Remove what builds left in the checkout
	@rm -rf bin
