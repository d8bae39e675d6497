"""The command line: `clipfleet convert | build | adopt | embed | submit | worker | status | …`.

Exit codes: 0 done; 1 done, but some items failed or a dataset is not whole, or a worker lost
its GPU and may be started again; 2 wrong use or environment; 130 interrupted. Standard output
carries the result (one JSON object with --json), standard error everything else.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
import traceback
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from clipfleet import __version__, engine_commands, error_commands
from clipfleet.errors import ClipfleetError, GpuLostError
from clipfleet.models import TOWERS, Tower
from clipfleet.options import (
    AllowUnverified,
    Contexts,
    DatasetArgument,
    Dtype,
    Gpus,
    IdColumn,
    Json,
    Model,
    OutArgument,
    OwnRedisUrl,
    PrecisionName,
    ProviderName,
    RedisUrl,
    ShardSize,
    SourceArgument,
    TextColumn,
    TowerName,
    UriColumn,
    UrlHosts,
)
from clipfleet.settings import Settings, load_settings

DONE, ITEMS_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
GPU_LOST = 1  # a supervisor may start the worker again, as it may not one that was refused
_WATCH_INTERVAL_S = 1.0

app = typer.Typer(
    help="Turn large corpora of images and texts into CLIP vectors in Parquet.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipfleet {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn large corpora of images and texts into CLIP vectors in Parquet."""


