"""The command `clipfleet worker`: serve a queue, on this machine's GPUs or its CPU."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clipfleet.cli.options import (
    AllowUnverified,
    Contexts,
    DecodeOption,
    Gpus,
    MetricsPort,
    Model,
    ProviderName,
    RedisUrl,
    Reuse,
    TowerName,
    UrlHosts,
    engine_settings,
    settings_from,
)
from clipfleet.cli.picture_options import with_picture_settings
from clipfleet.errors import UsageError


@with_picture_settings
def worker(
    tower: Annotated[TowerName, typer.Option(help="Queue to serve.", show_default=False)],
    model: Model,
    output: Annotated[
        str,
        typer.Option(
            help="Write only datasets below this folder or s3://bucket/prefix.",
            show_default=False,
        ),
    ],
    input_root: Annotated[
        list[str] | None,
        typer.Option(
            help="Read only images below this folder, or s3://, gs:// or hf:// URL; repeatable.",
        ),
    ] = None,
    url_host: UrlHosts = None,
    gpus: Gpus = None,
    build_if_missing: Annotated[
        bool,
        typer.Option(
            "--build-if-missing",
            help="TensorRT: build this GPU's engine from the ONNX file if missing.",
        ),
    ] = False,
    redis_url: RedisUrl = None,
    provider: Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")] = None,
    contexts: Contexts = None,
    decode: DecodeOption = None,
    reuse: Reuse = None,
    allow_unverified: AllowUnverified = False,
    metrics_port: MetricsPort = None,
    *,
    picture_settings: dict[str, Any],
) -> None:
    """Serve the queue of one tower, until SIGTERM.

    After SIGTERM, the worker finishes the running shard, or returns it to the queue after
    CLIPFLEET_STOP_GRACE_S. A worker whose GPU fails returns its messages to the queue and exits
    with 1: start it again.

    \b
    clipfleet worker --tower img --model models/vit-b-16 --output /vectors
    clipfleet worker --tower img --model models/vit-b-16.img.fp16.onnx --output /vectors \\
        --build-if-missing --gpus all
    """
    from clipfleet.gpus import choose_gpus
    from clipfleet.storage.filesystem.locations import resolved
    from clipfleet.storage.filesystem.remote import input_location
    from clipfleet.tasks.local.engine_build import check_before_build, engine_of_this_machine
    from clipfleet.tasks.local.gpu_fleet import run_gpu_workers
    from clipfleet.tasks.worker.main import run_worker
    from clipfleet.workers.engines.model_folder import find_engine
    from clipfleet.workers.engines.model_location import locate_model

    settings = settings_from(
        redis_url=redis_url,
        tower=tower,
        output=resolved(output),
        input_roots=[input_location(root) for root in input_root] if input_root else None,
        url_hosts=url_host or None,
        decode=decode,
        reuse=resolved(reuse) if reuse else None,
        metrics_port=metrics_port,
        **engine_settings(provider, contexts, allow_unverified),
        **picture_settings,
    )
    model = locate_model(model, settings)
    if build_if_missing and model.is_dir():
        raise UsageError(
            f"--build-if-missing builds from one ONNX file, and {model} is a folder: name the "
            "file, or build the folder's engines with `clipfleet prepare`, without this option"
        )
    engine = find_engine(model.absolute(), tower.value, settings)
    settings = settings.model_copy(update={"model": str(engine)})
    if gpus:
        chosen = choose_gpus(gpus)
        raise typer.Exit(run_gpu_workers(settings, chosen, build_if_missing=build_if_missing))
    if build_if_missing:
        check_before_build(settings)
        card = engine_of_this_machine(engine, settings)
        settings = settings.model_copy(update={"model": str(card)})
    raise typer.Exit(run_worker(settings))
