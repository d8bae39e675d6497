"""An engine that is opened once and run with several numbers of contexts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu.timing import contexts
from bench.gpu.timing.contexts import opened
from clipfleet.model_card import ModelCard
from clipfleet.workers.engines.tensorrt import open as tensorrt_open
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile
from tests.unit.workers.fake_tensorrt import expected, install, plan, write_engine


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0"])
def test_every_number_of_contexts_gives_the_same_and_the_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    state = install(monkeypatch, version)
    card, path = write_engine(tmp_path, plan(shape=(4, 3, 8, 8)), version=version)
    read: list[Path] = []

    def open_engine(card: ModelCard, path: Path, *, allow_unverified: bool) -> EngineFile:
        read.append(path)
        return tensorrt_open.open_engine(card, path, allow_unverified=allow_unverified)

    monkeypatch.setattr(contexts, "open_engine", open_engine)
    monkeypatch.setattr(contexts, "check_is", lambda *_, **__: None)
    monkeypatch.setattr(contexts, "load_card", lambda _: (card, path))
    target: Any = None
    inputs = np.random.default_rng(1).normal(size=(37, 3, 8, 8)).astype(np.float32)
    with opened(target, path) as with_contexts:
        for count in (1, 8, 2):
            with with_contexts(count) as engine:
                assert engine.contexts == count
                np.testing.assert_array_equal(engine(inputs), expected(inputs))
    assert read == [path]
    assert not state.cuda.held
    assert not state.alive
