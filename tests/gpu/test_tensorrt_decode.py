"""JPEG files that the GPU decodes: their vectors, what falls back to the CPU, and refusals.

    TRT_PYTHON -m pytest -s -v -c /dev/null --rootdir . --import-mode=importlib \
        -p no:cacheprovider tests/gpu/test_tensorrt_decode.py

TEST_MODEL, TEST_MODEL_DYNAMIC and TEST_ENGINES are as in test_tensorrt_run.py.
"""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("tensorrt")
pytest.importorskip("cuda.bindings.runtime")
pytest.importorskip("nvidia.nvimgcodec")

from clipfleet import embed
from clipfleet.errors import UsageError
from clipfleet.items import Item
from clipfleet.model_card import card_path
from clipfleet.settings import Decode, Settings
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.jpeg_decoder import BLANK, JpegDecoder
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine
from clipfleet.workers.images.decoder import Picture
from tests.gpu.support import ROOT, clipfleet, draw, vectors
from tests.gpu.test_tensorrt_run import (
    MAX_BATCH,
    Engines,
    HostPicture,
    engine_of,
    resident_bytes,
)

__all__ = ["engine_of"]  # a fixture

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

LEAST_COSINE = 0.9999
MIB = 1 << 20
REFUSED = "refused.jpg"  # by nvImageCodec, for a marker in its header that Pillow skips
RUN_S = 240.0
GATE_SAMPLE = 200


def photographs() -> list[Image.Image]:
    """Return the package's photographs in several sizes, with odd widths and heights."""
    folder = resources.files("clipfleet.workers.images.samples")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".jpg")), key=lambda f: f.name)
    images = [Image.open(io.BytesIO(file.read_bytes())).convert("RGB") for file in files]
    sizes = [(500, 375), (333, 517), (64, 64), (1921, 1081)]
    return [image.resize(size, Image.Resampling.LANCZOS) for image in images for size in sizes]


