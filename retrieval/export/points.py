"""Points for Qdrant: a JSON object a line, as its API takes points."""

from __future__ import annotations

import json
import uuid
from typing import Any

from clipfleet.retrieval.export.lines import Lines, numbers


class Points(Lines):
    """`{"id": UUID, "payload": {…}, "vector": […]}`; the payload has the row's other columns.

    Qdrant takes whole numbers and UUIDs as ids. Ours are the UUIDs of version 5 of the row's id in
    the namespace of URLs: the same id has the same UUID in each export.
    """

    def line(self, item: dict[str, Any], vector: list[float]) -> str:
        id_ = uuid.uuid5(uuid.NAMESPACE_URL, item["id"])
        return f'{{"id": "{id_}", "payload": {json.dumps(item)}, "vector": {numbers(vector)}}}'

    def parse(self, line: str) -> tuple[str, list[float]]:
        fields = json.loads(line)
        return fields["payload"]["id"], fields["vector"]
