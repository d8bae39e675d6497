# make install   everything a contributor needs, into the active (or a new) virtual environment
#                (TORCH_INDEX=https://download.pytorch.org/whl/cpu: PyTorch without CUDA)
# make lint      ruff, mypy --strict
# make unit      tests/unit: no process, no sleep, seconds
# make docs      the documentation's site, into site/; fails on a broken link
# make test      lint and the whole test suite; what CI runs
# make constraints  constraints.txt, from what is installed here and for CPython 3.10 (PYTHON310=…)
# make lock      requirements*.lock: what the images install, with hashes
# make check-lock  downloads every file that the locks name, and compares its hash
# make check-lock-gpu  the same for the image for GPUs: some 3 GB; needs CPython 3.10 (PYTHON310=…)
# make audit     asks PyPI's advisories about all of them; needs pypi.org's JSON interface
# make demo      2,000 pictures (COUNT=…) and their captions through Redis and workers into Parquet

# An environment that is named or active is used as it is; otherwise one is made here.
VENV ?= $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
PYTHON ?= python3
PYTHON310 ?= python3.10
COUNT ?= 2000
TORCH_INDEX ?=

LOCKS := requirements.lock requirements-convert.lock requirements-flower.lock

.PHONY: install lint docs unit test constraints lock check-lock check-lock-gpu audit demo clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

install: $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt $(TORCH_INDEX:%=--extra-index-url %) torch
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,convert,server,docs,dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps cn_clip

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(BIN)/mkdocs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# tests/unit/conftest.py refuses whatever starts a process or sleeps.
unit: $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --hypothesis-profile=quick tests/unit

# A file's tests stay together and in order; files run beside each other, twice as many as there are
# cores: much of what they do is wait for processes. What computes takes one thread, not one for each
# core in each of them. Files start in the order of tests/conftest.py, the slow ones first. The
# supervisor leaves no process behind, however the run ends.
test: $(BIN)/ruff lint
	exec env OMP_NUM_THREADS=1 $(BIN)/python -m tests.supervisor $(BIN)/pytest \
		-n $$(( 2 * $$(nproc) )) --dist loadfile --no-loadscope-reorder \
		--durations=15

$(BIN)/ruff $(BIN)/mkdocs:
	$(MAKE) install

# Raise a version by installing it here; where CPython 3.10 has no wheel of it, first mark its line in
# constraints.txt with `; python_version >= "3.11"`. The last two are not of the test of the wheel: the GPU
# image has CPython 3.10, and whoever converts with it needs the other.
constraints: $(BIN)/python
	older=$$(mktemp -d) && trap 'rm -rf "$$older"' EXIT && $(PYTHON310) -m venv "$$older" && \
		"$$older/bin/pip" install -q -c constraints.txt '.[cpu,s3]' 'cuda-bindings>=12.9' 'huggingface-hub>=2.4' && \
		"$$older/bin/pip" uninstall -q -y clipfleet && \
		$(BIN)/python .ci/constraints.py $(BIN)/python "$$older/bin/python"

# Versions are those of constraints.txt: raise them there, then run this. setuptools builds clipfleet
# itself. torch is no worker's, and comes from the place that fits one's machine: it has no line here,
# and the Dockerfile names its version.
# TensorRT 8.6.0 is the version that engines were proved with; its plugins are linked to cuDNN 8, while
# ONNX Runtime's CUDA provider wants cuDNN 9: there is one of them in an environment.
LOCK = $(BIN)/uv pip compile -q -c constraints.txt --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' --extra s3 pyproject.toml -
TORCH ?= --torch-backend cpu
lock: $(BIN)/python
	$(BIN)/pip install -q uv
	echo 'setuptools>=77' | $(LOCK) --extra cpu --python-version 3.10 --universal -o requirements.lock
	printf 'setuptools>=77\nflower==2.2.0\n' | $(LOCK) --extra cpu --python-version 3.10 --universal \
		-o requirements-flower.lock
	printf 'setuptools>=77\ntensorrt==8.6.0\nnvidia-cudnn-cu12<9\n' | $(LOCK) --extra gpu \
		--python-version 3.10 --python-platform x86_64-manylinux_2_28 -o requirements-gpu.lock
	echo 'setuptools>=77' | $(LOCK) --extra cpu --extra convert $(TORCH) --no-emit-package torch \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 -o requirements-convert.lock

check-lock: $(BIN)/python
	files=$$(mktemp -d) && trap 'rm -rf "$$files"' EXIT && for lock in $(LOCKS); do \
		$(BIN)/pip download -q --no-deps --require-hashes -r $$lock -d "$$files/$$lock" && \
		echo "$$lock: $$(ls "$$files/$$lock" | wc -l) files have the hashes that it names" || exit 1; \
	done

check-lock-gpu:
	older=$$(mktemp -d) && trap 'rm -rf "$$older"' EXIT && $(PYTHON310) -m venv "$$older" && \
		$(MAKE) check-lock VENV="$$older" LOCKS=requirements-gpu.lock

audit: $(BIN)/python
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --strict --require-hashes --disable-pip $(LOCKS:%=-r %) -r requirements-gpu.lock

# An environment without ONNX Runtime, or without the command, gets what the demo needs.
demo: $(BIN)/python
	$(BIN)/python -c 'import onnxruntime' 2>/dev/null && test -x $(BIN)/clipfleet || \
		$(BIN)/pip install -q -c constraints.txt -e '.[cpu,server]'
	PATH=$(BIN):$$PATH examples/demo/run demo-output $(COUNT)

clean:
	rm -rf build dist site *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
