"""A checkpoint as an engine: the PyTorch model that every conversion is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from clipfleet.architectures import load_architecture
from clipfleet.convert.checkpoints.load import build_model, load_checkpoint
from clipfleet.errors import CheckpointError
from clipfleet.model_card import ModelCard
from clipfleet.workers.engines.torch import TorchEngine


def open_torch_engine(checkpoint: str | Path, card: ModelCard, *, threads: int = 0) -> TorchEngine:
    """Return the float32 engine of a checkpoint, on the GPU if PyTorch has one.

    `card` is that of the tower's float32 ONNX engine. PyTorch has so many `threads` on the CPU in
    this process from now on; 0: its own choice.

    Raises:
        CheckpointError: The file is no checkpoint, or not the one that the engine was made of.
    """
    if threads:
        torch.set_num_threads(threads)
    architecture = load_architecture(card.architecture)
    loaded = load_checkpoint(checkpoint, architecture)
    if loaded.sha256 != card.checkpoint_sha256:
        raise CheckpointError(
            f"{checkpoint} has SHA-256 {loaded.sha256[:12]}, and {card.engine} was made of "
            f"{card.checkpoint_sha256[:12]}: name that checkpoint"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(loaded, architecture).to(device)
    own = replace(
        card,
        runtime="torch",
        engine=loaded.path.name,
        engine_sha256=loaded.sha256,
        extra_file=None,
        extra_file_sha256=None,
        runtime_version=torch.__version__,
        parity=None,
    )
    encode = model.encode_image if card.tower == "img" else model.encode_text
    return TorchEngine(encode, own, device)
