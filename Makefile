# Everything that this project can do, each a word:
#   make demo     build, then watch a job fire, stream and be killed (under a minute, no root)
#   make test     every test, with the race detector where a C compiler is there
#   make check    gofmt, go vet, staticcheck, govulncheck
#   make bench    speed and memory as ratios against a baseline of the same run
#   make kill-lab every kill case, with a table
#   make soak     the promises that are about minutes, for minutes
#   make man      man pages of every verb, in dist/man
#   make dist     static binaries for linux on amd64 and arm64
#   make install  the binary, the unit and an empty folder for jobs (PREFIX, DESTDIR)

GO      ?= go
PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X saltpeter/wrapper.Version=$(VERSION)
# HTTP/2 is not spoken on any port (a WebSocket cannot be upgraded from it): half a megabyte.
TAGS    := nethttpomithttp2
BUILD   := CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)'
SOURCES := $(shell find cmd config runner sshx wrapper wsx -name '*.go' -o -name '*.sh' -o -path '*/web/*' 2>/dev/null) go.mod go.sum

# The race detector needs cgo; without a C compiler the tests run without it.
CC_FOUND := $(shell command -v $${CC:-cc} gcc clang 2>/dev/null | head -n 1)
RACE     := $(if $(CC_FOUND),-race,)

# Our own packages; those in testdata are named since ./... leaves testdata out.
PACKAGES := ./... ./testdata/lab ./testdata/killtable ./testdata/oldwrapper

.PHONY: all demo test check bench kill-lab soak man dist install clean

all: bin/saltpeter

bin/saltpeter: $(SOURCES)
	@mkdir -p bin
	$(BUILD) -o $@ ./cmd/saltpeter

# Nearly all of a first build is the compiler's optimizations, which a demo can do
# without: it has a binary of its own unless there is an up-to-date one.
demo:
	@if $(MAKE) -q bin/saltpeter 2>/dev/null; then sh testdata/demo.sh bin/saltpeter; \
	else $(MAKE) --no-print-directory bin/demo && sh testdata/demo.sh bin/demo; fi

bin/demo: $(SOURCES)
	@mkdir -p bin
	$(BUILD) -gcflags='all=-N -l' -o $@ ./cmd/saltpeter

# go test's own closing lines come last.
test: check
	@$(if $(RACE),,echo "no C compiler found: the race detector stays off (apt-get install gcc turns it on)")
	$(GO) test $(RACE) -timeout 20m $(PACKAGES)

check:
	@fmt="$$(gofmt -l cmd config runner sshx wrapper wsx testdata 2>/dev/null)"; test -z "$$fmt" || { echo "not formatted: $$fmt; run gofmt -w"; exit 1; }
	$(GO) vet $(PACKAGES)
	$(GO) tool staticcheck $(PACKAGES)
	@sh testdata/vulncheck.sh $(GO)

bench:
	$(GO) test -run '^$$' -bench . -benchtime 1s -timeout 30m $(PACKAGES) | sh testdata/ratios.sh

# The table comes last; what failed is printed before it. One package at a time:
# the bounds are those of a machine that does nothing else.
kill-lab:
	SALTPETER_KILL_LAB=1 $(GO) test -json -count 1 -p 1 -timeout 30m -run 'Kill|Case|Lab' ./wrapper ./runner/launch ./runner ./cmd | $(GO) run ./testdata/killtable

# One package at a time: there are bounds in it.
soak:
	SALTPETER_SOAK=1 $(GO) test -count 1 -p 1 -timeout 30m -run 'Second|Minute' -v ./runner ./cmd

man:
	SALTPETER_MAN_DIR=$(CURDIR)/dist/man $(GO) test -count 1 -run TestManPages ./cmd

dist:
	@mkdir -p dist
	GOOS=linux GOARCH=amd64 $(BUILD) -o dist/saltpeter-linux-amd64 ./cmd/saltpeter
	GOOS=linux GOARCH=arm64 $(BUILD) -o dist/saltpeter-linux-arm64 ./cmd/saltpeter
	@ls -l dist

install: bin/saltpeter
	install -D -m 0755 bin/saltpeter $(DESTDIR)$(PREFIX)/bin/saltpeter
	install -d -m 0755 $(DESTDIR)/etc/saltpeter
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' packaging/saltpeter.service | install -D -m 0644 /dev/stdin $(DESTDIR)/etc/systemd/system/saltpeter.service

clean:
	rm -rf bin dist .cache
