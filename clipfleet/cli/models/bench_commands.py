"""The command that measures: `clipfleet bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipfleet.cli.options import (
    AllowUnverified,
    Contexts,
    FolderTower,
    Json,
    Model,
    ProviderName,
    ShardSize,
    SourceArgument,
    engine_settings,
    settings_from,
)
from clipfleet.cli.output import DONE, ITEMS_FAILED, end_on_sigterm, print_result
from clipfleet.cli.source_options import with_source_options
from clipfleet.storage.sources.options import SourceOptions


@with_source_options
def bench(
    source: SourceArgument,
    model: Model,
    tower: FolderTower = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Measure writing on the disk of this folder [default: the temporary folder's].",
            metavar="FOLDER",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Items to measure with, at most.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each stage.")] = 4.0,
    shard_size: ShardSize = None,
    provider: Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")] = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
    as_json: Json = False,
    *,
    source_options: SourceOptions,
) -> None:
    """Measure each stage of embedding, and name the slowest one.

    Reads, decodes or tokenises, computes and writes the first items of the source, each stage alone
    and then all together, and says what to change. Takes about a minute. The vectors are written to
    a temporary folder and removed.

    \b
    clipfleet bench photos/ --model models/vit-b-16
    clipfleet bench captions.jsonl --model models/vit-b-16 --out vectors --json
    """
    from clipfleet.tasks.bench.run import measure_source
    from clipfleet.tasks.submit.inputs import open_inputs
    from clipfleet.workers.engines.model_folder import find_engine
    from clipfleet.workers.engines.model_location import locate_model

    end_on_sigterm()
    settings = settings_from(
        shard_size=shard_size, **engine_settings(provider, contexts, allow_unverified)
    )
    opened, engine = open_inputs(
        source,
        locate_model(model, settings),
        find=lambda folder, tower: find_engine(folder, tower, settings),
        tower=tower.value if tower else None,
        options=source_options,
    )
    report = measure_source(
        opened,
        engine,
        settings=settings,
        out=out,
        stage_s=seconds,
        limit=limit,
        say=lambda stage: None if as_json else typer.echo(f"measuring {stage}", err=True),
    )
    print_result(report.to_json(), report.lines(), as_json)
    raise typer.Exit(ITEMS_FAILED if report.classes else DONE)
