"""PostgreSQL's COPY text, for a table with a vector of pgvector."""

from __future__ import annotations

import json
import re
from typing import Any

from clipfleet.errors import UsageError
from clipfleet.retrieval.export.lines import Lines, numbers

# https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPED = re.compile(r"\\(.)")
_PLAIN = {"t": "\t", "n": "\n", "r": "\r"}


class CopyFile(Lines):
    """The columns id, uri or text, and vector, with tabs between them."""

    def line(self, item: dict[str, Any], vector: list[float]) -> str:
        values = (item["id"], item["uri" if "uri" in item else "text"])
        for value in values:
            if "\0" in value:
                raise UsageError(
                    f"id {item['id']!r}: {value[:80]!r} has a NUL, which PostgreSQL cannot store; "
                    "export to another format"
                )
        return "\t".join([*map(_escaped, values), numbers(vector)])

    def parse(self, line: str) -> tuple[str, list[float]]:
        id_, _, vector = line.split("\t")
        return _ESCAPED.sub(lambda m: _PLAIN.get(m[1], m[1]), id_), json.loads(vector)


def _escaped(value: str) -> str:
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value)
