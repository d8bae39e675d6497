# docker build --target cpu .      workers on ONNX Runtime's CPU provider
# docker build --target convert .  conversion of checkpoints, on the CPU
# docker build --target gpu .      workers on an NVIDIA GPU (CPython 3.10, the last with wheels of TensorRT 8)
# docker build --target flower .   the dashboard of the queues
#
# CI has no Docker engine and builds no image; tests compare the names in this file with the project's. The
# target `gpu` has not run yet: its packages were installed, with these hashes, into a fresh CPython 3.10,
# which imported TensorRT.

FROM python:3.11-slim AS cpu
WORKDIR /opt/clipfleet
COPY . .
# The lock has a hash for every file that is installed; `make lock` writes it.
RUN pip install --no-cache-dir --require-hashes -r requirements.lock \
    && pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --system --uid 10001 --no-create-home clipfleet \
    && install --directory --owner clipfleet /models
USER clipfleet
WORKDIR /tmp
ENTRYPOINT ["clipfleet"]
CMD ["--help"]

FROM python:3.10-slim AS gpu
WORKDIR /opt/clipfleet
COPY . .
# For TensorRT engines, which ONNX Runtime verifies on the CPU: its CUDA provider needs another cuDNN than
# TensorRT 8. The host has the driver and the NVIDIA container toolkit.
RUN pip install --no-cache-dir --require-hashes -r requirements-gpu.lock \
    && pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --system --uid 10001 --no-create-home clipfleet \
    && install --directory --owner clipfleet /engines
# The engines built for this machine's GPU; a new volume belongs to this user.
ENV CLIPFLEET_ENGINE_CACHE=/engines
VOLUME /engines
USER clipfleet
WORKDIR /tmp
ENTRYPOINT ["clipfleet"]
CMD ["--help"]

FROM cpu AS convert
USER root
# torch is pinned by version, without a hash: the locks have the hashes of PyPI, whose torch needs CUDA.
RUN pip install --no-cache-dir --require-hashes -r /opt/clipfleet/requirements-convert.lock \
    && pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
USER clipfleet

FROM cpu AS flower
USER root
RUN pip install --no-cache-dir --require-hashes -r /opt/clipfleet/requirements-flower.lock
USER clipfleet
ENTRYPOINT ["celery", "--app", "clipfleet.tasks.app"]
CMD ["flower", "--port=5555"]
