# certagent. `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail

GO ?= go
# The program knows its version and the date of its commit: a clock that stands before that date is not believed.
VERSION := $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo unknown)
COMMITTED := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.committed=$(COMMITTED)
# Where the programs go.
BIN := bin
# Linters live in a module file of their own, so that the product does not depend on what they depend on.
TOOL := $(GO) tool -modfile=.ci/tools.mod

.PHONY: help build demo demo-azure demo-aws test check docs bench performance footprint size fuzz sim test-root test-system test-faults packages image clean FORCE

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

build: $(BIN)/certagent $(BIN)/certagent-testca ## bin/certagent and bin/certagent-testca: static, stripped, version stamped

# The agent speaks HTTP/1.1 alone (est/conn.go). This tag of net/http leaves out the HTTP/2 that it would carry for nothing:
# 0.35 MiB, and 0.5 beside an HTTP server.
$(BIN)/certagent: TAGS := nethttpomithttp2
# On amd64 the linker begins each function at a multiple of 32 bytes, and so fills up 0.08 MiB. 16 is what arm64 has.
$(BIN)/certagent: ALIGN = $(if $(filter amd64,$(shell $(GO) env GOARCH)),-funcalign=16)
# Nothing is inlined but in the runtime, in internal/ and in the arithmetic of cryptography, where an attempt spends its time:
# 0.82 MiB, and no attempt takes longer (docs/performance.md, "Size"). The last pattern that matches a package counts.
$(BIN)/certagent: GCFLAGS := -gcflags=all=-l -gcflags=runtime/...= -gcflags=internal/...= -gcflags=crypto/internal/...=

$(BIN)/%: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags '$(TAGS)' $(GCFLAGS) -ldflags '$(strip $(LDFLAGS) $(ALIGN))' -o $@ ./cmd/$*

demo: build ## watch an agent live through a certificate's whole life, in under a minute
	@CGO_ENABLED=0 $(GO) run ./examples/demo -agent bin/certagent -testca bin/certagent-testca

demo-azure: build ## its second act: watch the certificate become known to an IoT hub, and stay so, in under a minute
	@CGO_ENABLED=0 $(GO) run ./examples/demo -act azure -agent bin/certagent -testca bin/certagent-testca

demo-aws: build ## the same with AWS IoT, which drops a new certificate's first connection, and provisions it
	@CGO_ENABLED=0 $(GO) run ./examples/demo -act aws -agent bin/certagent -testca bin/certagent-testca

test: ## every test that needs no more than Go, make, git and bash
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 30m ./...

# By default a program under the race detector waits for a second before it ends, so that other threads can write what they
# found; thousands end in these tests. Sweeps over faults, and stories of days, are played in part here: make test plays all.
check: ## formatting, tidiness, vet, staticcheck, race detector (needs a C compiler)
	@files=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$files" ]; then echo "gofmt would change: $$files"; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) vet ./... && $(GO) vet -tags external,system ./...
	$(TOOL) staticcheck -tags external,system ./...
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 30m ./...

# Where packages go, for which machines and which package managers.
DIST ?= dist
ARCHES ?= amd64 arm64 armhf riscv64
FORMATS ?= deb rpm apk archlinux
# Files with keys to sign with, if any: an OpenPGP key (deb, rpm, archlinux, SHA256SUMS), an RSA key in PEM (apk).
# The passphrase is taken from $NFPM_PASSPHRASE.
SIGNING_KEY ?=
APK_SIGNING_KEY ?=

packages: ## dist/: deb, rpm, apk and archlinux, and SHA256SUMS (ARCHES=amd64 FORMATS=deb is quick; see docs/installation.md)
	DIST='$(DIST)' ARCHES='$(ARCHES)' FORMATS='$(FORMATS)' GO='$(GO)' \
	    SIGNING_KEY='$(SIGNING_KEY)' APK_SIGNING_KEY='$(APK_SIGNING_KEY)' packaging/build

