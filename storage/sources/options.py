"""How a source is read: the options that the Python API and the command line have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypedDict, cast

from clipfleet.items import TextNormalisation


class SourceOptions(TypedDict, total=False):
    """How a source is read. Every option may be left out; None is the same as leaving it out.

    Attributes:
        id_column: The table's column of ids; without it, `id` or another usual name.
        uri_column: The table's column of paths or URLs of images; of Parquet files also of the
            pictures themselves.
        text_column: The table's column of texts.
        quoting: Of a CSV or TSV file. "csv": fields may be quoted. "none": quotation marks are
            text. Without it, "csv" for .csv and "none" for .tsv.
        encoding: Of a file of text, a name of Python's, such as "gb18030"; without it, UTF-8. Of
            zip archives, that of the names in them, unless they say UTF-8.
        text_normalisation: "evaluation" changes texts as Chinese-CLIP's evaluation does: lower
            case, and plain quotation marks in place of “ and ”. A dataset has texts of one kind.
        include: Of a folder or archives: the files that match one of these globs, such as "*.heic"
            or "2024/*", whatever their extensions, and no others.
        exclude: Of a folder or archives: not the files and subfolders that match one of these
            globs. Hidden files and those of systems (`@eaDir`, `Thumbs.db`, `__MACOSX`) are never
            read. What is skipped is counted in `submission.skipped`.
        fail_on_skipped: Refuse a folder with files that are skipped for their extensions.
    """

    id_column: str | None
    uri_column: str | None
    text_column: str | None
    quoting: str | None
    encoding: str | None
    text_normalisation: TextNormalisation | None
    include: Collection[str] | None
    exclude: Collection[str] | None
    fail_on_skipped: bool


def given(options: SourceOptions) -> SourceOptions:
    """Return the options that are not left out.

    Raises:
        TypeError: There is no option of that name.
    """
    for name in options:
        if name not in SourceOptions.__annotations__:
            raise TypeError(f"{name!r} is no option of a source")
    chosen = {name: value for name, value in options.items() if value not in (None, False, (), [])}
    return cast(SourceOptions, chosen)


def of_sources(options: Mapping[str, Any]) -> SourceOptions:
    """Return those of the options of a command that are options of a source."""
    names = SourceOptions.__annotations__
    return cast(SourceOptions, {name: options[name] for name in options if name in names})
