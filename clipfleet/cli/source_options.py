"""The options of a source, which every command that reads one has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, cast

import typer

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

    @functools.wraps(command)
    def command_with_options(**arguments: Any) -> None:
        options = {name: _value(arguments.pop(name)) for name in _OPTIONS}
        command(**arguments, source_options=given(cast(SourceOptions, options)))

    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != "source_options"]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name == "fail_on_skipped" else None,
            annotation=annotation,
        )
        for name, annotation in _OPTIONS.items()
    ]
    command_with_options.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    command_with_options.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return command_with_options


def _value(given_value: Any) -> Any:
    return given_value.value if isinstance(given_value, Enum) else given_value
