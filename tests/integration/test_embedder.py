"""The embedder with its isolated decoder, a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import FakeEngine, fake_card

COUNT = 33  # more than one chunk


def picture(path: Path, seed: int) -> Item:
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (20, 10 + seed, 3), dtype=np.uint8)).save(path)
    return Item(id=path.name, uri=str(path))


def test_isolated_decoding_gives_equal_vectors_and_reports_progress_for_each_image(
    tmp_path: Path,
) -> None:
    """Else a shard of slow images would be ended by its deadline, again and again."""
    engine = FakeEngine(fake_card("img", dim=8, resolution=16))
    items = [picture(tmp_path / f"{i}.png", i) for i in range(COUNT)]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    items.append(Item(id="broken", uri=str(tmp_path / "broken.png")))
    reported: list[None] = []
    with Embedder(engine, Settings(decoders=2)) as embedder:
        isolated = embedder.embed(items, isolated=True, progress=lambda: reported.append(None))
        fast = embedder.embed(items)
    np.testing.assert_array_equal(isolated.vectors, fast.vectors)
    assert (isolated.items, isolated.failures, isolated.sizes) == (
        fast.items,
        fast.failures,
        fast.sizes,
    )
    assert len(fast.failures) == 1
    assert len(reported) >= len(items)
