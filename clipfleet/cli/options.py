"""The options that several commands share, and their choices as the command line spells them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from clipfleet.settings import Settings, load_settings


class TowerName(str, Enum):
    """A tower, as the command line spells it."""

    img = "img"
    txt = "txt"


class PrecisionName(str, Enum):
    """A precision, as the command line spells it."""

    fp32 = "fp32"
    fp16 = "fp16"


class ProviderName(str, Enum):
    """ONNX Runtime's provider, as the command line spells it."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DtypeName(str, Enum):
    """How vectors are stored."""

    float16 = "float16"
    float32 = "float32"


OwnRedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="A Redis to use instead of one of its own.", metavar="URL"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Model = Annotated[
    Path, typer.Option("--model", help="Model card, or the engine beside it.", show_default=False)
]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", help="Redis to use [default: CLIPFLEET_REDIS_URL].", metavar="URL"),
]
ShardSize = Annotated[int | None, typer.Option("--shard-size", min=1, help="Items a shard.")]
Dtype = Annotated[DtypeName | None, typer.Option("--dtype", help="How vectors are stored.")]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", metavar="NAME", help="Where the ids are.")
]
UriColumn = Annotated[
    str | None, typer.Option("--uri-column", metavar="NAME", help="Where the paths are.")
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", metavar="NAME", help="Where the texts are.")
]
SourceArgument = Annotated[
    str, typer.Argument(help="A folder of images, or a JSONL, CSV, TSV, Parquet or TXT file.")
]
OutArgument = Annotated[
    str, typer.Argument(help="The dataset: a folder or s3://bucket/prefix, new or to go on with.")
]
DatasetArgument = Annotated[
    str, typer.Argument(help="The dataset: its folder, or s3://bucket/prefix.")
]
UrlHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--url-host",
        metavar="HOST",
        help="Images are fetched from this host (*.example.com: all below it; may be repeated).",
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option("--gpus", metavar="all|0,2", help="One worker for each of these GPUs."),
]
Contexts = Annotated[
    int | None,
    typer.Option(
        "--contexts", min=0, max=64, help="TensorRT: batches in flight at once; 0: measured."
    ),
]
AllowUnverified = Annotated[
    bool,
    typer.Option(
        "--allow-unverified", help="TensorRT: also serve engines that nothing proves for this GPU."
    ),
]


def settings_from(**given: Any) -> Settings:
    """Return the settings of these options; one that is None leaves the environment's.

    Raises:
        SettingsError: A setting is not fit for use.
    """
    plain = {name: v.value if isinstance(v, Enum) else v for name, v in given.items()}
    return load_settings(**plain)
