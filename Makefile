# Every target works on a clean clone with Go, and those that say so with root
# or user namespaces. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
FUZZTIME ?= 30s
BUILDAHFLAGS ?=
BENCHFLAGS ?=
# A module that is missing must fail at once and not look for a git host.
export GOPROXY := $(shell go env GOPROXY | sed 's/[,|]direct$$//')
export GOFLAGS := -buildvcs=auto $(GOFLAGS)
# Nothing needs cgo, the image must not have it, and two ways of building would
# compile everything twice.
export CGO_ENABLED := 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: build
build: ## bin/certherd, bin/certherd-relay, and bin/kubectl-certherd for `kubectl certherd`
	@mkdir -p bin
	go build -o bin/ ./cmd/certherd ./cmd/certherd-relay
	@ln -sf certherd bin/kubectl-certherd
	@printf '#!/bin/sh\n# kubectl runs this for completion of `kubectl certherd`.\nexec kubectl-certherd __complete "$$@"\n' > bin/kubectl_complete-certherd
	@chmod +x bin/kubectl_complete-certherd

# Every program in cmd is in the image; the Dockerfile says which one starts.
IMAGE ?= certherd:devel
IMAGE_DIR ?= out/image
BUILDAH ?= buildah
.PHONY: image-programs
image-programs:
	@rm -rf $(IMAGE_DIR) && mkdir -p $(IMAGE_DIR)
	go build -ldflags '-s -w' -o $(IMAGE_DIR)/ ./cmd/...
	$(MAKE) --no-print-directory sbom SBOM_DIR=$(IMAGE_DIR)/sbom PROGRAMS="$$(echo $(IMAGE_DIR)/*)"

# What an SBOM lists is in the program itself, wherever that is to run.
PROGRAMS ?= bin/certherd bin/certherd-relay
SBOM_DIR ?= out/sbom
.PHONY: sbom
sbom: ## an SBOM (CycloneDX, JSON) of each of PROGRAMS (of `make build`), in out/sbom; the image has them in /sbom
	@mkdir -p $(SBOM_DIR)
	for p in $(PROGRAMS); do \
	  env -u GOOS -u GOARCH go tool -modfile=tools/release/go.mod cyclonedx-gomod bin -json -std -noserial -notimestamp -output $(SBOM_DIR)/$$(basename $$p).cdx.json $$p; \
	done

.PHONY: release-files
release-files: ## what a release VERSION=v0.1.0 has: archives of each platform, SBOMs, sums, krew's manifest, in out/release
	cd tools/release && go run . -version "$(VERSION)" -out $(CURDIR)/out/release

.PHONY: image
image: image-programs ## the container image IMAGE (certherd:devel), by buildah; GOARCH chooses the platform
	$(BUILDAH) build $(BUILDAHFLAGS) --arch $$(go env GOARCH) --format oci -t $(IMAGE) -f Dockerfile $(IMAGE_DIR)

.PHONY: unit
unit: ## tests without a cluster, in seconds once built
	go test -short ./...

.PHONY: test
test: build stack-build ## everything: unit, scenarios, a real kube-apiserver, the real stack
	go test -p 2 -timeout 40m ./...
	cd tools/alerts && go test ./...
	cd tools/chart && go test ./...
	cd tools/release && go test ./...

.PHONY: soak
soak: ## half an hour of services that come and go, and of leaders that are killed, stopped and cut off, and of clocks that jump
	go test -p 1 -v -timeout 90m -run 'TestSoak|TestClockJumps' ./e2e/service -long -soak 30m -change 1m -pace 3s

.PHONY: demo
demo: build ## a real cluster with a realistic mess, audited and cleared up: pages, table and dump in out/demo
	go run ./e2e/demo -certherd bin/certherd -out out/demo

CHROMIUM ?= chromium
.PHONY: pictures
pictures: ## docs/pictures, from the pages of the last `make demo`, by CHROMIUM
	@mkdir -p docs/pictures
	for page in report before-after; do \
	  $(CHROMIUM) --headless --hide-scrollbars $$(test $$(id -u) -ne 0 || echo --no-sandbox) --window-size=1000,720 \
	    --screenshot=docs/pictures/$$page.png file://$(CURDIR)/out/demo/$$page.html; \
	done

STORYFLAGS ?=
.PHONY: story
story: ## the experiment of docs/story.md: stock Kourier, wildcards and the relay under a memory guard (15 minutes)
	go run ./bench/story $(STORYFLAGS)

.PHONY: stack-build
stack-build: ## build the real stack into the cache (15 minutes once, then nothing)
	go run ./e2e/stack/cmd/stack build

.PHONY: stack-up
stack-up: ## a real control plane with cert-manager, Knative, Kourier and Envoy, in the background
	go run ./e2e/stack/cmd/stack up

.PHONY: stack-down
stack-down: ## end it and leave nothing behind
	go run ./e2e/stack/cmd/stack down

.PHONY: lint
lint: ## go vet, gofmt and staticcheck (pinned in tools/go.mod)
	@test -z "$$(gofmt -l .)" || { echo "these files need gofmt:"; gofmt -l .; exit 1; }
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...

.PHONY: verify
verify: ## generated files and go.mod are up to date
	go mod tidy -diff
	go generate ./...
	@git diff --exit-code -- examples docs config charts || { echo "go generate changed these files: commit them"; exit 1; }

.PHONY: bench
bench: build ## the audit of a large cluster against plain listing, the service on it, planning, and shaping for the relay (docs/performance.md)
	go test -run '^$$' -bench . -benchmem ./controller ./inventory ./relay/shape
	go run ./bench -certherd bin/certherd $(BENCHFLAGS)
	go run ./bench -service -certherd bin/certherd $(BENCHFLAGS)

.PHONY: bench-batch
bench-batch: ## what renewals cost Kourier's gateway: with certherd and without, with its relay and without, and what was predicted (21 minutes; docs/performance.md)
	go run ./bench/batch $(BENCHFLAGS)

.PHONY: bench-relay
bench-relay: ## what events cost Kourier's gateway, with the relay and without it (docs/performance.md)
	go run ./bench/relay $(BENCHFLAGS)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s)
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; \
	  done; \
	done
