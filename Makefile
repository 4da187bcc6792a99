# Pheromone: run `make help` for the targets.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -X github.com/pheromone-run/pheromone/internal/cli.Version=$(VERSION)
BIN      = bin/pheromone
RACE     = -race -shuffle=on
# Packages with goroutines of their own; the others are tested without the race
# detector, which makes them several times slower.
ALL      = ./...
# make cluster: the folder that keeps the nodes' data; empty for a temporary one.
DATA    ?=
# make chaos: how long, what (empty: all that needs nothing of the machine), and the
# seed of a run that is to be repeated.
CHAOS_TIME ?= 1h
FAULTS  ?=
SEED    ?= 0

# make bench: how long each figure is measured in all rounds together, how many rounds,
# the nodes, the systems beside ours (empty: none), and where the report goes.
BENCH_TIME ?= 3s
ROUNDS  ?= 3
NODES   ?= 3
PEERS   ?= etcd,nats,nats-default
REPORT  ?= bin/bench
BENCH_FLAGS = -span $(BENCH_TIME) -rounds $(ROUNDS) -peers '$(PEERS)' -out '$(REPORT)'

.PHONY: help build run cluster test lint vet fmt bench crash chaos matrix matrix-update fuzz vuln clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the one binary, bin/pheromone
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/pheromone

run: build ## start a node, count the words of a book on it, and stay up until Ctrl-C
	@$(GO) build -o bin/demo ./examples/demo && exec bin/demo -binary $(BIN)

cluster: build ## three nodes in one terminal until Ctrl-C; DATA=folder keeps their data
	@$(GO) build -o bin/local-cluster ./deploy/local && exec bin/local-cluster -binary $(BIN) -data '$(DATA)'

test: lint ## everything that must be green
	$(GO) test $(RACE) -timeout 15m $(ALL)
	$(GO) test ./node/conductor # its tests that the race detector does not bear

lint: vet ## gofmt, go vet, staticcheck, tidy module files
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) mod tidy -diff
	$(GO) tool -modfile=tools/go.mod staticcheck $(ALL)

vet:
	$(GO) vet $(ALL)

bench: ## workloads A to F, K and L beside etcd and NATS as one report; NODES=1 leaves out L
	$(GO) run ./bench -nodes $(NODES) $(BENCH_FLAGS)

bench-%: ## one workload of them, as in bench-a; BENCH_TIME=1s ROUNDS=1 make it short
	$(GO) run ./bench -only $* $(BENCH_FLAGS)

crash: ## the crash test with real processes, longer than in the tests
	$(GO) test ./internal/crash -count=1 -timeout 60m -run TestSessionsSurvive -crash.sessions 2000 -crash.kills 100

chaos: ## break a cluster for an hour; FAULTS=kill,partition and SEED=7 choose what of
	$(GO) test ./internal/chaos -count=1 -timeout 3h -v -run Promises -chaos.nodes 3 -chaos.time $(CHAOS_TIME) -chaos.seed $(SEED) -chaos.faults '$(FAULTS)' -chaos.recovery 10s

matrix: ## the crash matrix, at each of the first five times that a point is passed
	$(GO) test ./internal/crashmatrix -count=1 -timeout 60m -matrix.hits 5

matrix-update: ## write the tables of docs/crash-matrix.md anew
	$(GO) test ./internal/crashmatrix -count=1 -timeout 20m -update

fuzz: ## every fuzz target for a minute
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test $$p -list '^Fuzz' | grep '^Fuzz'); do \
		$(GO) test $$p -run '^$$' -fuzz "^$$f$$" -fuzztime 60s || exit 1; done; done

vuln: ## govulncheck, where its database can be reached; not a gate
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 $(ALL)

clean: ## remove what was built
	rm -rf bin
