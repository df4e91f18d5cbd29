# Reelway. `make` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
BIN := .bin
MODULES := $(shell sed -n 's|^\t\./||p' go.work)
# Builds of modules alone, with their own go.mod, as a release does it.
ALONE := GOWORK=off

.PHONY: help setup setup-test tools stores build demo up test live lint generate check-generated tidy bench fuzz clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## Install PostgreSQL when it is absent
	@deploy/setup postgresql

setup-test: setup stores test/sdk/node_modules/.package-lock.json test/browser/node_modules/.package-lock.json ## Install what the tests need besides: ffmpeg, object stores, a browser, and the providers' own clients
	@deploy/setup ffmpeg
	@deploy/setup chromium

# npm writes this file at the end of an installation.
test/%/node_modules/.package-lock.json: test/%/package-lock.json
	@deploy/setup nodejs
	cd test/$* && npm ci --no-progress --loglevel=error
	@touch $@

tools: $(BIN)/buf $(BIN)/golangci-lint ## Build the pinned developer tools

# Each tool has a module of its own: none inherits another's requirements.
$(BIN)/buf: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && GOBIN=$(CURDIR)/$(BIN) $(ALONE) go install tool
	@touch $@

$(BIN)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@mkdir -p $(BIN)
	cd tools/lint && GOBIN=$(CURDIR)/$(BIN) $(ALONE) go install tool
	@touch $@

stores: $(BIN)/versitygw ## Build the object stores of the tests

$(BIN)/versitygw: tools/stores/go.mod tools/stores/go.sum
	@mkdir -p $(BIN)
	cd tools/stores && GOBIN=$(CURDIR)/$(BIN) $(ALONE) go install tool
	@touch $@

build: ## Build the reelway command
	@mkdir -p $(BIN)
	@cd services/reelway && $(ALONE) go build -o $(CURDIR)/$(BIN)/reelway ./cmd/reelway

demo: setup build ## Do the main job: submit a video, watch it live, save the MP4, print its cost
	@$(BIN)/reelway demo

up: setup build ## Run everything in the foreground until Ctrl-C
	@exec $(BIN)/reelway up

test: setup-test ## Run every test with the race detector
	@# Not from the cache: test/ runs binaries whose sources the cache does not see.
	go test -race -count=1 -timeout 15m work

live: ## Ask the true providers whose keys are in REELWAY_LIVE_<PROVIDER>, for at most REELWAY_LIVE_MAX_USD (1)
	go test -count=1 -v -timeout 30m -run TestLive ./test/live

lint: tools ## golangci-lint, buf lint, and each module alone
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done
	$(BIN)/buf lint
	@for m in $(MODULES); do (cd $$m && $(ALONE) go build ./... && $(ALONE) go mod tidy -diff) || exit 1; done

generate: tools ## Generate the protobuf code
	$(BIN)/buf generate

check-generated: generate ## Fail when the committed generated code is not current
	@git diff --exit-code --stat -- proto/gen && test -z "$$(git status --porcelain -- proto/gen)"

breaking: tools ## Fail when the contracts break callers of the last commit but one
	@if git rev-parse -q --verify HEAD~1 >/dev/null; then $(BIN)/buf breaking --against '.git#ref=HEAD~1'; fi

tidy: ## Tidy every module alone
	@for m in $(MODULES); do (cd $$m && $(ALONE) go mod tidy) || exit 1; done

bench: setup ## Measure the ledger beside River and bare SQL, the dispatcher and the notifier; takes minutes
	cd bench && go run ./ledger && go run ./dispatcher && go run ./live

fuzz: ## Fuzz each target for 30 seconds
	cd services/intake && go test -fuzz=FuzzDecode -fuzztime=30s .
	cd services/archiver && go test -fuzz=FuzzProbe -fuzztime=30s .
	cd pkg/money && go test -fuzz=FuzzParse -fuzztime=30s .
	@for p in atlascloud byteplus declared fal kling luma minimax openai replicate veo; do \
		(cd pkg/provider/$$p && go test -fuzz=FuzzParseWebhook -fuzztime=30s .) || exit 1; done

clean: ## Remove what was built; data stays
	rm -rf $(BIN)
