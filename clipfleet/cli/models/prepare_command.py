"""The command that makes a model folder: `clipfleet prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipfleet.architectures import TOWERS, architecture_names
from clipfleet.cli.models.engine_commands import (
    VerifyImages,
    VerifyTexts,
    engine_line,
    print_progress,
)
from clipfleet.cli.options import (
    GateSample,
    Json,
    MinOverlap,
    TowerName,
    gate_from,
    settings_from,
)
from clipfleet.cli.output import end_on_sigterm, print_result
from clipfleet.errors import UsageError

if TYPE_CHECKING:
    from clipfleet.architectures import Tower


def prepare(
    model: Annotated[
        str,
        typer.Argument(
            help="RN50, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, demo, or a checkpoint of one "
            "of them: a file or a folder; or an architecture's JSON file."
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="The model folder, new or begun [default: models/vit-b-16 for ViT-B-16, see "
            "CLIPFLEET_MODELS].",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A .pt or .safetensors file [default: download the published one]."),
    ] = None,
    tower: Annotated[list[TowerName] | None, typer.Option(help="Only this tower.")] = None,
    download_root: Annotated[Path | None, typer.Option(help="Folder of downloads.")] = None,
    verify_images: VerifyImages = None,
    verify_texts: VerifyTexts = None,
    gate_sample: GateSample = None,
    min_overlap: MinOverlap = None,
    as_json: Json = False,
) -> None:
    """Download, convert, build and verify a model.

    The folder, or its name, is what --model of the other commands takes. It gets ONNX engines, and
    on a machine with a GPU and TensorRT also two engines for each tower: for single items, and for
    the fastest batch size of this GPU. The same command continues where it stopped, also on another
    machine.

    \b
    clipfleet prepare ViT-B-16
    clipfleet prepare ViT-B-16 models/vit-b-16
    clipfleet prepare finetuned.pt models/mine --tower img
    """
    from clipfleet.convert.prepare import prepare as prepare_model
    from clipfleet.convert.tensorrt.requests import naming_file_errors

    end_on_sigterm()  # so that no partial file remains
    target = folder or _default_folder(model, checkpoint)

    towers: tuple[Tower, ...] = tuple(t.value for t in tower) if tower else TOWERS
    with naming_file_errors():
        done = prepare_model(
            model,
            target,
            checkpoint=checkpoint,
            towers=towers,
            download_root=download_root,
            verify_images=verify_images,
            verify_texts=verify_texts,
            gate=gate_from(gate_sample, min_overlap),
            progress=print_progress,
        )
    lines = [engine_line(card, path) for card, path in done.engines]
    if done.no_tensorrt:
        lines.append(
            f"no TensorRT engines were built ({done.no_tensorrt}): on a machine with an NVIDIA GPU "
            "and TensorRT, the same command builds them from these files"
        )
    lines.append(f"use it with --model {folder or model}")
    result = {
        "folder": str(target),
        "cards": [str(path) for _, path in done.engines],
        "no_tensorrt": done.no_tensorrt or None,
    }
    print_result(result, lines, as_json)


def _default_folder(model: str, checkpoint: Path | None) -> Path:
    """Return the folder of a model that is named without one.

    Raises:
        UsageError: It is not the published model of an architecture, whose name the folder has.
    """
    from clipfleet.workers.engines.model_location import folder_to_prepare

    if model not in architecture_names() or checkpoint is not None:
        raise UsageError(
            f"no folder is named for {checkpoint or model}, and only a published model has one by "
            f"default: name it, as in `clipfleet prepare {model} models/mine`"
        )
    return folder_to_prepare(model, settings_from())
