"""Chinese-CLIP's feature files: JSON lines that its evaluation scripts read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from clipfleet.errors import UsageError
from clipfleet.retrieval.export.lines import Lines, numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLines(Lines):
    """`{"image_id": …, "feature": […]}` or `{"text_id": …, "feature": […]}`.

    `int_ids`: ids are whole numbers, which the scripts demand.
    """

    int_ids: bool

    def line(self, item: dict[str, Any], vector: list[float]) -> str:
        id_ = _whole(item["id"]) if self.int_ids else item["id"]
        key = "image_id" if "uri" in item else "text_id"
        return f'{{"{key}": {json.dumps(id_)}, "feature": {numbers(vector)}}}'

    def parse(self, line: str) -> tuple[str, list[float]]:
        fields = json.loads(line)
        return str(fields["image_id" if "image_id" in fields else "text_id"]), fields["feature"]


def _whole(id_: str) -> int:
    """Return an id as the number that it is.

    Raises:
        UsageError: It is none, or is written in another way than numbers are: with leading zeros.
    """
    if not (id_.isascii() and id_.removeprefix("-").isdigit() and str(int(id_)) == id_):
        raise UsageError(f"id {id_!r} is no whole number: leave out --int-ids")
    return int(id_)
