# Reelway. `make` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
BIN := .bin
MODULES := $(shell sed -n 's|^\t\./||p' go.work)
# Builds of modules alone, with their own go.mod, as a release does it.
ALONE := GOWORK=off

.PHONY: help setup setup-test tools stores build demo up test live lint generate check-generated licences check-licences vuln tidy bench fuzz clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## Install PostgreSQL when it is absent
	@deploy/setup postgresql

setup-test: setup stores test/sdk/node_modules/.package-lock.json test/browser/node_modules/.package-lock.json ## Install what the tests need besides: ffmpeg, object stores, a browser, and the providers' own clients
	@deploy/setup ffmpeg
	@deploy/setup chromium
	@deploy/setup openssl

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

.PHONY: images push-images test-k8s k8s-tools

# Images are of the commit: their labels and dates are its own.
IMAGES := dist/images
VERSION ?= $(shell git describe --tags --always --dirty)

images: ## Build the OCI images into dist/images, without a container engine; SERVICES names fewer
	@cd tools/images && $(ALONE) go run . -out $(CURDIR)/$(IMAGES) -version $(VERSION) -revision $$(git rev-parse HEAD) \
		-time $$(git log -1 --format=%ct) $(SERVICES)

push-images: ## Push dist/images to REGISTRY, such as registry.example.com/reelway
	@test -n "$(REGISTRY)" || { echo "set REGISTRY" >&2; exit 1; }
	@cd tools/images && $(ALONE) go run . -out $(CURDIR)/$(IMAGES) -push $(REGISTRY) $(SERVICES)

# A real API server takes some minutes to build, once: it is kept outside of the
# repository, for every clone.
KUBERNETES := v1.36.3
K8S_BIN := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/reelway/kubernetes-$(KUBERNETES)

k8s-tools: $(addprefix $(K8S_BIN)/, etcd kube-score kubectl kube-apiserver kube-controller-manager) ## Build what test-k8s needs, in minutes, once for all clones

$(K8S_BIN)/kube-apiserver $(K8S_BIN)/kube-controller-manager $(K8S_BIN)/kubectl:
	cd tools/k8s && CGO_ENABLED=0 $(ALONE) go build -trimpath -o $@ -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES) \
		-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" k8s.io/kubernetes/cmd/$(@F)

$(K8S_BIN)/etcd:
	cd tools/k8s && CGO_ENABLED=0 $(ALONE) go build -trimpath -o $@ go.etcd.io/etcd/server/v3

$(K8S_BIN)/kube-score:
	GOBIN=$(K8S_BIN) GOFLAGS= $(ALONE) go install github.com/zegl/kube-score/cmd/kube-score@v1.20.0

test-k8s: k8s-tools ## Apply deploy/k8s to a real API server, and test the images
	cd tools/k8s && REELWAY_K8S_BIN=$(K8S_BIN) $(ALONE) go test -count=1 -timeout 20m ./...
	cd tools/images && $(ALONE) go test -count=1 -timeout 20m ./...
	@for m in tools/k8s tools/images; do (cd $$m && $(ALONE) go mod tidy -diff) || exit 1; done

.PHONY: dashboards dashboard-pictures rule-tools test-rules

dashboards: ## Write Grafana's dashboards
	cd tools/monitoring && $(ALONE) go run .

FOR ?= 10m
dashboard-pictures: ## Draw docs/images/dashboard-*.svg of a "make up" that runs, as it does for FOR (10m)
	cd tools/monitoring && $(ALONE) go run . -pictures $(CURDIR)/docs/images -for $(FOR)

# Prometheus's own tool is large too, and kept like the API server.
PROMTOOL := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/reelway/promtool-v0.316.0

rule-tools: $(PROMTOOL) ## Build what test-rules needs, in minutes, once for all clones

$(PROMTOOL):
	cd tools/monitoring && CGO_ENABLED=0 $(ALONE) go build -trimpath -ldflags "-s -w" -o $@ github.com/prometheus/prometheus/cmd/promtool

