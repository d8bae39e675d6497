"""TensorRT engines on a real GPU: the same bits however they are run, and every refusal.

TEST_MODEL is the prefix of the ONNX engines (default: the demo's), TEST_MODEL_DYNAMIC that of
ones for any batch size (default: none, and those tests are skipped). TEST_ENGINES is a folder of
engines to reuse, and to build into (default: a temporary one). TEST_GPU_ALONE=1 says that nothing
else runs on the GPU, so that its memory may be measured and used up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.errors import (
    EngineDamagedError,
    EngineError,
    EngineUnverifiedError,
    EngineVersionError,
    GpuMemoryError,
)
from clipfleet.items import Item
from clipfleet.model_card import ModelCard, card_path, load_card, write_card
from clipfleet.settings import Settings
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import l2_normalise
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.resize import PictureBuffer, Resizer, resizes_exactly
from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine, TensorRTModel
from clipfleet.workers.images.decode import read_image
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.preprocess import preprocess, preprocess_batch
from clipfleet.workers.images.region import MAX_OWN_SIDE

pytest.importorskip("tensorrt")
pytest.importorskip("cuda.bindings.runtime")

ROOT = Path(__file__).parents[2]
PREFIX = Path(os.environ.get("TEST_MODEL", ROOT / "examples/demo/model/demo"))
DYNAMIC = os.environ.get("TEST_MODEL_DYNAMIC")
ALONE = os.environ.get("TEST_GPU_ALONE") == "1"
MAX_BATCH = 8
ITEMS = 61  # divisible by no batch size
MANY_ITEMS = 100_000
VOCABULARY_SIZE = 21128
MIB = 1 << 20
TOWERS = ("img", "txt")

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

Made = tuple[ModelCard, Path]
Engines = Callable[..., Made]


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """A function that returns a tower's float16 engine, built at its first use."""
    given = os.environ.get("TEST_ENGINES")
    folder = Path(given) if given else tmp_path_factory.mktemp("engines")

    def made(tower: str, *, dynamic: bool = False) -> Made:
        if dynamic and DYNAMIC is None:
            pytest.skip("no TEST_MODEL_DYNAMIC")
        prefix = Path(DYNAMIC) if dynamic and DYNAMIC else PREFIX
        kind = f"dynamic{MAX_BATCH}" if dynamic else "batch1"
        engine = folder / f"{prefix.name}.{kind}.{tower}.fp16.trt"
        if not engine.is_file():
            from clipfleet.convert.tensorrt.build import build_engine

            batch: dict[str, Any] = (
                {"batch_size": None, "max_batch": MAX_BATCH} if dynamic else {"batch_size": 1}
            )
            build_engine(f"{prefix}.{tower}.fp16.onnx", engine=engine, **batch)
        return load_card(engine)

    return made


def inputs(card: ModelCard, count: int = ITEMS) -> NDArray[Any]:
    random = np.random.default_rng(0)
    shape = (count, *(size or 1 for size in card.input.shape[1:]))
    if card.tower == "img":
        return random.normal(size=shape).astype(np.float32)
    ids = random.integers(1, VOCABULARY_SIZE, size=shape)
    lengths = random.integers(3, card.context_length + 1, size=count)
    return np.where(np.arange(card.context_length) < lengths[:, None], ids, 0)


def run(made: Made, given: NDArray[Any], **options: Any) -> NDArray[np.float32]:
    with TensorRTEngine(*made, **options) as engine:
        return engine(given)


