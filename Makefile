# Everything runs from a fresh clone: each target first sets up what it lacks.
# `make` alone prints the list of targets; `make setup` a second time does nothing.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/stamps/project
PYTEST := $(BIN)/python -m pytest
# More words for pytest: make test PYTEST_ARGS='-k balance -x'
PYTEST_ARGS ?=
# Rounds of make chaos, cycles of make soak: as many as they think right
COUNT ?=
# What the programs are compared with, and how much slower one may be; make compare COMPARE_ARGS='--budget 10s'
BASE   ?= HEAD^
SLOWER ?= 5%
COMPARE_ARGS ?=
# Repeats a shuffled run: make test-shuffled SEED=1234
SEED ?= $(shell echo $$RANDOM)

# One program is one stem: its benchmark is benchmarks/bench_<stem>.py. The others measure the lab itself.
STEMS              := $(sort $(patsubst bpf/%.bpf.c,%,$(wildcard bpf/*.bpf.c)) $(patsubst bpf/%.bcc.c,%,$(wildcard bpf/*.bcc.c)))
PROGRAM_BENCHMARKS := $(wildcard $(STEMS:%=benchmarks/bench_%.py))
LAB_BENCHMARKS     := $(filter-out $(PROGRAM_BENCHMARKS),$(wildcard benchmarks/bench_*.py))

.PHONY: help setup packages need-root test test-shuffled test-parallel scenarios examples kernels matrix bench \
	bench-lab compare blind chaos soak calibrate report doctor lint lint-python lint-c format lock wheel clean distclean

help: ## this list
	@echo 'bpflab tests and measures eBPF network programs. Run as root:'
	echo
	sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

setup: $(READY) ## install what is missing: Debian packages, the virtual environment

test: need-root $(READY) ## the harness's own tests, all scenarios and the examples
	@$(PYTEST) -p no:randomly tests scenarios examples $(PYTEST_ARGS)

test-shuffled: need-root $(READY) ## the same in random order; SEED=1234 repeats one
	@$(PYTEST) --randomly-seed=$(SEED) tests scenarios examples $(PYTEST_ARGS)

test-parallel: need-root $(READY) ## the same by two workers
	@$(PYTEST) -p no:randomly -n 2 tests scenarios examples $(PYTEST_ARGS)

scenarios: need-root $(READY) ## what each program promises
	@$(PYTEST) -p no:randomly scenarios $(PYTEST_ARGS)

examples: need-root $(READY) ## the ladder of small programs, each with what proves it
	@$(PYTEST) -p no:randomly examples $(PYTEST_ARGS)

kernels: need-root $(READY) ## what the matrix needs: QEMU, and Debian's newest of each of KERNELS='6.1 6.12'
	@scripts/install-packages debian-packages-matrix.txt
	$(BIN)/lab matrix $(patsubst %,--fetch %,$(or $(KERNELS),6.1 6.12))

matrix: need-root $(READY) ## all scenarios on this kernel and on others, in machines; KERNELS='6.1 6.12' chooses
	@$(BIN)/lab matrix $(KERNELS:%=--kernel %) -- scenarios $(PYTEST_ARGS)

bench: need-root $(READY) ## scenarios and benchmarks of the programs, and reports/index.html
	@status=0
	$(PYTEST) -p no:randomly scenarios $(PROGRAM_BENCHMARKS) $(PYTEST_ARGS) || status=$$?
	$(BIN)/lab report
	exit $$status

bench-lab: need-root $(READY) ## what the harness itself costs
	@$(PYTEST) -p no:randomly $(LAB_BENCHMARKS) $(PYTEST_ARGS)

chaos: need-root $(READY) ## the lab killed, starved and interrupted 500 times (COUNT=): nothing may stay
	@$(BIN)/python -m tests.chaos $(COUNT)

soak: need-root $(READY) ## 10,000 networks up and down (COUNT=), in 10 minutes at most: nothing may grow
	@$(BIN)/python -m tests.soak $(COUNT)

compare: need-root $(READY) ## programs that differ from BASE=HEAD^ against it: none may be slower by SLOWER=5%; ALL=1: every one
	@$(BIN)/lab compare '@$(BASE)' --fail-if-slower '$(SLOWER)' $(if $(ALL),--all) $(COMPARE_ARGS)

blind: need-root $(READY) ## scenarios that would not notice if their program did nothing
	@$(BIN)/lab blind

calibrate: need-root $(READY) ## known causes put in: what the lab sees of them on this machine
	@$(BIN)/lab calibrate

report: $(READY) ## write reports/index.html from the stored runs
	@$(BIN)/lab report

doctor: $(READY) ## what this kernel and machine can do, and what is missing
	@$(BIN)/lab doctor

lint: lint-python lint-c ## ruff, mypy, clang-format, clang with all warnings as errors

lint-python: $(READY)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-c: $(READY)
	@$(BIN)/python scripts/lint-c

format: $(READY) ## put Python and C into the project's shape
	@$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .
	$(BIN)/python scripts/lint-c --fix

wheel: $(READY) ## dist/bpflab-*.whl and the source archive
	@$(BIN)/python -m build --no-isolation

clean: ## remove what was built; keeps the virtual environment and the reports
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## the same, and the virtual environment
	@rm -rf $(VENV)

lock: $(READY) ## write requirements.lock anew, from pyproject.toml
	@test -x $(VENV)/uv/bin/uv || { $(PYTHON) -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install -q uv; }
	$(VENV)/uv/bin/uv pip compile --quiet --no-config --default-index https://pypi.org/simple --upgrade --universal \
	  --python-version 3.11 --extra dev --generate-hashes --custom-compile-command 'make lock' \
	  --output-file requirements.lock pyproject.toml

# --- Set-up, step by step: each stamp is newer than what it was made from. ---

packages:
	@scripts/install-packages

$(VENV)/stamps/python: requirements.lock | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'setup: bpflab needs Python 3.11 or newer: run make with PYTHON=python3.11' >&2; exit 2; }
	if [ -d $(VENV) ] && ! [ -w $(VENV) ]; then \
	  echo 'setup: $(VENV) belongs to another user: run sudo make setup' >&2; exit 2; fi
	echo 'setup: Python packages into $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	mkdir -p $(@D)
	touch $@

# The lab uses Debian's "bcc" package (it has no wheel) and nothing else of the system's Python.
$(VENV)/stamps/bcc: $(VENV)/stamps/python
	@ln -sfn /usr/lib/python3/dist-packages/bcc "$$(echo $(VENV)/lib/python3.*/site-packages)/bcc"
	touch $@

$(READY): pyproject.toml $(VENV)/stamps/python $(VENV)/stamps/bcc
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

need-root:
	@[ "$$(id -u)" = 0 ] || { echo 'make: namespaces and BPF need root: run it with sudo' >&2; exit 2; }