test-rules: rule-tools ## Test the rules of Prometheus, the dashboards, and the sampling of traces
	cd tools/monitoring && REELWAY_PROMTOOL=$(PROMTOOL) $(ALONE) go test -count=1 ./...
	cd tools/collector && $(ALONE) go test -count=1 ./...
	@for m in tools/monitoring tools/collector; do (cd $$m && $(ALONE) go mod tidy -diff) || exit 1; done

# The tools that are programs of ours have modules of their own, outside of go.work.
# tools/k8s, which is all of Kubernetes, is seen by make test-k8s alone.
OWN_TOOLS := tools/images tools/licences tools/monitoring tools/collector

lint: tools ## golangci-lint, buf lint, and each module alone
	@for m in $(OWN_TOOLS); do (cd $$m && $(ALONE) $(CURDIR)/$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml ./... && $(ALONE) go mod tidy -diff) || exit 1; done
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/$(BIN)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done
	$(BIN)/buf lint
	@for m in $(MODULES); do (cd $$m && $(ALONE) go build ./... && $(ALONE) go mod tidy -diff) || exit 1; done

generate: tools ## Generate the protobuf code, and the description of the REST API
	$(BIN)/buf generate
	go run ./services/reelway/apidoc

GENERATED := proto/gen docs/openapi.json docs/postman.json services/intake/openapi.json

licences: ## Write docs/licences.md, of every module that is delivered
	@cd tools/licences && $(ALONE) go run .

check-licences: ## Fail when that list is not current, or a licence is not allowed
	@cd tools/licences && $(ALONE) go test ./... && $(ALONE) go run . -check

$(BIN)/govulncheck: tools/vuln/go.mod tools/vuln/go.sum
	@mkdir -p $(BIN)
	cd tools/vuln && GOBIN=$(CURDIR)/$(BIN) $(ALONE) go install tool
	@touch $@

vuln: $(BIN)/govulncheck ## Look for known vulnerabilities in what is delivered; skipped where their database is out of reach
	@for m in $(filter services/%,$(MODULES)); do \
		said=$$(cd $$m && $(ALONE) $(CURDIR)/$(BIN)/govulncheck ./... 2>&1) && continue; \
		case "$$said" in \
		*"fetching vulnerabilities"*) echo "skipped: make vuln (the database is out of reach; GOVULNDB names another)"; exit 0 ;; \
		*) echo "$$m: $$said" >&2; exit 1 ;; \
		esac; \
	done

check-generated: generate ## Fail when the committed generated code is not current
	@git diff --exit-code --stat -- $(GENERATED) && test -z "$$(git status --porcelain -- $(GENERATED))"

breaking: tools ## Fail when the contracts break callers of the last commit but one
	@if git rev-parse -q --verify HEAD~1 >/dev/null; then $(BIN)/buf breaking --against '.git#ref=HEAD~1'; fi

tidy: ## Tidy every module alone
	@for m in $(MODULES); do (cd $$m && $(ALONE) go mod tidy) || exit 1; done

bench: setup ## Measure the ledger beside River and bare SQL, the dispatcher, the queue and the notifier; takes minutes
	cd bench && go run ./ledger && go run ./dispatcher && go run ./flood && go run ./live

fuzz: ## Fuzz each target for 30 seconds
	cd services/intake && go test -fuzz=FuzzDecode -fuzztime=30s .
	cd services/archiver && go test -fuzz=FuzzProbe -fuzztime=30s .
	cd pkg/money && go test -fuzz=FuzzParse -fuzztime=30s .
	@for p in atlascloud byteplus declared fal kling luma minimax openai replicate veo; do \
		(cd pkg/provider/$$p && go test -fuzz=FuzzParseWebhook -fuzztime=30s .) || exit 1; done

clean: ## Remove what was built; data stays
	rm -rf $(BIN)
