"""clipfleet turns large corpora of images and texts into CLIP vectors.

The names below are the public interface; everything else may change without notice.

    import clipfleet

    summary = clipfleet.embed("photos", "vectors/photos", model="models/vit-b-16.img.fp32.onnx")
    vectors = clipfleet.Dataset("vectors/photos").vectors()  # float16 (n, D), L2 norms of 1

A name is imported when it is first used: `import clipfleet` loads neither Celery, pyarrow nor an
engine.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as in `typing`, which takes longer to load than all of this module
if TYPE_CHECKING:
    from clipfleet.api.both_towers import BothTowers, both_towers
    from clipfleet.api.datasets import compact, remove, repair, status, verify
    from clipfleet.api.embedding import embed, resume, retry, submit
    from clipfleet.api.recall import compare, evaluate
    from clipfleet.api.reports import fleet, write_report
    from clipfleet.errors import (
        BrokerError,
        CardError,
        ClipfleetError,
        DatasetError,
        DependencyError,
        EngineError,
        ItemError,
        QueueFullError,
        RecallError,
        SettingsError,
        StorageError,
        UsageError,
    )
    from clipfleet.model import Model, load_model
    from clipfleet.model_card import ModelCard
    from clipfleet.reader import Dataset, ErrorRow
    from clipfleet.retrieval.build_index import build_index
    from clipfleet.retrieval.dedupe.deduplicate import Deduplication, dedupe
    from clipfleet.retrieval.evaluation.comparison import Comparison
    from clipfleet.retrieval.evaluation.evaluate import Evaluation
    from clipfleet.retrieval.export.export import Export, export
    from clipfleet.retrieval.index.card import IndexCard
    from clipfleet.retrieval.index.index import Index
    from clipfleet.retrieval.index.parameters import SearchParameters
    from clipfleet.retrieval.neighbours import Neighbours
    from clipfleet.retrieval.verify_index import IndexVerification, verify_index
    from clipfleet.settings import Settings, load_settings
    from clipfleet.storage.commit.remove import Removal
    from clipfleet.storage.compact.compact import Compaction
    from clipfleet.storage.sources.options import SourceOptions
    from clipfleet.storage.verify.verification import Verification
    from clipfleet.tasks.items.queue import ItemQueue
    from clipfleet.tasks.local.run import Summary
    from clipfleet.tasks.snapshot import Snapshot
    from clipfleet.tasks.status.fleet import Fleet
    from clipfleet.tasks.status.progress import Progress
    from clipfleet.tasks.submit.index_shards import FleetBuild
    from clipfleet.tasks.submit.repair import Repair
    from clipfleet.tasks.submit.resume import Resumption
    from clipfleet.tasks.submit.retry_failed import Retry
    from clipfleet.tasks.submit.submit import Submission
    from clipfleet.workers.engines.tensorrt.model import TensorRTModel

__all__ = [
    "BothTowers",
    "BrokerError",
    "CardError",
    "ClipfleetError",
    "Compaction",
    "Comparison",
    "Dataset",
    "DatasetError",
    "Deduplication",
    "DependencyError",
    "EngineError",
    "ErrorRow",
    "Evaluation",
    "Export",
    "Fleet",
    "FleetBuild",
    "Index",
    "IndexCard",
    "IndexVerification",
    "ItemError",
    "ItemQueue",
    "Model",
    "ModelCard",
    "Neighbours",
    "Progress",
    "QueueFullError",
    "RecallError",
    "Removal",
    "Repair",
    "Resumption",
    "Retry",
    "SearchParameters",
    "Settings",
    "SettingsError",
    "Snapshot",
    "SourceOptions",
    "StorageError",
    "Submission",
    "Summary",
    "TensorRTModel",
    "UsageError",
    "Verification",
    "__version__",
    "both_towers",
    "build_index",
    "compact",
    "compare",
    "dedupe",
    "embed",
    "evaluate",
    "export",
    "fleet",
    "load_model",
    "load_settings",
    "remove",
    "repair",
    "resume",
    "retry",
    "status",
    "submit",
    "verify",
    "verify_index",
    "write_report",
]

_ERRORS = {name: "clipfleet.errors" for name in __all__ if name.endswith("Error")}
_MODULES = {  # of the names above
    **_ERRORS,
    "BothTowers": "clipfleet.api.both_towers",
    "Compaction": "clipfleet.storage.compact.compact",
    "Comparison": "clipfleet.retrieval.evaluation.comparison",
    "Dataset": "clipfleet.reader",
    "Deduplication": "clipfleet.retrieval.dedupe.deduplicate",
    "ErrorRow": "clipfleet.reader",
    "Export": "clipfleet.retrieval.export.export",
    "Fleet": "clipfleet.tasks.status.fleet",
    "FleetBuild": "clipfleet.tasks.submit.index_shards",
    "Index": "clipfleet.retrieval.index.index",
    "IndexCard": "clipfleet.retrieval.index.card",
    "Evaluation": "clipfleet.retrieval.evaluation.evaluate",
    "IndexVerification": "clipfleet.retrieval.verify_index",
    "ItemQueue": "clipfleet.tasks.items.queue",
    "Model": "clipfleet.model",
    "ModelCard": "clipfleet.model_card",
    "Neighbours": "clipfleet.retrieval.neighbours",
    "Progress": "clipfleet.tasks.status.progress",
    "SourceOptions": "clipfleet.storage.sources.options",
    "Verification": "clipfleet.storage.verify.verification",
    "Removal": "clipfleet.storage.commit.remove",
    "Repair": "clipfleet.tasks.submit.repair",
    "Resumption": "clipfleet.tasks.submit.resume",
    "Retry": "clipfleet.tasks.submit.retry_failed",
    "SearchParameters": "clipfleet.retrieval.index.parameters",
    "Settings": "clipfleet.settings",
    "Snapshot": "clipfleet.tasks.snapshot",
    "Submission": "clipfleet.tasks.submit.submit",
    "Summary": "clipfleet.tasks.local.run",
    "TensorRTModel": "clipfleet.workers.engines.tensorrt.model",
    "dedupe": "clipfleet.retrieval.dedupe.deduplicate",
    "compare": "clipfleet.api.recall",
    "both_towers": "clipfleet.api.both_towers",
    "build_index": "clipfleet.retrieval.build_index",
    "compact": "clipfleet.api.datasets",
    "embed": "clipfleet.api.embedding",
    "export": "clipfleet.retrieval.export.export",
    "evaluate": "clipfleet.api.recall",
    "fleet": "clipfleet.api.reports",
    "load_model": "clipfleet.model",
    "load_settings": "clipfleet.settings",
    "remove": "clipfleet.api.datasets",
    "repair": "clipfleet.api.datasets",
    "resume": "clipfleet.api.embedding",
    "retry": "clipfleet.api.embedding",
    "status": "clipfleet.api.datasets",
    "submit": "clipfleet.api.embedding",
    "verify": "clipfleet.api.datasets",
    "verify_index": "clipfleet.retrieval.verify_index",
    "write_report": "clipfleet.api.reports",
}


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # type checkers know the names above, and no others

    def __getattr__(name: str) -> object:
        """Return a public name, imported when it is first used.

        Raises:
            AttributeError: There is no such name.
        """
        from importlib import import_module

        if name not in _MODULES:
            raise AttributeError(f"module 'clipfleet' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value