# The name of the container image, what builds it (with its options), and the CA certificates that it brings.
IMAGE ?= localhost/certagent
BUILDAH ?= buildah
ROOTS ?= /etc/ssl/certs/ca-certificates.crt

image: ## a container image, by buildah (examples/container/README.md; GOARCH=arm64 for another machine)
	IMAGE='$(IMAGE)' BUILDAH='$(BUILDAH)' ROOTS='$(ROOTS)' GO='$(GO)' packaging/image

test-root: ## tests that need root or Debian packages; installs what is missing by itself
	.ci/test-root

# Which root, and which promise on it.
SYSTEM ?=

test-system: ## the packages on booted systemds: Debian 11, 12, 13, and with rpm (needs root; SYSTEM=bookworm/TheSandboxHolds is less)
	.ci/test-system '$(SYSTEM)'

test-faults: ## every fault point, ten thousand kills, failing media (needs root and an hour; KILLS=100 FAULTS=./store is shorter)
	CERTAGENT_KILLS=$(KILLS) .ci/test-faults $(FAULTS)

# How often test-faults kills the agent, and the sweeps of which packages; default: all.
KILLS ?= 10000
FAULTS ?=

# How long each target is fuzzed, and those of which packages.
FUZZTIME ?= 30s
FUZZ ?= ./...

fuzz: ## every fuzz target for 30 s (FUZZTIME=5m, FUZZ=./est); a finding is written to testdata/fuzz, and fails
	@set -e; targets=$$($(GO) test -list '^Fuzz' $(FUZZ) | awk '/^Fuzz/ { names[++n] = $$1 } /^ok/ \
	    { for (i = 1; i <= n; i++) print $$2, names[i]; n = 0 }'); test -n "$$targets"; \
	while read -r package target; do \
	    echo "$$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$package; \
	done <<< "$$targets"

docs: ## what the code makes of docs/ and packaging/: tables, pictures, manual pages, notices; make test holds them
	$(GO) test -count=1 -run TestTablesOfOperations ./renew -update
	$(GO) test -count=1 -run 'TestManPages|TestNotices' ./cmd/certagent -update
	$(GO) test -count=1 -run TestManPage ./cmd/certagent-testca -update
	$(GO) test -count=1 -run TestConfigurationManPage ./agent/config -update
	$(GO) test -count=1 -run TestPictures . -update

bench: ## the benchmarks, and the table of a thousand certificates
	$(GO) test -run '^$$' -bench . -benchmem ./...
	$(GO) test -tags external -run '^$$' -bench Thousand -benchtime 3x -timeout 1h ./cmd/certagent

performance: ## the figures of docs/performance.md (needs openssl, curl, strace and an hour)
	$(GO) test -run '^$$' -bench Attempt -benchtime 100x ./est
	$(GO) test -tags external -run '^$$' -bench Process -benchtime 20x ./cmd/certagent
	$(GO) test -tags external -run '^$$' -bench Thousand -benchtime 5x -timeout 1h ./cmd/certagent
	$(MAKE) footprint

# How long idle agents are left alone, and then looked at, twice.
SETTLE ?= 2m
IDLE ?= 4m

footprint: packages ## size, memory, wake-ups, start: into docs/performance.md, in a quarter of an hour (see there for less)
	$(GO) test -tags external -run '^$$' -bench Footprint -benchtime 1x -timeout 1h ./cmd/certagent -update -dist $(abspath $(DIST)) -settle $(SETTLE) -idle $(IDLE)

size: ## what the agent is made of: the table of docs/performance.md
	$(GO) test -count=1 -v -run TestBinaryIsSmall ./cmd/certagent

sim: ## 100,000 devices over years: tables and pictures of docs/performance.md; fails when a goal is missed
	CGO_ENABLED=0 $(GO) run ./renew/sim -docs docs

clean: ## remove what make built
	rm -rf bin dist