class OnGpu:
    """An array on the GPU that records its address."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.buffer = cuda.DeviceBuffer(array.nbytes)
        kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda.call("cudaMemcpy", self.buffer.handle, array.ctypes.data, array.nbytes, kind)
        cuda.synchronize()
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.buffer.handle, False),
            "strides": None,
            "version": 3,
        }


@pytest.mark.parametrize("tower", TOWERS)
def test_a_graph_computes_the_same_bits_as_single_kernels(engine_of: Engines, tower: str) -> None:
    made = engine_of(tower)
    given = inputs(made[0])
    with TensorRTEngine(*made, contexts=1) as engine:
        assert engine.uses_graphs
        with_graph = engine(given)
    assert np.array_equal(with_graph, run(made, given, contexts=1, cuda_graphs=False))
    assert np.isfinite(with_graph).all()
    assert len(np.unique(with_graph, axis=0)) == ITEMS


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("tower", TOWERS)
def test_several_contexts_compute_the_same_bits_as_one(
    engine_of: Engines, tower: str, cuda_graphs: bool, dynamic: bool
) -> None:
    made = engine_of(tower, dynamic=dynamic)
    given = inputs(made[0])
    one = run(made, given, contexts=1, cuda_graphs=cuda_graphs)
    for contexts in (2, 4, 8):
        several = run(made, given, contexts=contexts, cuda_graphs=cuda_graphs)
        assert np.array_equal(several, one)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_dynamic_engine_agrees_with_a_static_one(engine_of: Engines, tower: str) -> None:
    dynamic, static = engine_of(tower, dynamic=True), engine_of(tower)
    given = inputs(static[0])
    expected = l2_normalise(run(static, given, contexts=1))
    with TensorRTEngine(*dynamic, contexts=2) as engine:
        for count in (1, 2, 3, MAX_BATCH, MAX_BATCH + 5, ITEMS):
            cosines = np.einsum("nd,nd->n", l2_normalise(engine(given[:count])), expected[:count])
            print(f"\n{tower} {count}: worst cosine {cosines.min():.8f}")
            assert cosines.min() >= 0.99999


class HostPicture:
    """A picture in pinned memory, as a decoder's region has it."""

    on_gpu = False
    file_bytes = 0

    def __init__(self, image: Image.Image) -> None:
        self.width, self.height = image.size
        self._memory = cuda.PinnedBuffer((self.height, self.width, 3), "uint8")
        self._memory.array[:] = np.asarray(image)
        self.address = self._memory.handle

    def free(self) -> None:
        self._memory.close()


def random_images(count: int, side: int) -> list[Image.Image]:
    """Return noise of many sizes, the odd ones first."""
    random = np.random.default_rng(side)
    sizes = [(side, side), (1, 1), (5000, 3), (3, 5000), (side, 2 * side), (1, MAX_OWN_SIDE)]
    while len(sizes) < count:
        width, height = (int(size) for size in np.exp(random.uniform(0, 7.3, 2)))
        sizes.append((width, height))
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes[:count]
    ]


@pytest.mark.parametrize("side", [224, 336])
def test_the_kernels_compute_pillows_pixels_to_the_bit(side: int) -> None:
    assert resizes_exactly(side)
    count = 32
    with ExitStack() as stack:
        resizer = stack.enter_context(closing(Resizer(side)))
        buffer = stack.enter_context(closing(PictureBuffer(resizer, count)))
        stream = stack.enter_context(cuda.Stream())
        made = stack.enter_context(cuda.PinnedBuffer((count, 3, side, side), "float32"))
        given = stack.enter_context(cuda.DeviceBuffer(made.size_bytes))
        images = random_images(6 * count, side)
        for start in range(0, len(images), count):
            batch = images[start : start + count]
            pictures = [HostPicture(image) for image in batch]
            buffer.copy(pictures, given.handle, stream)
            cuda.copy_async(made.handle, given.handle, made.size_bytes, "DeviceToHost", stream)
            stream.synchronize()
            for image, pixels in zip(batch, made.array, strict=True):
                assert np.array_equal(pixels, preprocess(image, side)), image.size
            for picture in pictures:
                picture.free()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("contexts", [1, 4])
def test_features_of_pictures_are_those_of_their_inputs_to_the_bit(
    engine_of: Engines, contexts: int, dynamic: bool
) -> None:
    made = engine_of("img", dynamic=dynamic)
    side = made[0].input.shape[-1] or 0
    images = random_images(ITEMS, side)
    features = np.empty((ITEMS, made[0].dim), np.float32)
    with TensorRTEngine(*made, contexts=contexts) as engine:
        assert engine.takes_pictures
        expected = engine(preprocess_batch(images, side))
        for count in (ITEMS, 1, MAX_BATCH):
            pictures = cast("list[Picture]", [HostPicture(image) for image in images[:count]])
            assert engine.run_pictures(pictures, features, lambda _: None) == []
            # Of a dynamic engine's batch sizes, each may round in its own way.
            if count == ITEMS or not dynamic:
                assert np.array_equal(features[:count], expected[:count])


def test_files_become_the_vectors_of_their_pixels_to_the_bit(
    engine_of: Engines, tmp_path: Path
) -> None:
    """Through decoder processes: JPEG and PNG, colour, grey and palette, and a damaged file."""
    card, path = engine_of("img")
    side = card.input.shape[-1] or 0
    items = []
    for number, image in enumerate(random_images(200, side)[6:]):
        mode, kind = [("RGB", "jpg"), ("L", "jpg"), ("RGB", "png"), ("P", "png")][number % 4]
        file = tmp_path / f"{number}.{kind}"
        image.convert(mode).save(file)
        items.append(Item(id=file.name, uri=str(file)))
    (tmp_path / "damaged.jpg").write_bytes(Path(str(items[0].uri)).read_bytes()[:300])
    damaged = Item(id="damaged", uri=str(tmp_path / "damaged.jpg"))
    settings = Settings(model=str(card_path(path)), tower="img", decoders=4)
    with Embedder.from_settings(settings) as embedder:
        embedded = embedder.embed([*items[:90], damaged, *items[90:]])
        assert [failure.item for failure in embedded.failures] == [damaged]
        pixels = preprocess_batch([read_image(item)[0] for item in items], side)
        expected = l2_normalise(embedder.engine(pixels))
        assert np.array_equal(embedded.vectors, expected)
        assert embedded.sizes == [read_image(item)[1] for item in items]


