# docker build --target cpu .    workers on ONNX Runtime's CPU provider
# docker build --target convert . what converts checkpoints, on the CPU
# docker build --target gpu .    workers on an NVIDIA GPU (CPython 3.10: TensorRT 8 has no wheels above)
# docker build --target flower . the queues' dashboard
#
# Not built in CI, which has no Docker engine: tests hold the names in it. The target `gpu` has not run yet;
# what it installs was installed, with these hashes, into a fresh CPython 3.10, and TensorRT imported there.

FROM python:3.11-slim AS cpu
WORKDIR /opt/clipfleet
COPY . .
# Every file is one that a lock names by its hash; `make lock` makes them anew.
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
# For TensorRT engines. ONNX Runtime proves them on the CPU: its CUDA provider needs another cuDNN than TensorRT 8.
# The host brings the driver and the NVIDIA container toolkit.
RUN pip install --no-cache-dir --require-hashes -r requirements-gpu.lock \
    && pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --system --uid 10001 --no-create-home clipfleet \
    && install --directory --owner clipfleet /engines
# Engines that were built for this machine's GPU; a new volume here is this user's.
ENV CLIPFLEET_ENGINE_CACHE=/engines
VOLUME /engines
USER clipfleet
WORKDIR /tmp
ENTRYPOINT ["clipfleet"]
CMD ["--help"]

FROM cpu AS convert
USER root
# torch is pinned by its version only: PyPI, of which the locks have the hashes, has it with CUDA alone.
RUN pip install --no-cache-dir --require-hashes -r /opt/clipfleet/requirements-convert.lock \
    && pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
USER clipfleet

FROM cpu AS flower
USER root
RUN pip install --no-cache-dir --require-hashes -r /opt/clipfleet/requirements-flower.lock
USER clipfleet
ENTRYPOINT ["celery", "--app", "clipfleet.tasks.app"]
CMD ["flower", "--port=5555"]
