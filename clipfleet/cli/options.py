"""The options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipfleet.errors import UsageError
from clipfleet.settings import Settings, load_settings

if TYPE_CHECKING:
    from clipfleet.architectures import Tower
    from clipfleet.convert.gate import Gate
    from clipfleet.items import Item

MIN_OVERLAP = 0.95


class TowerName(str, Enum):
    """The values of `--tower`."""

    img = "img"
    txt = "txt"


class TowersName(str, Enum):
    """The values of `--tower` where a source may hold both."""

    img = "img"
    txt = "txt"
    both = "both"


class PrecisionName(str, Enum):
    """The values of `--precision`."""

    fp32 = "fp32"
    fp16 = "fp16"


class ProviderName(str, Enum):
    """The values of `--provider`: ONNX Runtime's execution provider."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DecodeName(str, Enum):
    """The values of `--decode`: what decodes JPEG files."""

    exact = "exact"
    gpu = "gpu"


class OnConflictName(str, Enum):
    """The values of `--on-conflict`."""

    KEEP = "keep"
    REPLACE = "replace"  # in capitals: strings have a method `replace`
    ERROR = "error"


class DtypeName(str, Enum):
    """The values of `--dtype`: the type of the stored vectors."""

    float16 = "float16"
    float32 = "float32"


OwnRedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="Use this Redis; do not start one.", metavar="URL"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Model = Annotated[
    Path,
    typer.Option(
        "--model",
        help="Model of `clipfleet prepare`: its name (ViT-B-16) or folder; or an engine, or its "
        "card.",
        show_default=False,
    ),
]
FolderTower = Annotated[
    TowerName | None,
    typer.Option(
        "--tower", help="With a model folder: this tower [default: what the source holds]."
    ),
]
SourceTowers = Annotated[
    TowersName | None,
    typer.Option(
        "--tower",
        help="With a model folder: this tower, or both, into OUT/img and OUT/txt [default: what "
        "the source holds].",
        show_default=False,
    ),
]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="Redis to use [default: CLIPFLEET_REDIS_URL].", metavar="URL"),
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size", min=1, help="Items in a shard [default: 1024; for TensorRT 4096]."
    ),
]
MaxFailed = Annotated[
    str | None,
    typer.Option(
        "--max-failed",
        metavar="N|N%",
        help="Stop a job when more of its items fail; 100% is no limit [default: the dataset's "
        "last one].",
        show_default=False,
    ),
]
Dtype = Annotated[DtypeName | None, typer.Option("--dtype", help="Type of the stored vectors.")]
Refresh = Annotated[
    bool,
    typer.Option(
        "--refresh",
        help="Also embed ids whose paths or texts changed, by --on-conflict, and files that were "
        "overwritten.",
    ),
]
ContentHash = Annotated[
    bool,
    typer.Option(
        "--content-hash",
        help="Store the SHA-256 of the bytes, and embed equal bytes once; with --refresh, compare "
        "files by it.",
    ),
]
Reuse = Annotated[
    str | None,
    typer.Option(
        "--reuse",
        metavar="DATASET",
        help="Copy the vectors of equal bytes from this dataset of the same model.",
    ),
]
OnConflictOption = Annotated[
    OnConflictName | None,
    typer.Option(
        "--on-conflict",
        help="With --refresh: what to do with ids that have vectors of other content "
        "[default: CLIPFLEET_ON_CONFLICT, or keep].",
        show_default=False,
    ),
]
MovedFrom = Annotated[
    str | None,
    typer.Option("--moved-from", metavar="FOLDER", help="The source's folder before it was moved."),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A folder of images, archives or Parquet files, or a JSONL, JSON, CSV, TSV, Parquet, "
        "TXT, TAR or ZIP file; a path, or an s3://, gs://, hf:// or https:// URL."
    ),
]
OutArgument = Annotated[
    str, typer.Argument(help="The dataset, new or begun: a folder or s3://bucket/prefix.")
]
DatasetArgument = Annotated[
    str, typer.Argument(help="The dataset: its folder, or s3://bucket/prefix.")
]
UrlHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--url-host",
        metavar="HOST",
        help="Fetch images from this host (*.example.com: all names below it); repeatable.",
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option("--gpus", metavar="all|0,2", help="One worker for each of these GPUs."),
]
Contexts = Annotated[
    int | None,
    typer.Option(
        "--contexts", min=0, max=64, help="TensorRT: batches in flight at once; 0: measure."
    ),
]
DecodeOption = Annotated[
    DecodeName | None,
    typer.Option(
        "--decode",
        help="JPEG files: exact, or on the GPU of a TensorRT engine [default: exact].",
        show_default=False,
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Serve metrics for Prometheus at this port; of several workers, each has the next "
        "one [default: none].",
        show_default=False,
    ),
]
AllowUnverified = Annotated[
    bool,
    typer.Option(
        "--allow-unverified", help="TensorRT: also serve engines not verified on this GPU."
    ),
]
GateSample = Annotated[
    list[str] | None,
    typer.Option(
        "--gate-sample",
        metavar="FOLDER|TABLE",
        help="Your own images or texts, 100 or more (the first 1,000 count): their nearest "
        "neighbours must stay. Repeatable, one for each tower.",
    ),
]
MinOverlap = Annotated[
    float | None,
    typer.Option(
        "--min-overlap",
        min=0,
        max=1,
        help="With --gate-sample: the share of 10 nearest neighbours that must stay "
        "[default: 0.95].",
        show_default=False,
    ),
]


def settings_from(**given: Any) -> Settings:
    """Return the settings with these options; None keeps the environment's value.

    Raises:
        SettingsError: A setting is invalid.
    """
    plain = {name: v.value if isinstance(v, Enum) else v for name, v in given.items()}
    return load_settings(**plain)


def engine_settings(
    provider: ProviderName | None, contexts: int | None, allow_unverified: bool
) -> dict[str, Any]:
    """Return the settings of these options; one that is not given leaves the environment's."""
    return {
        "provider": provider,
        "engine_contexts": contexts,
        "allow_unverified": allow_unverified or None,
    }


def gate_from(samples: list[str] | None, min_overlap: float | None) -> Gate | None:
    """Return the recall gate of these options; None without a sample.

    Raises:
        SourceError: A sample is no source.
        UsageError: A sample has too few items, or a tower has two, or there is none.
    """
    if not samples:
        if min_overlap is not None:
            raise UsageError("--min-overlap needs a sample: give --gate-sample too")
        return None
    from clipfleet.convert.gate import Gate
    from clipfleet.retrieval.evaluation.overlap import top_k_overlap
    from clipfleet.storage.sources.sample import read_sample

    found: dict[Tower, list[Item]] = {}
    for location in samples:
        tower, items = read_sample(location)
        if tower in found:
            raise UsageError(
                f"--gate-sample {location} is the second of the {tower} tower: give one"
            )
        found[tower] = items
    return Gate(
        samples=found,
        min_overlap=MIN_OVERLAP if min_overlap is None else min_overlap,
        overlap=top_k_overlap,
    )