@app.command()
def convert(
    architecture: Annotated[
        str,
        typer.Argument(
            help="RN50, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, demo, or a JSON file."
        ),
    ],
    prefix: Annotated[
        Path,
        typer.Argument(help="Where to save: models/vit-b-16 gives models/vit-b-16.img.fp32.onnx …"),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A .pt or .safetensors file [default: download the published one]."),
    ] = None,
    tower: Annotated[list[TowerName] | None, typer.Option(help="Only this tower.")] = None,
    precision: Annotated[
        list[PrecisionName] | None, typer.Option(help="Only this precision.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items a call of the engine.")] = 1,
    dynamic_batch: Annotated[
        bool, typer.Option(help="Let a call take any number of items.")
    ] = False,
    context_length: Annotated[int | None, typer.Option(min=3, help="Tokens a text.")] = None,
    download_root: Annotated[Path | None, typer.Option(help="Where downloads are kept.")] = None,
    verify_images: Annotated[Path | None, typer.Option(help="Pictures to verify with.")] = None,
    verify_texts: Annotated[
        Path | None, typer.Option(help="Texts to verify with, one a line.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint to ONNX engines that are proven against PyTorch.

    \b
    clipfleet convert ViT-B-16 models/vit-b-16
    clipfleet convert RN50 models/mine --checkpoint finetuned.pt --precision fp32 --dynamic-batch
    """
    from convert.pytorch_to_onnx import convert as run_conversion

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing half-written

    models = run_conversion(
        architecture=architecture,
        checkpoint=checkpoint,
        save_prefix=prefix,
        towers=tuple(t.value for t in tower) if tower else TOWERS,
        precisions=tuple(p.value for p in precision) if precision else ("fp32", "fp16"),
        batch_size=None if dynamic_batch else batch_size,
        context_length=context_length,
        download_root=download_root,
        verify_images=verify_images,
        verify_texts=verify_texts,
        progress=lambda line: typer.echo(line, err=True),
    )
    lines = [f"{path}: {_parity(card)}" for card, path in models]
    _print({"cards": [str(path) for _, path in models]}, lines, as_json)


def _parity(card: Any) -> str:
    parity = card.parity
    return f"cosine ≥ {parity.cosine_min:.7f} on {parity.items} items" if parity else "not verified"


app.command()(engine_commands.build)
app.command()(engine_commands.adopt)
app.command()(error_commands.errors)
app.command()(error_commands.retry)


@app.command()
def embed(
    source: SourceArgument,
    out: OutArgument,
    model: Model,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.", show_default="1")
    ] = None,
    gpus: Gpus = None,
    redis_url: OwnRedisUrl = None,
    shard_size: ShardSize = None,
    dtype: Dtype = None,
    id_column: IdColumn = None,
    uri_column: UriColumn = None,
    text_column: TextColumn = None,
    provider: Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")] = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
    url_host: UrlHosts = None,
    as_json: Json = False,
) -> None:
    """Embed a whole source on this machine, and prove the result.

    Starts a Redis of its own and workers, and stops both at the end, also after Ctrl-C.
    The same command again goes on where the last one stopped.

    \b
    clipfleet embed photos/ vectors/photos --model models/vit-b-16.img.fp32.onnx
    clipfleet embed captions.jsonl vectors/captions --model models/vit-b-16.txt.fp32.onnx
    clipfleet embed photos/ vectors/photos --model models/vit-b-16.img.fp16.trt --gpus all
    """
    from clipfleet.display import open_display
    from clipfleet.gpus import check_one_way, choose_gpus
    from tasks.one_shot import embed_source

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops what was started, as Ctrl-C

    settings = _settings(
        shard_size=shard_size,
        embedding_dtype=dtype,
        redis_url=redis_url,
        url_hosts=url_host or None,
        **_engine_settings(provider, contexts, allow_unverified),
    )
    check_one_way(workers, gpus)
    items = _open_source(source, model, id_column, uri_column, text_column)
    with open_display(quiet=as_json) as show:
        summary = embed_source(
            items,
            out,
            model,
            settings=settings,
            workers=workers or 1,
            gpus=choose_gpus(gpus) if gpus else (),
            own_redis=redis_url is None,
            show=show,
        )
    _print(summary.to_json(), summary.lines(), as_json)
    raise typer.Exit(DONE if summary.ok else ITEMS_FAILED)


@app.command()
def submit(
    source: SourceArgument,
    out: OutArgument,
    model: Model,
    redis_url: RedisUrl = None,
    shard_size: ShardSize = None,
    dtype: Dtype = None,
    id_column: IdColumn = None,
    uri_column: UriColumn = None,
    text_column: TextColumn = None,
    as_json: Json = False,
) -> None:
    """Plan a source and queue its shards for workers that run elsewhere.

    Submitting the same source to the same dataset again queues only what is missing.

    \b
    clipfleet submit photos/ /vectors/photos --model models/vit-b-16.img.fp32.onnx
    """
    from tasks.submit import submit as run_submit

    settings = _settings(shard_size=shard_size, embedding_dtype=dtype, redis_url=redis_url)
    items = _open_source(source, model, id_column, uri_column, text_column)
    submission = run_submit(items, out, model, settings=settings)
    _print(submission.to_json(), submission.lines(), as_json)


@app.command()
def resume(dataset: DatasetArgument, redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Put back into the queue what a dataset misses, from its plan and manifest alone.

    For a Redis that lost its data, a submit that was killed, or shards that workers refused until
    the cause was mended. What is queued or running already is not queued twice.

    \b
    clipfleet resume /vectors/photos
    """
    from tasks.resume import resume as run_resume

    resumption = run_resume(dataset, settings=_settings(redis_url=redis_url))
    _print(resumption.to_json(), resumption.lines(), as_json)


@app.command()
def worker(
    tower: Annotated[TowerName, typer.Option(help="Which queue to serve.", show_default=False)],
    model: Model,
    output: Annotated[
        str,
        typer.Option(
            help="Datasets inside this folder, or s3://bucket/prefix, are written, no others.",
            show_default=False,
        ),
    ],
    input_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Images below this folder are read, no others; may be repeated.",
        ),
    ] = None,
    url_host: UrlHosts = None,
    gpus: Gpus = None,
    build_if_missing: Annotated[
        bool,
        typer.Option(
            "--build-if-missing",
            help="TensorRT: build this machine's engine from the ONNX file, once, and serve it.",
        ),
    ] = False,
    redis_url: RedisUrl = None,
    provider: Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")] = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
) -> None:
    """Serve one tower's queue until SIGTERM, which finishes the running shard first.

    A shard that runs on for longer than CLIPFLEET_STOP_GRACE_S is handed back to the queue.
    A worker whose GPU fails hands back what it has and exits with 1: start it again.

    \b
    clipfleet worker --tower img --model models/vit-b-16.img.fp32.onnx --output /vectors
    clipfleet worker --tower img --model models/vit-b-16.img.fp16.onnx --output /vectors \\
        --build-if-missing --gpus all
    """
    from clipfleet.gpus import choose_gpus
    from storage.locations import resolved
    from tasks.gpu_fleet import run_gpu_workers
    from tasks.machine_engine import engine_of_this_machine, look_before_build
    from tasks.worker import run_worker

    settings = _settings(
        redis_url=redis_url,
        tower=tower,
        model=str(model.resolve()),
        output=resolved(output),
        input_roots=[str(root.absolute()) for root in input_root] if input_root else None,
        url_hosts=url_host or None,
        **_engine_settings(provider, contexts, allow_unverified),
    )
    if gpus:
        chosen = choose_gpus(gpus)
        raise typer.Exit(run_gpu_workers(settings, chosen, build_if_missing=build_if_missing))
    if build_if_missing:
        look_before_build(settings)
        card = engine_of_this_machine(model.resolve(), settings)
        settings = settings.model_copy(update={"model": str(card)})
    raise typer.Exit(run_worker(settings))


@app.command()
def status(
    dataset: Annotated[
        str, typer.Argument(metavar="JOB|DATASET", help="A dataset's folder, or DATASET:00001.")
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Show until everything is done.")] = False,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Show how far a dataset is; exits with 1 if items failed.

    With --watch, until it is done, or nothing is queued any more though shards are missing.

    \b
    clipfleet status /vectors/photos --watch
    clipfleet status /vectors/photos:00001 --json
    """
    from clipfleet.display import open_display
    from tasks.progress import read_progress

    settings = _settings(redis_url=redis_url)
    progress = read_progress(dataset, settings)
    if watch:
        with open_display(quiet=as_json) as show:
            while not progress.finished and not progress.stuck:
                show(progress.snapshot())
                time.sleep(_WATCH_INTERVAL_S)
                progress.refresh()
            show(progress.snapshot())
    _print(progress.to_json(), progress.lines(), as_json)
    raise typer.Exit(ITEMS_FAILED if progress.errors else DONE)


@app.command()
def verify(dataset: DatasetArgument, as_json: Json = False) -> None:
    """Prove a dataset: every planned id exactly once, norms of 1, no NaN, one model.

    \b
    clipfleet verify /vectors/photos && build-index /vectors/photos/parts
    """
    from storage.proof import prove

    proof = prove(dataset)
    _print(proof.to_json(), proof.lines(), as_json)
    raise typer.Exit(DONE if proof.ok else ITEMS_FAILED)


@app.command()
def doctor(
    model: Annotated[list[Path] | None, typer.Option("--model", help="Cards to examine.")] = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Say what works on this machine, what does not, and how to mend it.

    \b
    clipfleet doctor --model models/vit-b-16.img.fp32.onnx
    """
    from clipfleet.doctor import examine

    checks = list(examine(_settings(redis_url=redis_url), model or []))
    broken = any(check.state == "broken" for check in checks)
    lines = [
        f"{check.state:7} {check.name}: {check.detail}" + (f" → {check.mend}" if check.mend else "")
        for check in checks
    ]
    _print(
        {"ok": not broken, "checks": [dataclasses.asdict(check) for check in checks]},
        lines,
        as_json,
    )
    raise typer.Exit(WRONG_USE if broken else DONE)


def _engine_settings(
    provider: ProviderName | None, contexts: int | None, allow_unverified: bool
) -> dict[str, Any]:
    """Return the settings of these options; one that is not given leaves the environment's."""
    return {
        "provider": provider,
        "engine_contexts": contexts,
        "allow_unverified": allow_unverified or None,
    }


def _settings(**given: Any) -> Settings:
    plain = {name: v.value if isinstance(v, Enum) else v for name, v in given.items()}
    return load_settings(**plain)


def _open_source(
    location: str,
    model: Path,
    id_column: str | None,
    uri_column: str | None,
    text_column: str | None,
) -> Any:
    from clipfleet.card import load_card
    from storage.sources import open_source

    card, _ = load_card(model)
    tower: Tower = card.tower
    return open_source(
        location,
        tower=tower,
        id_column=id_column,
        uri_column=uri_column,
        text_column=text_column,
    )


def _print(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else "\n".join(lines))


def main() -> None:
    """Run the command line; every error that clipfleet raises on purpose is one line."""
    try:
        app(standalone_mode=True)
    except ClipfleetError as error:
        typer.echo(f"clipfleet: {error}", err=True)
        sys.exit(GPU_LOST if isinstance(error, GpuLostError) else WRONG_USE)
    except KeyboardInterrupt:  # outside a command: within, typer's own exit code is the same
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001 - the edge of the process; 1 would say that items failed
        traceback.print_exc()
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    main()
