# make install   everything a contributor needs, into the active (or a new) virtual environment
# make lint      ruff, mypy --strict
# make test      lint and the whole test suite; what CI runs
# make constraints  constraints.txt, from what is installed here and for CPython 3.10 (PYTHON310=…)
# make lock      requirements.lock: what the worker's image installs, with hashes
# make check-lock  downloads every file that the lock names, and compares its hash
# make audit     asks PyPI's advisories about them; needs pypi.org's JSON interface
# make demo      2,000 pictures (COUNT=…) and their captions through Redis and workers into Parquet

# An environment that is named or active is used as it is; otherwise one is made here.
VENV ?= $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
PYTHON ?= python3
PYTHON310 ?= python3.10
COUNT ?= 2000

.PHONY: install lint test constraints lock check-lock audit demo clean

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

# A file's tests stay together and in order; files run beside each other, twice as many as there are
# cores: much of what they do is wait for processes. What computes takes one thread, not one for each
# core in each of them. Files start in the order of tests/conftest.py, the slow ones first.
test: $(BIN)/ruff lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $$(( 2 * $$(nproc) )) --dist loadfile --no-loadscope-reorder \
		--durations=15

$(BIN)/ruff:
	$(MAKE) install

# Raise a version by installing it here; where CPython 3.10 has no wheel of it, first mark its line in
# constraints.txt with `; python_version >= "3.11"`. The last two are not of the import check: the GPU
# image has CPython 3.10, and whoever converts with it needs the other.
constraints: $(BIN)/python
	older=$$(mktemp -d) && trap 'rm -rf "$$older"' EXIT && $(PYTHON310) -m venv "$$older" && \
		"$$older/bin/pip" install -q -c constraints.txt '.[cpu,s3]' 'cuda-bindings>=12.9' 'huggingface-hub>=2.4' && \
		"$$older/bin/pip" uninstall -q -y clipfleet && \
		$(BIN)/python .ci/constraints.py $(BIN)/python "$$older/bin/python"

# Versions are those of constraints.txt: raise them there, then run this. setuptools builds clipfleet
# itself. torch is no worker's, and comes from the place that fits one's machine: it has no line here.
lock: $(BIN)/python
	$(BIN)/pip install -q uv
	echo 'setuptools>=77' | $(BIN)/uv pip compile -q pyproject.toml - --extra cpu --extra s3 \
		-c constraints.txt --universal --python-version 3.10 --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' -o requirements.lock

check-lock: $(BIN)/python
	files=$$(mktemp -d) && trap 'rm -rf "$$files"' EXIT && \
		$(BIN)/pip download -q --no-deps --require-hashes -r requirements.lock -d "$$files" && \
		echo "requirements.lock: $$(ls "$$files" | wc -l) files have the hashes that it names"

audit: $(BIN)/python
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.lock

demo: $(BIN)/python
	$(BIN)/python -c 'import onnxruntime, clipfleet' 2>/dev/null || \
		$(BIN)/pip install -q -c constraints.txt -e '.[cpu,server]'
	PATH=$(BIN):$$PATH examples/demo/run demo-output $(COUNT)

clean:
	rm -rf build dist *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
