"""The card of a TensorRT engine file, made from the file and from the ONNX file's card."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path

from clipfleet.convert.tensorrt.parity_gate import check_tensors
from clipfleet.engine_files import read_engine
from clipfleet.model_card import BatchProfile, ModelCard, Precision
from clipfleet.workers.engines.tensorrt import compat as versions


def engine_card(source: ModelCard, engine: Path, *, precision: Precision) -> ModelCard:
    """Return the card of an engine file of `source`'s model, on this machine's GPU.

    Raises:
        EngineError: TensorRT cannot load the file, or its tensors are not the model's.
    """
    from clipfleet.workers.engines.cuda import runtime as cuda
    from clipfleet.workers.engines.tensorrt.engine_file import EngineFile

    gpu = cuda.device_name()  # first: without a GPU TensorRT ends the process
    trt = versions.load_tensorrt()
    data = read_engine(engine, None)
    with EngineFile(trt, engine, data) as file:
        check_tensors(engine, file.input, file.output, source)
        return ModelCard(
            architecture=source.architecture,
            tower=source.tower,
            runtime="tensorrt",
            precision=precision,
            engine=engine.name,
            engine_sha256=hashlib.sha256(data).hexdigest(),
            input=file.input,
            output=file.output,
            logit_scale=source.logit_scale,
            checkpoint_sha256=source.checkpoint_sha256,
            runtime_version=str(trt.__version__),
            gpu=gpu,
            compute_capability=cuda.compute_capability(),
            profile=BatchProfile(
                smallest=file.sizes.smallest,
                optimum=file.sizes.optimum,
                largest=file.sizes.largest,
            ),
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
