"""The options of a source, which every command that reads one has."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, cast

import typer

from clipfleet.cli.added_options import with_options
from clipfleet.storage.sources.options import SourceOptions, given


class _TextNormalisationName(str, Enum):
    """The values of `--text-normalisation`."""

    none = "none"
    evaluation = "evaluation"


class _QuotingName(str, Enum):
    """The values of `--quoting`."""

    csv = "csv"
    none = "none"


_OPTIONS: dict[str, Any] = {
    "id_column": Annotated[
        str | None, typer.Option("--id-column", metavar="NAME", help="Column of the ids.")
    ],
    "uri_column": Annotated[
        str | None,
        typer.Option("--uri-column", metavar="NAME", help="Column of the paths, or pictures."),
    ],
    "text_column": Annotated[
        str | None, typer.Option("--text-column", metavar="NAME", help="Column of the texts.")
    ],
    "quoting": Annotated[
        _QuotingName | None,
        typer.Option(
            "--quoting",
            help="CSV, TSV: fields in quotation marks, or marks as text [default: csv for .csv, "
            "none for .tsv].",
            show_default=False,
        ),
    ],
    "encoding": Annotated[
        str | None,
        typer.Option(
            "--encoding",
            metavar="NAME",
            help="Encoding of a table of text, or of names in a zip archive, such as gb18030 or "
            "utf-16 [default: utf-8].",
            show_default=False,
        ),
    ],
    "text_normalisation": Annotated[
        _TextNormalisationName | None,
        typer.Option(
            "--text-normalisation",
            help="Texts: as they are, or lower case with plain quotation marks, as Chinese-CLIP's "
            "evaluation has them [default: none].",
            show_default=False,
        ),
    ],
    "include": Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            help="Of a folder or archives: these files, whatever their extensions, and no others; "
            "repeatable.",
        ),
    ],
    "exclude": Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Of a folder or archives: not these files and subfolders (raw, *.gif, 2019/*); "
            "repeatable.",
        ),
    ],
    "fail_on_skipped": Annotated[
        bool,
        typer.Option(
            "--fail-on-skipped",
            help="Plan nothing if a folder or an archive has files that are no images.",
        ),
    ],
}


def with_source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a source, in place of its parameter `source_options`."""
    return with_options(
        command, "source_options", _OPTIONS, lambda values: given(cast(SourceOptions, values))
    )
