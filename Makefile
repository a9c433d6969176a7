# A thin layer over go: what needs logic is a Go test or a program.
# Needs Go, Node with npm, and for `make test` a C compiler (race detector).

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PKG      ?= ./...# narrows test and fuzz: make test PKG=./pkg/kafka
RACE     ?= -race
EVENTS   ?= 10000
FUZZTIME ?= 30s
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOBUILD  := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# libchdb, the ClickHouse engine of the embedded mode, comes from the npm
# package of this platform. There is none for others. MAILRIVER_CHDB_LIBRARY
# names another one, and nothing is fetched then.
CHDB_VERSION       := 26.7.3-stable.1
CHDB_Linux_x86_64  := linux-x64-gnu
CHDB_Linux_aarch64 := linux-arm64-gnu
CHDB_Darwin_x86_64 := darwin-x64
CHDB_Darwin_arm64  := darwin-arm64
CHDB_PLATFORM      := $(CHDB_$(shell uname -s)_$(shell uname -m))
CHDB_STAMP         := .chdb/$(CHDB_VERSION)
CHDB_LIBRARY        = $${MAILRIVER_CHDB_LIBRARY:-$$(ls -d $(CURDIR)/.chdb/node_modules/@chdb/lib-$(CHDB_PLATFORM)/libchdb.*)}

.PHONY: help build chdb run demo test lint fmt golden fuzz check clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/mailriver (static) and bin/mailriver-allinone (needs libc at run time, for libchdb)
	$(GOBUILD) -o bin/mailriver ./services/mailriver
	$(GOBUILD) -o bin/mailriver-allinone ./services/allinone

chdb: $(if $(MAILRIVER_CHDB_LIBRARY),,$(CHDB_STAMP)) ## Fetch libchdb by npm, where it is missing

$(CHDB_STAMP):
	@test -n '$(CHDB_PLATFORM)' || { echo 'there is no libchdb for $(shell uname -sm): the embedded mode runs on Linux (glibc) and macOS, x64 and arm64; bin/mailriver needs no libchdb' >&2; exit 1; }
	@command -v npm >/dev/null || { echo 'npm is missing: install Node with npm; libchdb is fetched by it' >&2; exit 1; }
	npm install --no-save --no-audit --no-fund --loglevel=error --prefix .chdb @chdb/lib-$(CHDB_PLATFORM)@$(CHDB_VERSION)
	@touch $@

run: chdb build ## Everything in one process, data in ./data
	exec bin/mailriver-allinone --data-dir data

demo: chdb build ## Simulated events through the whole path, compared with the truth, data thrown away
	bin/mailriver-allinone demo --events $(EVENTS)

test: chdb ## Unit, component and integration tests, race detector on
	MAILRIVER_CHDB_LIBRARY=$(CHDB_LIBRARY) MAILRIVER_REQUIRE=clickhouse go test $(RACE) -timeout 20m $(PKG)

lint: bin/golangci-lint ## Formatting, vet, linters, import rules of .golangci.yml
	bin/golangci-lint run ./...

fmt: bin/golangci-lint ## Format the code
	bin/golangci-lint fmt ./...

golden: ## Rewrite the providers' want.json; review the difference before committing
	UPDATE_GOLDEN=1 go test ./pkg/esp/...
	git diff --stat -- '**/want.json'

fuzz: ## Each fuzz target for FUZZTIME
	@go test -list '^Fuzz' $(PKG) | awk '/^Fuzz/ {name[n++] = $$1} /^ok/ {while (n) print $$2, name[--n]}' | \
	while read -r package target; do \
		echo "$$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null; \
	done

check: lint test demo ## What CI runs

clean: ## Remove what build, lint and chdb made; ./data stays
	rm -rf bin .chdb

# The linter of tools/go.mod, built once and again when its pin changes.
bin/golangci-lint: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
