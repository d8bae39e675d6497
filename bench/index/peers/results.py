"""What was measured of each index, and its table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bench.gpu.report.tables import markdown
from bench.index.peers.child import Cost
from bench.index.peers.queries import Answers
from bench.pages import Section

SECTION = Section("indexes", "bench.index.peers")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The answers of an index with one setting of its search."""

    setting: str
    images: Answers
    texts: Answers


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An index: the cost of its build, its size, and its searches.

    `codes_bytes` is the size of what a search looks through, and needs in memory, `disk_bytes`
    that of all files. `error` says why there is no index. `note` is for the reader of the table.
    """

    name: str
    build: Cost
    codes_bytes: int = 0
    disk_bytes: int = 0
    searches: tuple[Setting, ...] = ()
    error: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Results:
    """All indexes of one run; `machine` says on what, `versions` with which libraries."""

    rows: int
    dim: int
    queries: int
    machine: str
    versions: dict[str, str]
    indexes: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_RESULTS = TypeAdapter(Results)


def parse(text: str | bytes) -> Results:
    """Return the results that a JSON file holds."""
    return _RESULTS.validate_json(text)


def report(results: Results) -> str:
    """Return the results in Markdown: the builds, the searches, and the notes."""
    head = (
        f"{results.rows:,} vectors of {results.dim}, {results.queries:,} queries of each kind; "
        f"{results.machine}; {', '.join(f'{k} {v}' for k, v in results.versions.items())}."
    )
    builds = markdown(
        ["index", "build, s", "CPU, s", "peak memory, MiB", "codes, B/vector", "files, B/vector"],
        [_build_row(one, results.rows) for one in results.indexes],
    )
    searches = markdown(
        [
            "index",
            "setting",
            "recall@10, images",
            "recall@10, texts",
            "p50 / p95 ms, images",
            "p50 / p95 ms, texts",
            "CPU ms a query, texts",
        ],
        [_search_row(one, setting) for one in results.indexes for setting in one.searches],
    )
    notes = [f"- {one.name}: {one.note}" for one in results.indexes if one.note]
    errors = [f"- {one.name} built no index: `{one.error}`" for one in results.indexes if one.error]
    return "\n\n".join(filter(None, [head, builds, searches, "\n".join([*notes, *errors])]))


def _build_row(one: Measured, rows: int) -> list[str]:
    cost = one.build
    sizes = ["–" if one.error else f"{n / rows:,.0f}" for n in (one.codes_bytes, one.disk_bytes)]
    peak = f"{cost.peak_bytes / (1 << 20):,.0f}"
    return [one.name, f"{cost.seconds:,.0f}", f"{cost.cpu_s:,.0f}", peak, *sizes]


def _search_row(one: Measured, setting: Setting) -> list[str]:
    images, texts = setting.images, setting.texts
    return [
        one.name,
        setting.setting,
        f"{images.recall:.3f}",
        f"{texts.recall:.3f}",
        f"{images.p50_ms:.2f} / {images.p95_ms:.2f}",
        f"{texts.p50_ms:.2f} / {texts.p95_ms:.2f}",
        f"{texts.cpu_ms:.2f}",
    ]
