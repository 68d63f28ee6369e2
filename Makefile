# Everything from nothing: `make demo` and `make test` create .venv themselves.
# Variables: PYTHON, TORCH_INDEX (an index with CPU builds of torch), WAV, OUT, PYTEST_ARGS.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
CORE  := spectral_edge/_native/_core.so

# The pins of constraints.txt are for CPython 3.11; other versions get what pyproject.toml allows.
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c "import venv, ensurepip" >/dev/null 2>&1 && { echo $$p; break; }; done)
CONSTRAINTS := $(if $(PYTHON),$(shell $(PYTHON) -c "import sys; sys.version_info[:2] == (3, 11) and print('-c constraints.txt')"))

TORCH       := torch==2.13.0
TORCH_INDEX ?=
EXTRAS      := train,onnx,litert,tflite,audio,live,demo,dev
METRICS     := 'pesq>=0.0.4' 'pystoi>=0.4'  # the extra `metrics`

WAV  ?=
OUT  ?= demo-out
PIP  := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(CONSTRAINTS)
# Small tensors: one thread per process is faster than two, and leaves the other core to the next test.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help venv core demo test test-fast lint format bench package-test clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

venv: $(STAMP)  ## create .venv with everything that development needs

$(STAMP): pyproject.toml constraints.txt setup.py
	@test -n "$(PYTHON)" || { echo "no python3 with venv found: install python3 (3.10 or newer) and python3-venv, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python %d.%d is too old: set PYTHON= to 3.10 or newer' % sys.version_info[:2])"
	@echo "== setting up $(VENV); the first time takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) -e '.[$(EXTRAS)]'
	@# pesq compiles on installation; without a compiler the rest works and PESQ is not reported
	$(PIP) $(METRICS) || echo "PESQ and STOI are left out: pesq needs a C compiler"
	touch $@

core: $(CORE)  ## build the C core in place

$(CORE): $(STAMP) $(wildcard runtimes/c/src/* runtimes/c/include/*)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@test ! -e $@ || touch $@

demo: $(CORE)  ## the whole way once: model to bundle, parity, enhanced audio, latency, report
	$(ONE_THREAD) $(BIN)/spectral-edge demo --out $(OUT) $(if $(WAV),--wav "$(WAV)")

test: $(CORE)  ## every test, two at a time
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-fast: $(CORE)  ## the tests that take seconds
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(PYTEST_ARGS)

lint: $(STAMP)  ## format, lint and type check (changes nothing)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	scripts/typecheck

format: $(STAMP)  ## put the sources in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(CORE)  ## print the tables of benchmarks/
	@for script in benchmarks/*.py; do echo "== $$script"; $(ONE_THREAD) $(BIN)/python $$script || exit 1; done

clean:  ## remove what was built (and .venv)
	rm -rf $(VENV) build dist *.egg-info demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f spectral_edge/_native/_core.so spectral_edge/_native/_core.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
