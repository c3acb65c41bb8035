# What a developer does, one target for each. `make` lists them.
# Programs and tests need only Go; what else a target needs it says itself.

SHELL := /bin/bash -o pipefail
GO    ?= go

PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -s -w -X main.version=$(VERSION)
# grpc can show its calls on a web page. Nobody would see it, and the templates
# for it keep the linker from leaving anything out: 7 MB of kilntainersd.
TAGS     = grpcnotrace

# Where things are built. Manual pages and completions are what the programs say
# of themselves, so these have to run here.
BIN     ?= bin
DOC     ?= dist/doc
HOSTBIN  = $(if $(GOOS)$(GOARCH),$(dir $(DOC))host,$(BIN))
NATIVE   = GOOS= GOARCH= CGO_ENABLED=0

# What make packages and make image make.
ARCHES  ?= amd64 arm64
FORMATS ?= deb rpm archlinux
BASE    ?= debian:bookworm-slim
IMAGE   ?= kilntainers:latest

FUZZTIME    ?= 30s
BENCHTIME   ?= 1s
GOTESTFLAGS ?=

# Tools run by version, so that everybody's check is the same.
GOTESTSUM   = $(GO) run gotest.tools/gotestsum@v1.13.0
# ST1005 is about capitals in errors, and takes names (EXIT, Modal) for them.
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -checks inherit,-ST1005
GOVULNCHECK = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The guests of the WebAssembly kernel are built for another machine, so they
# are a module of their own.
GUEST   = backends/wasm/guest
MODULES = . $(wildcard $(GUEST))

# Whose benchmarks tell what users will feel.
BENCH = ./backends/docker ./backends/wasm ./daemon ./daemon/mcptest ./cmd/kilntainersd ./cmd/kilntainers-stdio ./packaging/systemdtest

# Other people's MCP clients, E2B's SDK and a WebAssembly module, kept from one
# clone to the next.
NODE_CACHE = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kilntainers-test
NODE_TOOLS = daemon/mcptest/node:node backends/e2b/e2btest/node:e2b backends/wasm/testdata/node:wasm

# What the tests can use beyond Go, as Debian 12 names it on amd64: engines and
# what makes an image for them; the agent's compilers, and arm64 to run it; what
# the guest's tools are compared with; an editor that saves in its own way; what
# reads systemd's units; what reads the manual, and completes; what checks a
# package; what watches the daemon's system calls; C for WebAssembly.
TEST_PACKAGES = docker.io podman crun uidmap slirp4netns fuse-overlayfs iptables mmdebstrap docker-registry \
	gcc gcc-aarch64-linux-gnu libc6-dev musl-dev musl-dev:arm64 qemu-user-static \
	bash bzip2 coreutils diffutils findutils grep jq mawk sed tar vim systemd \
	man-db zsh fish lintian strace clang lld wasi-libc libclang-rt-14-dev-wasm32

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### Use

.PHONY: build demo install install-systemd packages check-packages image
build: ## Build the programs into bin/, what goes with them into dist/doc
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...
	@$(NATIVE) $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $(HOSTBIN)/ ./cmd/...
	$(NATIVE) $(GO) run ./packaging/gen $(HOSTBIN) $(DOC)

PROFILE ?= default
demo: ## Start a daemon, run commands in a sandbox over MCP, clean up; PROFILE=debian uses Docker
	@$(GO) run ./contrib/demo $(PROFILE)

