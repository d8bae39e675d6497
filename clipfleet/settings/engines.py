"""The settings of engines, and of the processes around them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt
from pydantic_settings import NoDecode

Decode = Literal["exact", "gpu"]


class EngineSettings(BaseModel):
    """Engines."""

    engine_processes: int = Field(default=0, ge=0, le=16)
    """Processes of a worker that each hold its engine, and share its decoders and cores; 0: two for
    a TensorRT engine that finds room twice in the GPU's free memory, otherwise one. One process
    embeds while the other writes, so the GPU has no pause between two shards. More processes take
    more GPU memory."""

    decoders: int = Field(default=0, ge=0)
    """Processes of a worker that read and decode images; 0: one for each core of this process.
    Workers that `embed` or `--gpus` starts on one machine share its cores. More processes hide slow
    disks; they take cores from an engine on the CPU, and some 50 MB each."""

    decode_memory_mib: PositiveInt = 2048
    """Memory of a worker with a TensorRT engine for images that are decoded and not resized yet, in
    MiB; its decoders share it. An image that finds no room is resized by its decoder, which is
    slower. Larger values hold more large images; the memory is locked."""

    decode: Decode = "exact"
    """Decoder of JPEG files. `exact`: the pixels are Pillow's. `gpu`: the GPU of a TensorRT engine
    decodes them, which is faster for large images; the vectors differ a little. A dataset has
    vectors of one kind only. `gpu` needs the extra `gpu-decode`."""

    reuse: str | None = None
    """Dataset of the same model whose vectors a worker copies, instead of embedding equal bytes
    again. Both datasets need content hashes (`--content-hash`). Set by `--reuse`."""

    engine_threads: int = Field(default=0, ge=0)
    """Threads of an engine on the CPU, and of a search, an evaluation or the building of an index;
    0: one for each core of this process. More threads speed up an engine and take cores from
    decoding."""

    max_batch: PositiveInt = 32
    """Items in a call of an engine that accepts any batch size. Larger batches are faster on a GPU
    and take more memory."""

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Execution provider of ONNX Runtime. `auto` uses the GPU if there is one."""

    engine_contexts: int = Field(default=0, ge=0, le=64)
    """Batches of a TensorRT engine in flight at once, each with a context, a stream and buffers on
    the GPU; 0: measured when the engine is loaded. More contexts hide latency and take more GPU
    memory."""

    cuda_graphs: bool = True
    """Launch the kernels of a TensorRT engine as one CUDA graph. False launches them one by one,
    which is slower and helps diagnosis."""

    allow_unverified: bool = False
    """Also serve TensorRT engines that were not verified on this GPU model with this version of
    TensorRT. The vectors may then be wrong."""

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("models", "~/.cache/clipfleet/models"), min_length=1
    )
    """Folders of model folders, separated by `:` in the environment: `--model ViT-B-16` is the
    folder `vit-b-16` in the first of them that has it. `clipfleet prepare ViT-B-16` fills it."""

    engine_cache: str | None = None
    """Folder of the engines that `clipfleet worker --build-if-missing` builds; unset:
    `~/.cache/clipfleet/engines`."""
