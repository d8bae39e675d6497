"""A source is opened by what is at its path: a folder, archives, a table, or a file of texts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import TextNormalisation
from clipfleet.storage.archives.files import ZIP_ENDINGS
from clipfleet.storage.archives.open_archives import archive_endings, open_archives
from clipfleet.storage.archives.source import ArchiveSource
from clipfleet.storage.filesystem.remote import input_location, is_web
from clipfleet.storage.skipped import NO_RULES, FolderRules
from clipfleet.storage.sources.base import Source
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.sources.normalisation import NormalisedTexts
from clipfleet.storage.sources.options import SourceOptions, given
from clipfleet.storage.stores.files import exists, is_folder, listed_once
from clipfleet.storage.tables.columns import Columns
from clipfleet.storage.tables.compressed import COMPRESSIONS, uncompressed_name
from clipfleet.storage.tables.guide import open_guide
from clipfleet.storage.tables.json_tables import JsonArraySource, JsonlSource
from clipfleet.storage.tables.parquet import ParquetSource, holds_parquet
from clipfleet.storage.tables.text_files import check_encoding
from clipfleet.storage.tables.text_tables import QUOTINGS, CsvSource, LinesSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

_JSON_LINES = (".jsonl", ".ndjson")
_SEPARATED = (".csv", ".tsv")
_TEXT = (*_JSON_LINES, ".json", *_SEPARATED, ".txt")  # these may be compressed
_SUPPORTED = (
    "a folder of images, of .tar or .zip archives, or of .parquet files, or a .parquet, .tar, "
    ".tar.gz, .tgz or .zip file, or a .jsonl, .ndjson, .json, .csv, .tsv or .txt file, which may "
    f"be compressed ({', '.join(COMPRESSIONS)})"
)


@listed_once()
def open_source(location: str, *, tower: Tower, **options: Unpack[SourceOptions]) -> Source:
    """Return the source at a path: a folder, archives, a table, a text file, or the guide's data.

    Default columns, in this order: id, text_id or image_id for the id; uri, path, file, file_name
    or url for the image; text or caption for the text. A path such as `shards/{00000..00099}.tar`
    or `shards/*.tar` names several archives.

    Raises:
        SourceError: The path does not exist, or is no source of this tower's items.
        UsageError: The location has a scheme that is not supported.
    """
    path = input_location(location)
    options = given(options)
    uri, text = options.get("uri_column"), options.get("text_column")
    value, unused, flag = (uri, text, "text") if tower == "img" else (text, uri, "uri")
    if unused is not None:
        raise SourceError(
            f"column {unused!r} was named for the {flag}, and the {tower} tower reads none: leave "
            f"the {flag} column away, or choose the other tower"
        )
    columns = Columns.of(tower, id_column=options.get("id_column"), value_column=value)
    rules = FolderRules.of(
        options.get("include") or (),
        options.get("exclude") or (),
        fail_on_skipped=options.get("fail_on_skipped", False),
    )
    try:
        opened = _open_path(
            path,
            tower,
            columns,
            rules,
            quoting=options.get("quoting"),
            encoding=options.get("encoding"),
        )
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if rules != NO_RULES and not isinstance(opened, FolderSource | ArchiveSource):
        raise SourceError(
            f"{path} has no files of images: leave --include, --exclude and --fail-on-skipped out"
        )
    return normalised(opened, tower, options)


def normalised(source: Source, tower: Tower, options: SourceOptions) -> Source:
    """Return a source whose texts have the normalisation that the options ask for.

    Raises:
        SourceError: The source is one of images.
    """
    normalisation = options.get("text_normalisation", "none")
    if normalisation == "none":
        return source
    if normalisation not in get_args(TextNormalisation):
        known = " or ".join(get_args(TextNormalisation))
        raise SourceError(f"text_normalisation {normalisation!r} is not known: it is {known}")
    if tower != "txt":
        raise SourceError(
            f"text_normalisation is {normalisation!r}, and {source.description} is read for the "
            f"{tower} tower: leave it out"
        )
    return NormalisedTexts(source)


def _open_path(
    path: str,
    tower: Tower,
    columns: Columns,
    rules: FolderRules,
    *,
    quoting: str | None,
    encoding: str | None,
) -> Source:
    suffix = form_of(path)
    _check_form(path, suffix, quoting, encoding)
    if archives := open_archives(path, tower, rules, encoding=encoding):
        if columns.named:
            raise SourceError(f"{path} holds archives, which have no columns: leave the names out")
        return archives
    if not columns.named and (guide := open_guide(path, tower)):
        return guide
    if is_folder(path):
        return _open_folder(path, tower, columns, rules)
    if not exists(path):
        raise SourceError(f"no source at {path}: nothing is there")
    return _open_file(path, suffix, tower, columns, quoting=quoting, encoding=encoding)


def _open_file(
    path: str,
    suffix: str,
    tower: Tower,
    columns: Columns,
    *,
    quoting: str | None,
    encoding: str | None,
) -> Source:
    if suffix in _JSON_LINES:
        return JsonlSource(path, columns, encoding=encoding)
    if suffix == ".json":
        return JsonArraySource(path, columns, encoding=encoding)
    if suffix in _SEPARATED:
        return CsvSource(path, columns, quoting=quoting, encoding=encoding)
    if suffix == ".parquet":
        return ParquetSource(path, columns)
    if suffix == ".txt":
        return LinesSource(path, tower, encoding=encoding)
    page = ", and its page is no index of a folder" if is_web(path) else ""
    raise SourceError(f"{path} is no source that is known by its name{page}: expected {_SUPPORTED}")


def form_of(path: str) -> str:
    """Return the extension that says what a file is, in lower case: `.csv` of `a.csv.gz`."""
    name = uncompressed_name(path)
    suffix = os.path.splitext(name)[1].lower()
    return suffix if name == path or suffix in _TEXT else os.path.splitext(path)[1].lower()


def _check_form(path: str, suffix: str, quoting: str | None, encoding: str | None) -> None:
    """Refuse a quoting or an encoding that is not known, or that the source cannot have."""
    if quoting not in (None, *QUOTINGS):
        raise SourceError(f"quoting {quoting!r} is not known: it is {' or '.join(QUOTINGS)}")
    if encoding is not None:
        check_encoding(encoding)
    is_file = not is_folder(path)
    if quoting is not None and not (is_file and suffix in _SEPARATED):
        raise SourceError(f"{path} is no CSV or TSV file: leave the quoting out")
    is_text = is_file and suffix in _TEXT
    if encoding is not None and not is_text and archive_endings(path) != ZIP_ENDINGS:
        raise SourceError(f"{path} is no file of text and no zip archive: leave the encoding out")


def _open_folder(path: str, tower: Tower, columns: Columns, rules: FolderRules) -> Source:
    if holds_parquet(path, tower, named=columns.named):
        return ParquetSource(path, columns)
    if tower == "txt":
        raise SourceError(
            f"{path} has no .parquet file before its first image, and the txt tower reads texts: "
            "name a .jsonl, .json, .csv, .tsv, .parquet or .txt file, or the folder of the "
            ".parquet files"
        )
    return FolderSource(path, rules)
