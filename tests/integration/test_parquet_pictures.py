"""Pictures in Parquet files that Hugging Face's datasets wrote: read ahead, and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipfleet.storage.filesystem import parquet_columns
from clipfleet.storage.format.results import Failure
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.images import parquet_rows
from clipfleet.workers.images.decode import ImageLimits, decode
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.preprocess import preprocess
from clipfleet.workers.images.region import Layout
from tests.faults.pictures import picture_bytes, write_pictures
from tests.integration.support import PATIENCE_S
from tests.page_blocks import missing_packages, run_block

pytestmark = pytest.mark.timeout(3 * PATIENCE_S)

COUNT = 60
GROUP = 20
WRITE = f"""
import datasets
from pathlib import Path
paths = [str(path) for path in sorted(Path("in").iterdir())]
data = datasets.Dataset.from_dict({{"image": paths, "label": list(range(len(paths)))}})
data = data.cast_column("image", datasets.Image())
data.to_parquet("paths.parquet")
embed = datasets.table.embed_table_storage  # as `push_to_hub` does
data = data.with_format("arrow").map(embed, batched=True).with_format(None)
data.to_parquet("hf.parquet", batch_size={GROUP})
rows = len(data)
"""


def test_rows_are_decoded_and_each_row_group_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := missing_packages(WRITE):
        pytest.skip(f"needs {', '.join(missing)}")
    write_pictures(tmp_path / "in", COUNT, {})
    monkeypatch.chdir(tmp_path)
    assert run_block(WRITE)["rows"] == COUNT
    with pq.ParquetFile("hf.parquet") as file:
        assert file.metadata.num_row_groups == COUNT // GROUP
    read: list[int] = []

    def column_batches(file: Any, columns: Sequence[str], groups: Sequence[int]) -> Any:
        read.extend(groups)
        return parquet_columns.column_batches(file, columns, groups)

    monkeypatch.setattr(parquet_rows, "column_batches", column_batches)
    paths = [Path(item.uri or "").name for item in open_source("paths.parquet", tower="img")]
    assert paths == [f"{n:04d}.png" for n in range(COUNT)]
    items = list(open_source("hf.parquet", tower="img"))
    layout = Layout(resolution=8, slots=12, ring_bytes=0)
    limits = ImageLimits(input_roots=(str(tmp_path.resolve()),))
    with Decoders(limits, layout, count=2, attempts=1, timeout_s=PATIENCE_S) as decoders:
        for seed, picture in enumerate(decoders.run(items)):
            assert isinstance(picture, Picture)
            expected = preprocess(decode(picture_bytes(seed), "a", 1000)[0], 8)
            np.testing.assert_array_equal(picture.pixels, expected)
            picture.free()
        assert read == list(range(COUNT // GROUP))
        Path("hf.parquet").unlink()
        [gone] = decoders.run(items[:1])
        assert isinstance(gone, Failure)
        assert gone.error == "missing"
