# asyncfsd: ext2/3/4 as a FUSE filesystem. "make help" lists the targets.

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
# How long "make fuzz" runs each fuzzer.
FUZZTIME ?= 30s
# What "make bench" passes on, for example BENCHFLAGS="-rounds 5".
BENCHFLAGS ?=

# What "make sim" and "make crash" run.
SEED  ?= 1
SEEDS ?= 200

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := build
.PHONY: help deps build test race lint fuzz crash sim bench demo fstest images verify-images install clean

help: ## lists the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

deps: ## installs what is missing on a Debian machine
	@sh scripts/deps.sh

build: ## builds ./asyncfsd
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o asyncfsd ./cmd/asyncfsd

# The packages' tests run one after the other: some mount, some measure.
test: deps build lint ## installs what is missing, builds, checks the style, runs all tests
	$(GO) test -p 1 -timeout 15m -tags invariants ./...

race: deps ## runs the tests of everything that goroutines share under the race detector
	$(GO) test -race -timeout 20m ./asyncq/... ./blockdev/... ./vfs/... ./fusefs/... \
		./internal/...

lint: ## gofmt, go vet (the tests of internal/tidy check the rest)
	@test -z "$$(gofmt -l .)" || { echo "gofmt is needed for:"; gofmt -l .; exit 1; }
	$(GO) vet ./...

fuzz: ## runs every fuzzer for FUZZTIME (default 30s)
	GO=$(GO) FUZZTIME=$(FUZZTIME) sh scripts/fuzz.sh

sim: deps ## runs the simulation with power cuts for one seed: make sim SEED=7
	$(GO) test ./vfs -run 'TestSim|TestConcurrent' -timeout 60m -sim.seed $(SEED)

crash: deps ## power cuts after all pairs of operations and in SEEDS simulations; kill -9
	$(GO) test ./vfs -run TestExhaustive -timeout 120m -exhaustive.every 1
	$(GO) test ./vfs -run 'TestSim|TestConcurrent|TestKernelRecovers' -timeout 300m \
		-sim.seeds $(SEEDS)
	$(GO) test ./cmd/asyncfsd -run TestKill -timeout 60m -kill.rounds 50

bench: deps build ## compares with kernel ext4, fuse2fs and the raw device; writes docs/bench
	$(GO) run ./bench -asyncfsd ./asyncfsd $(BENCHFLAGS)

demo: deps build ## makes an image, mounts it, runs fio on it, unmounts and checks it
	@sh scripts/demo.sh

fstest: build ## runs xfstests and pjdfstest: XFSTESTS_DIR= PJDFSTEST_DIR= (root, docs/fstest.md)
	XFSTESTS_DIR='$(XFSTESTS_DIR)' PJDFSTEST_DIR='$(PJDFSTEST_DIR)' bash scripts/fstest.sh

images: deps ## makes the test images anew (root)
	bash testdata/images/make.sh

verify-images: deps ## compares the test images with what the kernel reads (root)
	bash testdata/images/make.sh verify

install: build ## installs into PREFIX (default /usr/local)
	install -D -m 755 asyncfsd $(DESTDIR)$(PREFIX)/bin/asyncfsd
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man1
	ln -sf ../bin/asyncfsd $(DESTDIR)$(PREFIX)/sbin/mount.fuse.asyncfsd
	ln -sf ../bin/asyncfsd $(DESTDIR)$(PREFIX)/sbin/umount.fuse.asyncfsd
	./asyncfsd man $(DESTDIR)$(PREFIX)/share/man/man1

clean: ## removes what was built
	rm -rf asyncfsd build
