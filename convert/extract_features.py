"""What the guide's two extraction commands share: their flags, and the workers' way to features."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import clipfleet
from clipfleet.architectures import Tower, architecture_names
from clipfleet.cli.options import settings_from
from clipfleet.cli.output import ITEMS_FAILED, end_on_sigterm
from clipfleet.convert.console import INTERRUPTED, TOWER_NAMES, WRONG_USE, say
from clipfleet.convert.tensorrt.requests import naming_file_errors
from clipfleet.errors import ClipfleetError, UsageError
from clipfleet.model_card import load_card

_IMAGE_DATA = "../Multimodal_Retrieval/lmdb/test/imgs"  # the guide's defaults
_TEXT_DATA = "../Multimodal_Retrieval/test_texts.jsonl"
_WORDS: Mapping[Tower, str] = {"img": "image", "txt": "text"}
_SHOWN = 5  # failed items


@dataclass(frozen=True, kw_only=True)
class _Extraction:
    """The features of one tower: from what, with which engine, and where to."""

    tower: Tower
    source: Path
    model: Path
    output: Path
    batch_size: int | None


def make_parser(runtime: str) -> argparse.ArgumentParser:
    """Return the guide's flags; `runtime` is "onnx" or "tensorrt", as in the flags' names."""
    parser = argparse.ArgumentParser(
        prog=f"python -m clipfleet.convert.extract_features_{runtime}",
        description="Write the features of the guide's images and texts as JSONL files.",
    )
    add = parser.add_argument
    add("--extract-image-feats", action="store_true", help="write the images' features")
    add("--extract-text-feats", action="store_true", help="write the texts' features")
    add("--image-data", type=Path, default=_IMAGE_DATA, help="LMDB folder, or its file *_imgs.tsv")
    add("--text-data", type=Path, default=_TEXT_DATA, help="JSONL file with text_id and text")
    add("--image-feat-output-path", type=Path, help="default: beside the texts, _imgs.img_feat")
    add("--text-feat-output-path", type=Path, help="default: beside the texts, .txt_feat")
    each = "items a call, of an engine that takes any number (default: the worker's)"
    add("--img-batch-size", type=int, help=each)
    add("--text-batch-size", type=int, help=each)
    add("--context-length", type=int, help="checked: tokens a text of the engine")
    add(f"--{runtime}-image-model", type=Path, help="the image engine, with its card beside it")
    add(f"--{runtime}-text-model", type=Path, help="the text engine, with its card beside it")
    names = ", ".join(architecture_names())
    add("--vision-model", help=f"checked: the engine's architecture, one of {names}")
    add("--text-model", help="not needed: the engine's card says it")
    add("--debug", action="store_true", help="log more")
    return parser


def run(arguments: Sequence[str] | None, runtime: str, parser: argparse.ArgumentParser) -> int:
    """Run one of the guide's two commands; return its exit code."""
    args = parser.parse_args(arguments)
    if not (args.extract_image_feats or args.extract_text_feats):
        parser.error("nothing to extract: give --extract-image-feats, --extract-text-feats or both")
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.WARNING)
    say("Params:")
    for name, value in sorted(vars(args).items()):
        say(f"  {name}: {value}")
    end_on_sigterm()
    try:
        extractions = list(_asked(args, runtime))
        for extraction in extractions:
            _check_card(extraction, args)
        with naming_file_errors():
            failed = [_extract(one, getattr(args, "device", None)) for one in extractions]
    except ClipfleetError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    say("Done!")
    return ITEMS_FAILED if any(failed) else 0


def _asked(args: argparse.Namespace, runtime: str) -> Iterator[_Extraction]:
    """Yield what is asked for, the texts first as in the guide; by default beside the texts."""
    texts = str(args.text_data)
    if args.extract_text_feats:
        yield _Extraction(
            tower="txt",
            source=Path(args.text_data),
            model=_model(args, runtime, "text"),
            output=args.text_feat_output_path
            or Path(f"{texts.removesuffix('.jsonl')}.txt_feat.jsonl"),
            batch_size=args.text_batch_size,
        )
    if args.extract_image_feats:
        images = texts.replace("_texts.jsonl", "_imgs")
        yield _Extraction(
            tower="img",
            source=Path(args.image_data),
            model=_model(args, runtime, "image"),
            output=args.image_feat_output_path or Path(f"{images}.img_feat.jsonl"),
            batch_size=args.img_batch_size,
        )


def _model(args: argparse.Namespace, runtime: str, name: str) -> Path:
    model: Path | None = getattr(args, f"{runtime}_{name}_model")
    if model is None:
        raise UsageError(f"--extract-{name}-feats needs an engine: give --{runtime}-{name}-model")
    return model


def _check_card(extraction: _Extraction, args: argparse.Namespace) -> None:
    """Check the engine's card against the command's options."""
    card, engine = load_card(extraction.model)
    if card.tower != extraction.tower:
        raise UsageError(
            f"{engine} is the {TOWER_NAMES[card.tower]} tower, and the features are those of the "
            f"{TOWER_NAMES[extraction.tower]} tower: name that engine"
        )
    if args.vision_model not in (None, card.architecture):
        raise UsageError(f"--vision-model is {args.vision_model}: {engine} is {card.architecture}")
    if card.tower == "txt" and args.context_length not in (None, card.context_length):
        raise UsageError(
            f"--context-length is {args.context_length}: {engine} takes {card.context_length} "
            "tokens"
        )


def _extract(extraction: _Extraction, provider: str | None) -> int:
    """Write the features of one tower; return the number of items without any.

    They are embedded into a dataset beside the file first, where the same command continues after
    an interruption.
    """
    output, tower = extraction.output, extraction.tower
    scratch = output.with_name(f"{output.name}.partial")
    scratch.mkdir(parents=True, exist_ok=True)
    settings = settings_from(
        provider=provider, max_batch=extraction.batch_size, embedding_dtype="float32"
    )
    out = scratch / "vectors"
    clipfleet.embed(
        extraction.source,
        out,
        model=extraction.model,
        tower=tower,
        text_normalisation="evaluation" if tower == "txt" else "none",
        settings=settings,
    )
    # The guide replaces the output of an earlier run, and an export does not.
    made = scratch / "features.jsonl"
    made.unlink(missing_ok=True)
    exported = clipfleet.export(out, made, to="jsonl", int_ids=True, settings=settings)
    os.replace(made, output)
    say(f"{exported.rows} {_WORDS[tower]} features are stored in {output}")
    failures = list(clipfleet.Dataset(out, settings=settings).errors())
    for row in failures[:_SHOWN]:
        sys.stderr.write(f"no feature of {_WORDS[tower]} {row.id}: {row.error}: {row.message}\n")
    if len(failures) > _SHOWN:
        sys.stderr.write(f"and of {len(failures) - _SHOWN} more\n")
    shutil.rmtree(scratch)
    return len(failures)