def jpeg(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", **{"quality": 90, **options})
    return content.getvalue()


class HostFile:
    """A JPEG file in this process's memory, as a decoder's region has it."""

    on_gpu = False

    def __init__(self, data: bytes, size: tuple[int, int]) -> None:
        self.width, self.height = size
        self.file = np.frombuffer(data, np.uint8).copy()
        self.file_bytes = len(data)
        self.address = self.file.ctypes.data

    def free(self) -> None:
        self.file[:] = 0


def decoded(files: list[HostFile], size: int) -> list[NDArray[np.uint8]]:
    """Return the GPU's pixels of each file; each batch of `size` files is waited for."""
    found = []
    with JpegDecoder() as decoder, cuda.Stream() as stream:
        for start in range(0, len(files), size):
            batch = decoder.decode(files[start : start + size], stream)
            cuda.synchronize()
            for pixels in batch:
                assert pixels is not BLANK
                made = np.empty((pixels.height, pixels.width, 3), np.uint8)
                target = made.ctypes.data
                cuda.copy_async(target, pixels.address, made.nbytes, "DeviceToHost", stream)
                stream.synchronize()
                found.append(made)
    return found


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("contexts", [1, 4])
def test_files_in_batches_become_the_features_of_their_pixels_to_the_bit(
    engine_of: Engines, contexts: int, dynamic: bool
) -> None:
    """Several batches in flight: a resize that began before its decoding had ended would show."""
    made = engine_of("img", dynamic=dynamic)
    contents = [(jpeg(image), image.size) for image in photographs()]
    size = MAX_BATCH if dynamic else 1
    assert len(contents) % size == 0  # so that each batch below has the files of one here
    pixels = decoded([HostFile(*content) for content in contents], size) * 4
    contents *= 4
    features = np.empty((len(contents), made[0].dim), np.float32)
    expected = np.empty_like(features)
    with TensorRTEngine(*made, contexts=contexts, decode="gpu") as engine:
        own = [HostPicture(Image.fromarray(one)) for one in pixels]
        assert engine.run_pictures(cast("list[Picture]", own), expected, lambda _: None) == []
        for _ in range(3):
            files = cast("list[Picture]", [HostFile(*content) for content in contents])
            features[:] = 0
            assert engine.run_pictures(files, features, lambda _: None) == []
            wrong = np.flatnonzero((features != expected).any(axis=1))
            assert not wrong.size, f"{wrong.tolist()}, by {np.abs(features - expected).max()}"


def without(data: bytes, first: bytes, after: bytes) -> bytes:
    """Return a JPEG file without its segments from the marker `first` to the marker `after`."""
    return data[: data.index(first)] + data[data.index(after) :]


def kinds() -> dict[str, tuple[bytes, bool]]:
    """Return files, each with whether the GPU decodes it."""
    images = photographs()
    plain = jpeg(images[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    png = io.BytesIO()
    images[1].save(png, "PNG")
    files = {f"{n}.jpg": (jpeg(image), True) for n, image in enumerate(images)}
    options: dict[str, dict[str, Any]] = {
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "restarts": {"restart_marker_blocks": 3},
        "turned": {"exif": turned},
    }
    for name, given in options.items():
        files[f"{name}.jpg"] = (jpeg(images[4], **given), True)
    return files | {
        "grey.jpg": (jpeg(images[5].convert("L")), True),
        "progressive.jpg": (jpeg(images[4], progressive=True), False),
        "cmyk.jpg": (jpeg(images[6].convert("CMYK")), False),
        "rgb.jpg": (jpeg(images[7], keep_rgb=True), False),
        "tail.jpg": (plain + b"more", False),
        "narrow.jpg": (jpeg(images[8].resize((3, 500))), False),
        "picture.png": (png.getvalue(), False),
        "cut.jpg": (plain[:-200], False),
        "no-tables.jpg": (without(plain, b"\xff\xdb", b"\xff\xc0"), False),
        "film.jpg": (without(plain, b"\xff\xc4", b"\xff\xda"), False),
        REFUSED: (plain.replace(b"\xff\xc0", b"\xff\xd0\xff\xc0", 1), False),
        "header.jpg": (plain[:300], False),
    }


@pytest.fixture
def embedder_of(engine_of: Engines) -> Iterator[Callable[[Decode], Embedder]]:
    _, path = engine_of("img")
    with ExitStack() as stack:

        def made(decode: Decode) -> Embedder:
            settings = Settings(
                model=str(card_path(path)),
                tower="img",
                decoders=4,
                decode=decode,
            )
            return stack.enter_context(Embedder.from_settings(settings))

        yield made


def test_sound_files_come_close_and_all_others_are_exact(
    embedder_of: Callable[[Decode], Embedder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = kinds()
    items = []
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
        items.append(Item(id=name, uri=str(tmp_path / name)))
    exact = embedder_of("exact").embed(items)
    with_gpu = embedder_of("gpu")
    with caplog.at_level(logging.INFO):
        embedded = with_gpu.embed(items)
    left = [vars(one)["images"] for one in caplog.records if "the CPU decodes" in one.msg]
    assert left == [1], "of all files only REFUSED is to fall back"
    assert embedded.failures == exact.failures
    assert {failure.item.id for failure in exact.failures} == {
        *("cut.jpg", "no-tables.jpg", "header.jpg")
    }
    assert embedded.items == exact.items
    assert embedded.sizes == exact.sizes
    cosines = []
    for item, vector, expected in zip(embedded.items, embedded.vectors, exact.vectors, strict=True):
        if files[item.id][1]:
            cosines.append(float(vector @ expected))
        else:
            assert np.array_equal(vector, expected), item.id
    print(f"\ncosines: mean {np.mean(cosines):.8f}, least {min(cosines):.8f}")
    assert np.mean(cosines) >= LEAST_COSINE
    assert np.array_equal(with_gpu.embed(items, exact=True).vectors, exact.vectors)


def test_memory_does_not_grow_over_many_files(engine_of: Engines) -> None:
    made = engine_of("img")
    contents = [(jpeg(image), image.size) for image in photographs()]
    files = [HostFile(*content) for content in contents]
    features = np.empty((len(files), made[0].dim), np.float32)

    class Kept(HostFile):
        def free(self) -> None:
            pass

    with TensorRTEngine(*made, decode="gpu") as engine:
        kept = cast("list[Picture]", [Kept(*content) for content in contents])
        for _ in range(20):
            engine.run_pictures(kept, features, lambda _: None)
        free_before, rss_before = cuda.memory_info()[0], resident_bytes()
        started_s = time.perf_counter()
        for _ in range(100):
            engine.run_pictures(kept, features, lambda _: None)
        rate = 100 * len(kept) / (time.perf_counter() - started_s)
        grown = free_before - cuda.memory_info()[0], resident_bytes() - rss_before
    print(f"\n{rate:,.0f} files/s; grown by {grown[0] / MIB:.1f} MiB on the GPU", end="")
    print(f", {grown[1] / MIB:.1f} of RSS")
    assert grown[1] < 32 * MIB


def test_a_dataset_says_its_decoder_and_takes_no_other(engine_of: Engines, tmp_path: Path) -> None:
    _, engine = engine_of("img")
    source = tmp_path / "photos"
    source.mkdir()
    for number, image in enumerate(photographs()):
        (source / f"{number:02}.jpg").write_bytes(jpeg(image))
    gpu, exact = tmp_path / "gpu", tmp_path / "exact"
    shared = ("--model", engine, "--dtype", "float32")
    result = clipfleet("embed", source, gpu, *shared, "--decode", "gpu", timeout_s=RUN_S)
    assert result["ok"]
    clipfleet("embed", source, exact, *shared, timeout_s=RUN_S)
    assert json.loads((gpu / "dataset.json").read_text())["decode"] == "gpu"
    assert "decode" not in json.loads((exact / "dataset.json").read_text())
    (ids, got), (expected_ids, expected) = vectors(gpu), vectors(exact)
    assert ids == expected_ids
    cosines = np.einsum("nd,nd->n", got, expected)
    print(f"\nworst cosine {cosines.min():.8f}, mean {cosines.mean():.8f}")
    assert cosines.mean() >= LEAST_COSINE
    assert not np.array_equal(got, expected)  # else nothing was decoded on the GPU
    verified = ("--recompute", "1", "--model", engine)
    assert clipfleet("verify", gpu, *verified, timeout_s=RUN_S)["bit_equal"] == len(ids)
    refused = subprocess.run(
        [*(sys.executable, "-m", "clipfleet", "embed", source, gpu), *shared],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    assert refused.returncode == 2
    assert "decode 'gpu', not 'exact': use --decode gpu" in refused.stderr


def test_the_recall_gate_passes_sound_pictures_and_refuses_with_the_share(
    engine_of: Engines, tmp_path: Path
) -> None:
    _, engine = engine_of("img")
    photos = draw(tmp_path / "drawn", GATE_SAMPLE) / "images"
    gate = ("--decode", "gpu", "--gate-sample", photos, "--min-overlap", "0.9")
    passed = tmp_path / "passed"
    assert clipfleet("embed", photos, passed, "--model", engine, *gate, timeout_s=RUN_S)["ok"]
    assert json.loads((passed / "dataset.json").read_text())["decode"] == "gpu"
    refused = tmp_path / "refused"
    share = r"(0\.9\d{3}|1\.0000) of their 10 nearest neighbours, below --min-overlap 1\.01: "
    with pytest.raises(UsageError, match=rf"{GATE_SAMPLE} images .* keep {share}") as error:
        embed(  # the command takes no such bound, which no overlap reaches
            photos,
            refused,
            model=engine,
            gate_sample=photos,
            min_overlap=1.01,
            settings=Settings(decode="gpu"),
        )
    print(f"\n{error.value}")
    assert not refused.exists()
