# Every target does its own set-up in .venv; nothing has to be installed before but Python 3.11 to 3.13.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2

.PHONY: setup train test thorough lint type smoke bench golden sample clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

train: setup  ## the main job on the built-in sample: the same as `python train.py stage=structure`
	$(BIN)/python train.py stage=structure

test: setup  ## what needs no GPU, but for `make thorough`; what is skipped is printed with its reason
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

thorough: setup  ## the tests that `make test` skips for their time, alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m thorough --thorough

lint: setup  ## style, formatting, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: setup
	$(BIN)/mypy

smoke: setup  ## two small steps through everything, in a temporary run directory
	$(BIN)/python train.py debug=fast_dev_run paths.output_root=$$(mktemp -d)

bench: setup  ## the base model's step at crop 384 on this machine's GPU
	$(BIN)/python scripts/benchmark_step.py model=base

golden: setup  ## record the golden losses anew: only for a change that is meant to alter numerics
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden --record-golden

sample: setup  ## make the built-in sample anew from the registries' packages (docs/sample.md)
	$(BIN)/python scripts/sample/fetch.py build/packages build/sample
	$(BIN)/python scripts/sample/align.py build/sample
	rm -rf build/sample/store
	$(BIN)/python scripts/prepare_data.py --structures build/sample/mmcif --msas build/sample/msa --out build/sample/store
	$(BIN)/python scripts/cluster_data.py build/sample/store
	rm -rf src/data/sample_store && cp -r build/sample/store src/data/sample_store

clean:
	rm -rf $(VENV) build dist *.egg-info runs
