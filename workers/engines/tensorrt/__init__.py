"""TensorRT engines. `TensorRTModel` loads with its first use, for it needs TensorRT's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipfleet.workers.engines.tensorrt.model import TensorRTModel

__all__ = ["TensorRTModel"]


def __getattr__(name: str) -> Any:
    if name != "TensorRTModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clipfleet.workers.engines.tensorrt.model import TensorRTModel

    return TensorRTModel