@pytest.mark.parametrize("contexts", [1, 4])
def test_a_stream_of_ids_has_the_features_of_one_call_to_the_bit(
    engine_of: Engines, contexts: int
) -> None:
    made = engine_of("txt")
    given = inputs(made[0])
    features = np.empty((ITEMS, made[0].dim), np.float32)
    with TensorRTEngine(*made, contexts=contexts) as engine:
        expected = engine(given)
        for start in (0, 1, 32):  # where the second array starts
            arrays = np.split(given, [start])
            assert engine.run_stream(arrays, features, lambda _: None) == ITEMS
            assert np.array_equal(features, expected)


@pytest.mark.parametrize("tower", TOWERS)
def test_the_number_of_contexts_is_measured(engine_of: Engines, tower: str) -> None:
    made = engine_of(tower)
    given = inputs(made[0], 512)
    speeds: dict[int, float] = {}
    for contexts in (1, 2, 4, 8, 0):
        with TensorRTEngine(*made, contexts=contexts) as engine:
            engine(given)
            started_s = time.perf_counter()
            for _ in range(4):
                engine(given)
            speeds[contexts] = 4 * len(given) / (time.perf_counter() - started_s)
            chosen, handed_over = engine.contexts, engine.max_batch
    print(f"\n{tower}: items/s by contexts { ({k: round(v) for k, v in speeds.items()}) }")
    print(f"{tower}: chosen {chosen}, handed over at once {handed_over}")
    assert chosen in {1, 2, 4, 8}
    assert speeds[0] >= 0.8 * speeds[1]


@pytest.mark.parametrize("tower", TOWERS)
def test_memory_does_not_grow_over_100_000_items(engine_of: Engines, tower: str) -> None:
    made = engine_of(tower)
    given = inputs(made[0], 1000)
    with TensorRTEngine(*made) as engine:
        first = engine(given)
        engine(given)
        free_before, rss_before = cuda.memory_info()[0], resident_bytes()
        for _ in range(MANY_ITEMS // len(given)):
            last = engine(given)
        grown = free_before - cuda.memory_info()[0], resident_bytes() - rss_before
    print(f"\n{tower}: grown by {grown[0] / MIB:.1f} MiB on the GPU, {grown[1] / MIB:.1f} of RSS")
    assert np.array_equal(last, first)
    assert grown[1] < 16 * MIB
    if ALONE:  # it is the whole GPU's free memory, of which others take
        assert grown[0] < 16 * MIB


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not ALONE, reason="free memory is the whole GPU's: needs it to itself")
def test_closing_gives_the_memory_back(engine_of: Engines) -> None:
    made = engine_of("img")
    with TensorRTEngine(*made, contexts=4) as engine:  # CUDA's own, and the kernels, stay
        engine(inputs(made[0]))
        loaded = cuda.memory_info()[0]
    closed = cuda.memory_info()[0]
    for _ in range(5):
        run(made, inputs(made[0]), contexts=4)
    assert closed > loaded
    assert cuda.memory_info()[0] >= closed - 4 * MIB


def test_two_engines_run_in_one_process(engine_of: Engines) -> None:
    image, text = engine_of("img"), engine_of("txt")
    expected = [run(made, inputs(made[0]), contexts=1) for made in (image, text)]
    with TensorRTEngine(*image, contexts=2) as first:
        with TensorRTEngine(*text, contexts=2) as second:
            assert np.array_equal(first(inputs(image[0])), expected[0])
            assert np.array_equal(second(inputs(text[0])), expected[1])
        assert np.array_equal(first(inputs(image[0])), expected[0])


def test_wrong_inputs_are_refused_and_the_engine_lives_on(engine_of: Engines) -> None:
    made = engine_of("img")
    given = inputs(made[0])
    with TensorRTEngine(*made, contexts=2) as engine:
        expected = engine(given)
        for wrong in (given[:, :2], given[0], given.astype(np.uint8), given.astype(np.int64)):
            with pytest.raises(EngineError, match="takes float32"):
                engine(wrong)
        assert engine(given[:0]).shape == (0, made[0].dim)
        assert np.array_equal(engine(given.astype(np.float64)), expected)


