"""The captions of a tar's samples: of the files beside a picture, the one that has its text."""

from __future__ import annotations

import json
from collections.abc import Mapping

from clipfleet.items import MAX_TEXT_LENGTH

CAPTION_EXTENSIONS = (".txt", ".caption", ".json")  # the first that is there has the caption
_NAMES = ("caption", "text")  # in a .json file
MAX_CAPTION_BYTES = 16 << 20  # of such a file


def caption_of(files: Mapping[str, bytes]) -> str | None:
    """Return the caption of a sample, by the extensions of its files; None if it has none.

    A .json file has it as `caption` or `text`.

    Raises:
        ValueError: It is no text, or too long.
    """
    for extension in CAPTION_EXTENSIONS:
        if extension not in files:
            continue
        text = _text(files[extension], extension)
        if extension == ".json":
            found = _in_json(text)
            if found is None:
                continue
            text = found
        if len(text) > MAX_TEXT_LENGTH:
            raise ValueError(f"the caption has {len(text)} characters: at most {MAX_TEXT_LENGTH}")
        return text.rstrip("\r\n")
    return None


def _text(data: bytes, extension: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"its {extension} file is not UTF-8: {data[:40]!r}") from error


def _in_json(text: str) -> str | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its .json file is not JSON: {error}") from error
    values = [fields.get(name) for name in _NAMES] if isinstance(fields, dict) else []
    found = next((value for value in values if value is not None), None)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"the caption in its .json file is {found!r:.80}, expected a string")
    return found
