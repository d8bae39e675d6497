# make install   everything a contributor needs, into the active (or a new) virtual environment
# make lint      ruff, mypy --strict
# make test      lint and the whole test suite; what CI runs
# make demo      2,000 pictures (COUNT=…) and their captions through Redis and workers into Parquet

# An environment that is named or active is used as it is; otherwise one is made here.
VENV ?= $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
PYTHON ?= python3
COUNT ?= 2000

.PHONY: install lint test demo clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

install: $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,convert,server,dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps cn_clip

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A file's tests stay together and in order; files run beside each other.
test: $(BIN)/ruff lint
	$(BIN)/pytest -n auto --dist loadfile

$(BIN)/ruff:
	$(MAKE) install

demo: $(BIN)/python
	$(BIN)/python -c 'import onnxruntime, clipfleet' 2>/dev/null || \
		$(BIN)/pip install -q -c constraints.txt -e '.[cpu,server]'
	PATH=$(BIN):$$PATH examples/demo/run demo-output $(COUNT)

clean:
	rm -rf build dist *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