install: ## Install what make build built, below DESTDIR and PREFIX
	@[ -x $(BIN)/kilntainersd ] || { echo 'There is nothing to install yet: run make build first.'; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(addprefix $(BIN)/,kilntainers kilntainers-stdio kilntainersd) $(DESTDIR)$(PREFIX)/bin/
	install -d $(DESTDIR)$(PREFIX)/share/{man/man{1,5,8},bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
	for n in 1 5 8; do install -m 0644 $(DOC)/man/*.$$n $(DESTDIR)$(PREFIX)/share/man/man$$n/; done
	install -m 0644 $(DOC)/bash/* $(DESTDIR)$(PREFIX)/share/bash-completion/completions/
	install -m 0644 $(DOC)/zsh/* $(DESTDIR)$(PREFIX)/share/zsh/site-functions/
	install -m 0644 $(DOC)/fish/* $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/
	install -d $(DESTDIR)$(PREFIX)/share/doc/kilntainers/examples/profiles
	install -m 0644 README.md $(wildcard contrib/docs/*.md) $(DESTDIR)$(PREFIX)/share/doc/kilntainers/
	install -m 0644 kilntainers.example.toml $(DESTDIR)$(PREFIX)/share/doc/kilntainers/examples/
	install -m 0644 contrib/profiles/* $(DESTDIR)$(PREFIX)/share/doc/kilntainers/examples/profiles/

install-systemd: ## Install the units, the user and the directories (as root, after make install PREFIX=/usr)
	install -d $(DESTDIR)/usr/lib/systemd/system $(DESTDIR)/usr/lib/systemd/user $(DESTDIR)/usr/lib/sysusers.d $(DESTDIR)/usr/lib/tmpfiles.d
	install -m 0644 packaging/systemd/system/* $(DESTDIR)/usr/lib/systemd/system/
	install -m 0644 packaging/systemd/user/* $(DESTDIR)/usr/lib/systemd/user/
	install -m 0644 packaging/sysusers.d/* $(DESTDIR)/usr/lib/sysusers.d/
	install -m 0644 packaging/tmpfiles.d/* $(DESTDIR)/usr/lib/tmpfiles.d/
	@[ -n "$(DESTDIR)" ] || { systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload; }
	@echo 'Next: systemctl enable --now kilntainers.socket'

packages: ## Build .deb, .rpm and Arch packages into dist/; ARCHES and FORMATS choose
	@DESCRIBED='$(VERSION)' ARCHES='$(ARCHES)' FORMATS='$(FORMATS)' packaging/packages.sh

# Another folder, other times of files, the same bits.
check-packages: packages ## Check the packages with lintian, and that a clone of the commit gives the same
	@command -v lintian >/dev/null || { echo 'Debian checks packages with lintian: apt-get install lintian.'; exit 1; }
	lintian --fail-on error,warning --tag-display-limit 0 dist/*.deb
	@clone=$$(mktemp -d); trap 'rm -rf $$clone' EXIT; \
	git clone --quiet . $$clone/again && $(MAKE) -C $$clone/again --no-print-directory packages ARCHES=$(firstword $(ARCHES)) >/dev/null && \
	cd $$clone/again/dist && sha256sum --check --ignore-missing $(CURDIR)/dist/SHA256SUMS

image: build ## Build a container image of the daemon, IMAGE on BASE
	docker build --tag $(IMAGE) --build-arg BASE=$(BASE) --file packaging/Dockerfile $(BIN)

##### Test

.PHONY: test check setup-test node-tools
test: node-tools ## Run all tests that this machine can run, and say which it cannot
	@json=$$(mktemp); trap 'rm -f $$json' EXIT; \
	$(GOTESTSUM) --format pkgname --hide-summary skipped --jsonfile $$json --raw-command -- bash -c '\
		status=0; \
		for module in $(MODULES); do (cd $$module && $(GO) test -json -timeout 40m $(GOTESTFLAGS) ./...) || status=$$?; done; \
		exit $$status'; status=$$?; \
	awk -f contrib/skips.awk $$json; exit $$status

check: lint vuln ## Run all that CI runs, ending with a clean git diff
	@$(MAKE) --no-print-directory test GOTESTFLAGS=-race
	@$(MAKE) --no-print-directory generated

setup-test: ## Install what the tests can use beyond Go (Debian on amd64, as root)
	dpkg --add-architecture arm64
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TEST_PACKAGES)

node-tools:
	@for tools in $(NODE_TOOLS); do \
		from=$${tools%:*} into=$(NODE_CACHE)/$${tools#*:}; \
		if cmp -s $$from/package-lock.json $$into/package-lock.json; then continue; fi; \
		if ! command -v npm >/dev/null; then echo "There is no npm here, so tests with what $$from names will be skipped: install Node."; continue; fi; \
		echo "Installing what $$from names into $$into …"; \
		rm -rf $$into.new && mkdir -p $$into.new && cp $$from/{package.json,package-lock.json,.npmrc} $$into.new && \
		npm --prefix $$into.new --silent ci && rm -rf $$into && mv $$into.new $$into || \
		echo 'That did not work, so tests with it will be skipped.'; \
	done

##### Look closer

.PHONY: fuzz fuzz-list bench test-busybox size
# At the end of its time a fuzz run may fail with nothing but "context deadline
# exceeded" (go.dev/issue/48591); a real failure writes its input, and the other
# targets still get their time. Making each interesting input smaller would take
# most of that, hence the bound.
fuzz: ## Run every fuzz target for FUZZTIME (30s), as many at once as there are cores
	@$(MAKE) --silent --no-print-directory fuzz-list | xargs -P "$$(nproc)" -L 1 bash -c '\
		out=$$(cd $$0 && $(GO) test -vet=off -run "^$$" -fuzz "^$$1\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x -parallel 1 . 2>&1) \
		|| { grep -q "^ *context deadline exceeded" <<<"$$out" && ! grep -q "Failing input" <<<"$$out"; } \
		&& echo "$$0 $$1: $$(grep -o "execs: [0-9]*" <<<"$$out" | tail -n 1)" || { echo "$$0 $$1 FAILED"; echo "$$out"; exit 1; }'

bench: ## Measure, and compare with fork and exec on this machine
	@$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) -timeout 30m $(BENCH) | awk -f contrib/bench.awk

fuzz-list:
	@grep -rE --include='*_test.go' '^func Fuzz' . | sed -E 's|/[^/]*:func (Fuzz[A-Za-z0-9_]*).*| \1|'

test-busybox: ## Score go_busybox with BusyBox's own tests; BUSYBOX_SRC names its source
	@$(GO) test -count=1 -run TestBusyBox -v ./backends/wasm | sed -n 's/^ *busybox_test.go:[0-9]*: //p; /^--- \|^ok\|^FAIL/p'

size: build ## Tell how large the programs are
	@mkdir -p bin/nomodal && CGO_ENABLED=0 $(GO) build -tags $(TAGS),nomodal -trimpath -ldflags '$(LDFLAGS)' -o bin/nomodal/ ./cmd/kilntainersd
	@ls -ld --block-size=K bin/* bin/nomodal/* | awk '/^-/ { sub("^bin/", "", $$NF); print $$5, $$NF }' | column -t
	@rm -r bin/nomodal

##### Keep in order

.PHONY: fmt lint vuln generate generated clean
fmt: ## Format the Go code
	gofmt -w $$(git ls-files '*.go')

lint:
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { printf 'Not formatted; make fmt does it:\n%s\n' "$$files" >&2; exit 1; }
	@for module in $(MODULES); do (cd $$module && $(GO) vet ./... && $(STATICCHECK) ./...) || exit 1; done

# Where the database of vulnerabilities cannot be reached nothing is known, and
# that is said; what was found there is an error.
vuln:
	@out=$$($(GOVULNCHECK) ./... 2>&1); status=$$?; echo "$$out" | tail -n 20; \
	if [ $$status -ne 0 ] && grep -q 'fetching vulnerabilities' <<<"$$out"; then \
		echo 'NOT CHECKED for known vulnerabilities: their database cannot be reached from here.'; \
	else exit $$status; fi

generate: ## Make the generated files anew
	$(GO) generate ./...

generated: generate
	git diff --exit-code
	@files=$$(git status --porcelain); [ -z "$$files" ] || { printf 'Not committed:\n%s\n' "$$files" >&2; exit 1; }

clean: ## Remove what was built
	rm -rf bin dist
