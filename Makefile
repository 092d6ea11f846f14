# What people type. Everything else is cargo.
#
# One profile (release) and always the whole workspace, so that dependencies are compiled once, with
# one set of features. `make build` leaves the programs in $(BIN); all else takes them from there.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build build-faults demo test test-faults test-native test-vm bench lint deps root clean-host fuzz test-vm-systemd soak soak-shim install torture test-power

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
TARGET := $(abspath $(TARGET))
RELEASE := $(TARGET)/release
BIN := $(TARGET)/wharf
# Where it is installed, the two that live beside every container are linked with musl.
MUSL := $(shell uname -m)-unknown-linux-musl
HAVE_MUSL := $(shell rustup target list --installed 2>/dev/null | grep -x $(MUSL))
# Tests at the same time; each has its own daemon.
TEST_THREADS ?= 4
# Under sudo, root borrows the toolchain of whoever asked, if it has none of its own.
ifneq ($(SUDO_USER),)
ifeq ($(shell command -v $(CARGO)),)
ASKER := $(shell getent passwd $(SUDO_USER) | cut -d: -f6)
export PATH := $(PATH):$(ASKER)/.cargo/bin
export RUSTUP_HOME ?= $(ASKER)/.rustup
endif
endif

help:
	@echo 'make demo    build, then see a container outlive its supervisor (root, no network)'
	@echo 'make test    all tests, with real containers (root)'
	@echo 'make test-vm the runtime on pure cgroup v2, in a virtual machine (no KVM needed)'
	@echo 'make test-faults  the supervisor killed at every fault point (root)'
	@echo 'make torture  the store under kill -9; make test-power: under power cuts (qemu)'
	@echo 'make build   wharfd, wharf-shim, wharf-runtime and wharf, in $(BIN)'
	@echo 'make bench   Wharf and Debian'\''s containerd with runc, side by side (root)'
	@echo 'make fuzz    FUZZ=target SECONDS=60: one fuzz target of tests/fuzz'
	@echo 'make lint    formatting and clippy'
	@echo 'make deps    what the tests want of Debian (root)'

build:
	$(CARGO) build --release --workspace --bins
ifneq ($(HAVE_MUSL),)
	$(CARGO) build --release --target $(MUSL) -p wharf-shim -p wharf-runtime
endif
	@mkdir -p $(BIN)
	@install -t $(BIN) $(addprefix $(RELEASE)/,wharfd wharf wharf-mkimage wharf-bench)
	@install -t $(BIN) $(addprefix $(if $(HAVE_MUSL),$(TARGET)/$(MUSL)/release,$(RELEASE))/,wharf-shim wharf-runtime)
# The program in the demo's image has to be static: the image may hold nothing else.
	@rustc --edition 2024 -O -C target-feature=+crt-static -o $(BIN)/wharf-demo-init tests/src/bin/wharf-demo-init.rs
	@cd $(BIN) && ls -sh wharfd wharf wharf-shim wharf-runtime

# Also as containerd's shim: --runtime io.containerd.wharf.v2.
PREFIX ?= /usr/local
install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(BIN)/,wharfd wharf wharf-shim wharf-runtime)
	ln -sf wharf-shim $(DESTDIR)$(PREFIX)/bin/containerd-shim-wharf-v2

# wharfd with fault points; only the supervisor is compiled a second time.
build-faults:
	$(CARGO) build --release --workspace --features wharf-supervisor/fault --bin wharfd-fault
	@install -t $(BIN) $(RELEASE)/wharfd-fault

# The supervisor killed, failing and delayed at every fault point (some ten minutes).
test-faults: root deps build build-faults
	WHARF_BIN_DIR=$(BIN) $(CARGO) test --release --workspace --test faults -- --test-threads=3 --nocapture

demo: root build
	@tests/demo.sh $(BIN)

# Of the long suites a sample: every 12th case of the matrix.
test: root deps build build-faults
	WHARF_BIN_DIR=$(BIN) WHARF_FAULT_EVERY=$(or $(WHARF_FAULT_EVERY),12) $(CARGO) test --release --workspace --no-fail-fast -- --test-threads=$(TEST_THREADS)

