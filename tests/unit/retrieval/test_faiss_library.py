"""FAISS is told the kind of CPU, and nothing else is; an old FAISS is refused."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from clipfleet.errors import DependencyError
from clipfleet.retrieval.faiss_library import core_of, load_faiss


@pytest.mark.parametrize(
    ("flags", "core"),
    [
        ("fpu sse2 fma avx2 avx512f avx512dq avx512bw avx512vl amx_tile", "SKYLAKEX"),
        ("fpu sse2 fma avx2 avx512f", "HASWELL"),
        ("fpu sse2", None),
    ],
)
def test_the_newest_kernels_that_the_cpu_runs_are_named(
    tmp_path: Path, flags: str, core: str | None
) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert core_of(described) == core


def test_a_machine_without_the_description_gets_no_name(tmp_path: Path) -> None:
    assert core_of(tmp_path / "absent") is None


def test_the_name_is_gone_once_faiss_is_loaded() -> None:
    before = dict(os.environ)
    load_faiss.cache_clear()
    load_faiss()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("version", "is_old"), [("1.7.2", True), ("1.13.2", True), ("1.14.1", False)]
)
def test_a_faiss_that_is_too_old_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str, *, is_old: bool
) -> None:
    module = ModuleType("faiss")
    monkeypatch.setattr(module, "__version__", version, raising=False)
    monkeypatch.setitem(sys.modules, "faiss", module)
    load = load_faiss.__wrapped__  # not the one of this process
    if is_old:
        with pytest.raises(
            DependencyError, match=rf"FAISS {version} is too old .* pip uninstall its package"
        ):
            load()
    else:
        assert load() is module