def test_nan_stays_with_its_item(engine_of: Engines) -> None:
    made = engine_of("img")
    given = inputs(made[0])
    with TensorRTEngine(*made, contexts=2) as engine:
        expected = engine(given)
        given[7] = np.nan
        features = engine(given)
        assert np.isnan(features[7]).any()
        others = np.arange(ITEMS) != 7
        assert np.array_equal(features[others], expected[others])


def copied(made: Made, folder: Path, change: Callable[[bytes], bytes] = bytes) -> Made:
    """Return a copy of an engine with its card, its bytes changed."""
    card, path = made
    copy = folder / path.name
    copy.write_bytes(change(path.read_bytes()))
    write_card(replace(card, engine=copy.name), folder / f"{copy.name}.card.json")
    return load_card(copy)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], flip])
def test_a_file_that_is_not_its_cards_is_refused(
    engine_of: Engines, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(EngineDamagedError, match="has SHA-256"):
        TensorRTEngine(*copied(engine_of("txt"), tmp_path, change))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.001])
def test_a_truncated_file_without_a_card_is_an_error_and_no_crash(
    engine_of: Engines, tmp_path: Path, share: float
) -> None:
    _, path = engine_of("txt")
    data = path.read_bytes()
    cut = tmp_path / "cut.trt"
    cut.write_bytes(data[: int(len(data) * share)])
    script = (
        "import sys\n"
        "from clipfleet.errors import EngineError\n"
        "from clipfleet.workers.engines.tensorrt.engine import TensorRTModel\n"
        "try: TensorRTModel(sys.argv[1], allow_unverified=True)\n"
        "except EngineError as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", script, str(cut)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"\n{share}: {done.returncode} {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("EngineDamagedError")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"runtime_version": "99.1.0"}, EngineVersionError),
        ({"gpu": "Tesla T4"}, EngineVersionError),
        ({"parity": None}, EngineUnverifiedError),
    ],
)
def test_an_engine_for_elsewhere_or_without_proof_is_refused(
    engine_of: Engines, change: dict[str, Any], error: type[EngineError]
) -> None:
    card, path = engine_of("txt")
    with pytest.raises(error, match="clipfleet") as caught:
        TensorRTEngine(replace(card, **change), path)
    print(f"\n{caught.value}")


def test_an_unproven_engine_runs_where_that_is_allowed(engine_of: Engines) -> None:
    card, path = engine_of("txt")
    given = inputs(card)
    unproven = replace(card, parity=None)
    features = run((unproven, path), given, contexts=1, allow_unverified=True)
    assert np.array_equal(features, run((card, path), given, contexts=1))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("tower", TOWERS)
def test_the_guides_model_takes_arrays_of_the_host_and_of_the_gpu(
    engine_of: Engines, tower: str, dynamic: bool
) -> None:
    card, path = engine_of(tower, dynamic=dynamic)
    given = np.ascontiguousarray(inputs(card), dtype=card.input.dtype)
    expected = run((card, path), given, contexts=1)
    with TensorRTModel(path) as model:
        for count in (ITEMS, 1):
            for array in (given[:count], OnGpu(given[:count])):
                features = model(inputs={card.input.name: array})[card.output.name]
                assert np.array_equal(features, expected[:count])


def test_the_guides_model_takes_an_engine_without_a_card(
    engine_of: Engines, tmp_path: Path
) -> None:
    card, path = engine_of("img")
    bare = tmp_path / "bare.trt"
    shutil.copyfile(path, bare)
    with pytest.raises(EngineUnverifiedError, match="has no card"):
        TensorRTModel(bare)
    with TensorRTModel(bare, allow_unverified=True) as model:
        features = model(inputs={"image": inputs(card)})["unnorm_image_features"]
    assert np.array_equal(features, run((card, path), inputs(card), contexts=1))


def test_a_full_gpu_is_an_error_that_passes(engine_of: Engines) -> None:
    if not ALONE:
        pytest.skip("TEST_GPU_ALONE is not 1: others would get no memory")
    made = engine_of("img")
    given = inputs(made[0])
    expected = run(made, given, contexts=1)
    with ExitStack() as filling:
        for size in (1024 * MIB, 64 * MIB, 2 * MIB):
            with suppress(GpuMemoryError):
                while True:
                    filling.enter_context(cuda.DeviceBuffer(size))
        with pytest.raises(GpuMemoryError) as caught:
            run(made, given, contexts=8)
        print(f"\n{caught.value}")
    assert np.array_equal(run(made, given, contexts=1), expected)
