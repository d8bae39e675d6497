"""Write the archives beside this file again, with the programs that users have.

    pip install --no-deps --target TARGET webdataset img2dataset braceexpand
    PYTHONPATH=TARGET python tests/archive_files/make.py

The files are kept because both packages import torch, and img2dataset needs OpenCV and others. Of
the latter, the writer of its output folder is used. They were made with webdataset 1.0.2 and
img2dataset 1.47.0.
"""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

HERE = Path(__file__).parent


def picture(number: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (40 * number, 90, 250 - 40 * number)).save(file, kind)
    return file.getvalue()


def shards() -> None:
    """Two shards of three and two samples, and one in gzip."""
    import webdataset

    (HERE / "webdataset").mkdir(exist_ok=True)
    with webdataset.ShardWriter(f"{HERE}/webdataset/%05d.tar", maxcount=3, verbose=0) as writer:
        writer.write({"__key__": "a/one", "jpg": picture(0), "txt": "one picture"})
        writer.write({"__key__": "a/two", "jpg": picture(1), "json": {"caption": "two, 两"}})
        writer.write({"__key__": "three", "png": picture(2, "PNG"), "cls": 3})
        writer.write({"__key__": "four", "jpg": picture(3), "seg.png": picture(4, "PNG")})
        writer.write({"__key__": "five", "jpg": b"no picture", "txt": "five"})
    with webdataset.TarWriter(f"{HERE}/packed.tar.gz") as tar:
        for number in range(3):
            sample = {"__key__": f"{number}", "jpg": picture(number), "txt": f"text {number}"}
            tar.write(sample)


def downloads() -> None:
    """Two shards of img2dataset: three rows each, of which some failed."""
    (HERE / "img2dataset").mkdir(exist_ok=True)
    found = importlib.util.find_spec("img2dataset")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = found.submodule_search_locations[0]  # the package itself imports OpenCV
    spec = importlib.util.spec_from_file_location("img2dataset_writer", f"{folder}/writer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = ("url", "caption", "key", "status", "error_message")
    schema = pa.schema([*((name, pa.string()) for name in names), ("width", pa.int32())])
    for shard in range(2):
        writer = module.WebDatasetSampleWriter(shard, f"{HERE}/img2dataset", True, 5, schema, "jpg")
        for row in range(3):
            _write(writer, shard, row)
        writer.close()
        stats = {"count": 3, "successes": 2 - shard, "failed_to_download": 1}
        Path(HERE, "img2dataset", f"{shard:05d}_stats.json").write_text(json.dumps(stats))


def _write(writer: Any, shard: int, row: int) -> None:
    key, failed = f"{shard:05d}{row:04d}", row == 1
    caption = None if (shard, row) == (1, 0) else f"caption {key}"
    status = "failed_to_download" if failed else "failed_to_resize" if shard and row else "success"
    image = picture(row) if status == "success" else None
    meta = {
        "url": f"https://example.org/{key}.jpg",
        "caption": caption,
        "key": key,
        "status": status,
        "error_message": None if image else "an error",
        "width": 24 if image else None,
    }
    writer.write(image, key, caption, meta)


if __name__ == "__main__":
    shards()
    downloads()
