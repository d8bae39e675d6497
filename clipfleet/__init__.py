"""clipfleet turns large corpora of images and texts into CLIP vectors.

The names below are the public interface; everything else may change without notice.

    import clipfleet

    summary = clipfleet.embed("photos", "vectors/photos", model="models/vit-b-16.img.fp32.onnx")
    vectors = clipfleet.Dataset("vectors/photos").vectors()  # float16 (n, D), L2 norms of 1

A name is imported when it is first used: `import clipfleet` loads neither Celery, pyarrow nor an
engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clipfleet.api import embed as embed
    from clipfleet.api import resume as resume
    from clipfleet.api import retry as retry
    from clipfleet.api import status as status
    from clipfleet.api import submit as submit
    from clipfleet.api import verify as verify
    from clipfleet.errors import ClipfleetError as ClipfleetError
    from clipfleet.model import Model as Model
    from clipfleet.model import load_model as load_model
    from clipfleet.reader import Dataset as Dataset
    from clipfleet.reader import ErrorRow as ErrorRow
    from clipfleet.settings import Settings as Settings
    from clipfleet.settings import load_settings as load_settings
    from clipfleet.storage.verify.verify import Verification as Verification
    from clipfleet.tasks.items.queue import ItemQueue as ItemQueue
    from clipfleet.tasks.local.run import Summary as Summary
    from clipfleet.tasks.status import Progress as Progress
    from clipfleet.tasks.submit.resume import Resumption as Resumption
    from clipfleet.tasks.submit.retry_failed import Retry as Retry
    from clipfleet.tasks.submit.submit import Submission as Submission
    from clipfleet.workers.engines.tensorrt.model import TensorRTModel as TensorRTModel

_MODULES = {
    "ClipfleetError": "clipfleet.errors",
    "Dataset": "clipfleet.reader",
    "ErrorRow": "clipfleet.reader",
    "ItemQueue": "clipfleet.tasks.items.queue",
    "Model": "clipfleet.model",
    "Progress": "clipfleet.tasks.status",
    "Verification": "clipfleet.storage.verify.verify",
    "Resumption": "clipfleet.tasks.submit.resume",
    "Retry": "clipfleet.tasks.submit.retry_failed",
    "Settings": "clipfleet.settings",
    "Submission": "clipfleet.tasks.submit.submit",
    "Summary": "clipfleet.tasks.local.run",
    "TensorRTModel": "clipfleet.workers.engines.tensorrt.model",
    "embed": "clipfleet.api",
    "load_model": "clipfleet.model",
    "load_settings": "clipfleet.settings",
    "resume": "clipfleet.api",
    "retry": "clipfleet.api",
    "status": "clipfleet.api",
    "submit": "clipfleet.api",
    "verify": "clipfleet.api",
}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'clipfleet' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
