"""An engine that is opened once and run with several numbers of contexts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import contexts
from bench.gpu.contexts import opened
from tests.unit.workers.fake_tensorrt import expected, install, plan, write_engine
from workers.engines import tensorrt_open


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0"])
def test_every_number_of_contexts_gives_the_same_and_the_files_are_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    state = install(monkeypatch, version)
    card, path = write_engine(tmp_path, plan(shape=(4, 3, 8, 8)), version=version)
    hashed: list[Path] = []
    check = tensorrt_open.check_files
    monkeypatch.setattr(
        tensorrt_open, "check_files", lambda c, p: (hashed.append(p), check(c, p))[1]
    )
    monkeypatch.setattr(contexts, "check_is", lambda *_, **__: None)
    monkeypatch.setattr(contexts, "load_card", lambda _: (card, path))
    target: Any = None
    inputs = np.random.default_rng(1).normal(size=(37, 3, 8, 8)).astype(np.float32)
    with opened(target, path) as with_contexts:
        for count in (1, 8, 2):
            with with_contexts(count) as engine:
                assert engine.contexts == count
                np.testing.assert_array_equal(engine(inputs), expected(inputs))
    assert hashed == [path]
    assert not state.cuda.held
    assert not state.alive
