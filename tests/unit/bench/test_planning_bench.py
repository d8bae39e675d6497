"""The tables of docs/explanation/scaling.md."""

from __future__ import annotations

import json

import numpy as np

from bench.planning.__main__ import mixed
from bench.planning.page import PAGE, RESULT, SECTION, report


def test_the_page_has_the_tables_of_the_kept_result() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert SECTION.insert(page, report(result)) == page
    largest = max(result["plans"], key=lambda plan: plan["rows"])
    assert largest["rows"] >= 10_000_000
    assert largest["plan"]["count"] == largest["rows"]
    assert largest["plan"]["peak_mib"] < 500


def test_the_names_of_a_table_look_like_chance_and_differ() -> None:
    names = mixed(np.arange(10_000, dtype=np.uint64))
    assert len(np.unique(names)) == 10_000
    assert abs(np.mean(names / 2**64) - 0.5) < 0.02
