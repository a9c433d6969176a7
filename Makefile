# A thin layer over go: what needs logic is a Go test or a program.
# Needs Go, Node with npm, and for `make test` a C compiler (race detector).
# What runs on Apache Kafka needs Java 17 or later, and Maven to fetch its jars.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PKG      ?= ./...# narrows test and fuzz: make test PKG=./pkg/kafka
RACE     ?= -race
SEED     ?= 1
KILLS    ?= 20
BROKERS  ?= 1# 1 or 3
HEAP     ?= 512m# of each broker
MINUTES  ?= 1# of each outage
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

.PHONY: help build chdb kafka-jars kafka run demo test test-kafka chaos outage bench-memory bench-suppression bench-leadscoring lint fmt golden generate fuzz check clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/mailriver (static) and bin/mailriver-allinone (needs libc at run time, for libchdb)
	$(GOBUILD) -o bin/mailriver ./services/mailriver
	$(GOBUILD) -o bin/mailriver-allinone ./services/allinone

chdb: $(if $(MAILRIVER_CHDB_LIBRARY),,$(CHDB_STAMP)) ## Fetch libchdb by npm, where it is missing

$(CHDB_STAMP):
	@test -n '$(CHDB_PLATFORM)' || { echo 'there is no libchdb for $(shell uname -sm): the embedded mode runs on Linux (glibc) and macOS, x64 and arm64; bin/mailriver needs no libchdb' >&2; exit 1; }
	@command -v npm >/dev/null || { echo 'npm is missing: install Node with npm; libchdb is fetched by it' >&2; exit 1; }
	npm install --no-save --no-audit --no-fund --loglevel=error --prefix .chdb @chdb/lib-$(CHDB_PLATFORM)@$(CHDB_VERSION)
	@touch $@

kafka-jars: .kafka/jars/fetched ## Fetch Apache Kafka by Maven, where it is missing

.kafka/jars/fetched: services/e2e/kafka/pom.xml
	@command -v mvn >/dev/null || { echo 'mvn is missing: install Maven; the jars of Kafka are fetched by it' >&2; exit 1; }
	rm -rf .kafka/jars
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.kafka/jars
	touch $@

kafka: kafka-jars ## BROKERS brokers of Apache Kafka with HEAP each, from port 9092 on, until Ctrl-C
	go build -o bin/kafka ./services/e2e/kafka
	exec bin/kafka -brokers $(BROKERS) -heap $(HEAP)

run: chdb build ## Everything in one process, data in ./data
	exec bin/mailriver-allinone --data-dir data

demo: chdb build ## Simulated events through the whole path, compared with the truth, data thrown away
	bin/mailriver-allinone demo --events $(or $(EVENTS),10000)

test: chdb ## Unit, component and integration tests, race detector on
	MAILRIVER_CHDB_LIBRARY=$(CHDB_LIBRARY) MAILRIVER_REQUIRE=clickhouse go test $(RACE) -timeout 20m $(PKG)

test-kafka: kafka-jars chdb ## Component tests on Apache Kafka, or on the brokers of KAFKA_BROKERS
	go build -o bin/kafka ./services/e2e/kafka
	MAILRIVER_REQUIRE=clickhouse,kafka MAILRIVER_KAFKA_JARS=$(CURDIR)/.kafka/jars \
	$(if $(KAFKA_BROKERS),,bin/kafka -port 0 -brokers $(BROKERS) -heap $(HEAP)) \
	go test -p 1 -timeout 15m ./pkg/kafka/... ./pkg/pending/... ./pkg/replica/... ./pkg/replay/... ./services/normalizer/... \
	  ./services/loader/... ./services/suppression/... ./services/leadscoring/...

chaos: kafka-jars chdb build ## EVENTS events while KILLS times something is killed, paused or restarted; REPORT=FILE
	go build -o bin/chaos ./services/e2e/chaos
	bin/chaos -events $(or $(EVENTS),20000) -kills $(KILLS) -seed $(SEED) -brokers $(BROKERS) -heap $(HEAP) $(if $(REPORT),-report $(REPORT))

outage: kafka-jars chdb ## ClickHouse, the registry and Kafka away for MINUTES each, while traffic goes on; RUN=clickHouse/refuses for one of them
	MAILRIVER_CHDB_LIBRARY=$(CHDB_LIBRARY) MAILRIVER_REQUIRE=clickhouse,kafka MAILRIVER_KAFKA_JARS=$(CURDIR)/.kafka/jars \
	MAILRIVER_OUTAGE=$(MINUTES)m go test -count=1 -v -timeout $$((5*$(MINUTES)+30))m -run '^TestOutage_$(RUN)' ./services/e2e

bench-memory: kafka-jars chdb build ## Peak memory of normalizer and loader at backlogs of 10^4, 10^5 and 10^6 events
	go build -o bin/backlog ./services/e2e/backlog
	bin/backlog -heap $(HEAP)

bench-suppression: ## Look-ups of the suppression list, its size, restart and rebuild, with ENTRIES addresses (a million)
	MAILRIVER_BENCH_ENTRIES=$(ENTRIES) go test -run '^$$' -bench '^BenchmarkSuppression$$' -benchtime 1x -timeout 2h ./services/suppression

bench-leadscoring: ## Events scored a second on one core, end to end, and the local copy with LEADS recipients (a million)
	GOMAXPROCS=1 go test -run '^$$' -bench '^BenchmarkFold$$' -benchtime 3x ./services/leadscoring
	go test -run '^$$' -bench '^BenchmarkEndToEnd$$' -benchtime 2x -timeout 1h ./services/leadscoring
	MAILRIVER_BENCH_LEADS=$(LEADS) go test -run '^$$' -bench '^BenchmarkCopy$$' -benchtime 1x -timeout 2h ./services/leadscoring

lint: bin/golangci-lint ## Formatting, vet, linters, import rules of .golangci.yml
	bin/golangci-lint run ./...

fmt: bin/golangci-lint ## Format the code
	bin/golangci-lint fmt ./...

golden: ## Rewrite the providers' want.json and what `mailriver lead` shows; review the difference before committing
	UPDATE_GOLDEN=1 go test ./pkg/esp/...
	UPDATE_GOLDEN=1 go test -run TestLead_golden ./services/mailriver
	git diff --stat -- '**/want.json' services/mailriver/testdata

generate: ## Rewrite docs/configuration.md and docs/metrics.md out of the source
	UPDATE_GOLDEN=1 go test -count=1 -run TestGenerated ./docs

fuzz: ## Each fuzz target for FUZZTIME
	@go test -list '^Fuzz' $(PKG) | awk '/^Fuzz/ {name[n++] = $$1} /^ok/ {while (n) print $$2, name[--n]}' | \
	while read -r package target; do \
		echo "$$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null; \
	done

check: lint test demo ## What CI runs

clean: ## Remove what build, lint and chdb made; ./data stays
	rm -rf bin .chdb .kafka

# The linter of tools/go.mod, built once and again when its pin changes.
bin/golangci-lint: tools/go.mod tools/go.sum
	go build -C tools -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