# The runtime's and the shim's tests once more, where there is nothing but cgroup v2: a virtual
# machine with Debian's kernel. VM_ARGS=--sample for the short form, or words of tests' names.
test-vm:
	@tests/deps.sh qemu-system-x86_64:qemu-system-x86 busybox-static depmod:kmod ps:procps
	@tests/vm/conformance.sh $(VM_ARGS)

# Cgroups by systemd, and checkpoints: a small Debian in such a machine (debootstrap, 300 MiB).
test-vm-systemd: root
	@tests/deps.sh qemu-system-x86_64:qemu-system-x86 busybox-static depmod:kmod debootstrap mke2fs:e2fsprogs
	@tests/vm/systemd.sh

# The same tests, where each container has a copy of its image in place of an overlay.
test-native: root deps build
	WHARF_TEST_CONFIG='snapshotter = "native"' WHARF_BIN_DIR=$(BIN) $(CARGO) test --release -p wharf-tests --test e2e --no-fail-fast -- --skip native:: --test-threads=$(TEST_THREADS)

bench: root build
	@WHARF_BIN_DIR=$(BIN) $(BIN)/wharf-bench $(BENCH_ARGS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# One decoder of outside bytes, fed with whatever breaks it: make fuzz FUZZ=ttrpc_frames SECONDS=60
fuzz:
	@tests/fuzz/run.sh '$(FUZZ)' '$(or $(SECONDS),60)'

# Long runs that look for what is left: make soak SOAK=shim, with EXECS and ROUNDS for less.
SOAKS := shim upgrades lives flat
soak: root build
	@[ -n '$(filter $(SOAK),$(SOAKS))' ] || { echo 'SOAK is one of: $(SOAKS)' >&2; exit 2; }
	@$(MAKE) --no-print-directory soak-$(SOAK)

# WHARF_SOAK_ROUNDS upgrades, WHARF_SOAK_LIVES lives, for less than all.
soak-upgrades soak-lives soak-flat: soak-%:
	WHARF_BIN_DIR=$(BIN) $(CARGO) test --release -p wharf-tests --test e2e -- --ignored --nocapture --exact $(if $(filter upgrades,$*),upgrade,soak)::soak_$*

soak-shim:
	WHARF_SHIM=$(BIN)/wharf-shim EXECS=$(or $(EXECS),100000) ROUNDS=$(or $(ROUNDS),1000) \
	    $(CARGO) test --release -p wharf-shim --test rounds --test execs

# The store under kill -9: TORTURE_ROUNDS rounds of three kills, two of them while it opens.
torture:
	WHARF_TORTURE_ROUNDS=$(or $(TORTURE_ROUNDS),300) $(CARGO) test --release --workspace --test torture -- --nocapture

# The power of a virtual machine cut in the middle of work: POWER_ROUNDS of the store, as many of a
# whole wharfd.
test-power: root build
	@tests/deps.sh qemu-system-x86_64:qemu-system-x86 busybox-static depmod:kmod mke2fs:e2fsprogs
	@torture=$$($(CARGO) test --release --workspace --test torture --no-run --message-format=json 2>/dev/null | \
	    sed -nE 's|.*"name":"torture".*"executable":"([^"]+)".*|\1|p' | tail -n 1); \
	    WHARF_BIN_DIR=$(BIN) WHARF_TORTURE=$$torture tests/power.sh $(or $(POWER_ROUNDS),5)

root:
	@[ "$$(id -u)" = 0 ] || { echo 'This starts real containers and needs root: sudo make $(or $(MAKECMDGOALS),test)' >&2; exit 1; }
	@command -v $(CARGO) >/dev/null || { echo 'No cargo here: install a Rust toolchain for root, see https://rustup.rs' >&2; exit 1; }

# Tests whose tools are missing skip and say so; these are Debian's packages of those tools.
deps: root
	@tests/deps.sh busybox-static docker-registry skopeo

# What a killed test or demo may have left: looks for the marks that each gives to all it makes.
clean-host: root
	@tests/clean-host.sh
