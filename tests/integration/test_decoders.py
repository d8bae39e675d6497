"""The decoders' room: every picture finds some, in whichever order pictures get done."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipfleet.error_codes import DECODE_FAILED, EMPTY_FILE, NOT_8_BIT
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.storage.format.results import Failure
from clipfleet.workers.images.decode import ImageLimits, decode
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.decoders import Decoders, Outcome
from clipfleet.workers.images.preprocess import preprocess, resized_rgb
from clipfleet.workers.images.region import Layout
from clipfleet.workers.images.rules import Remark
from tests.faults.pictures import picture_bytes, write_pictures
from tests.integration.support import PATIENCE_S

pytestmark = pytest.mark.timeout(3 * PATIENCE_S)

SLOTS = 12
INPUTS = Layout(resolution=8, slots=SLOTS, ring_bytes=0)
KNOWN = [100, 1_700_000_000_000_000_000, ""]  # a fingerprint
FILES = Layout(resolution=8, slots=SLOTS, ring_bytes=1 << 20, jpeg_files=True)
OWN_SIZE = Layout(resolution=8, slots=SLOTS, ring_bytes=6 * 1856)  # room for six pictures


def start(layout: Layout = INPUTS, limits: ImageLimits | None = None) -> Decoders:
    limits = limits or ImageLimits()
    return Decoders(limits, layout, count=1, attempts=1, timeout_s=PATIENCE_S)


def assert_inputs(outcome: Outcome, seed: int) -> None:
    assert isinstance(outcome, Picture)
    np.testing.assert_array_equal(
        outcome.pixels, preprocess(decode(picture_bytes(seed), "a", 1000)[0], 8)
    )


def test_pictures_whose_urls_are_slow_find_room_beside_later_ones(tmp_path: Path) -> None:
    """Room is freed in its order: the later pictures' stays taken until the slow ones are done."""
    later_done = threading.Event()

    def fetch(url: str) -> bytes:
        assert later_done.wait(PATIENCE_S)
        return picture_bytes(int(url[-1]))

    files = write_pictures(tmp_path / "in", 3 * SLOTS, {})
    items = [Item(id=str(n), uri=f"https://a/{n}") for n in range(4)] + files[4:]
    with start(limits=ImageLimits(fetch=fetch)) as decoders:

        def idle() -> None:
            (decoder,) = decoders._decoders
            if decoder.is_held and not decoder.requests:
                later_done.set()

        for number, outcome in enumerate(decoders.run(items, idle=idle)):
            assert_inputs(outcome, number)
            assert isinstance(outcome, Picture)
            outcome.free()


def test_a_caller_may_hold_a_third_of_the_slots(tmp_path: Path) -> None:
    items = write_pictures(tmp_path / "in", 4 * SLOTS, {})
    held: list[Picture] = []
    with start() as decoders:
        for number, outcome in enumerate(decoders.run(items)):
            assert isinstance(outcome, Picture)
            held.append(outcome)
            if len(held) == SLOTS // 3:
                for first, picture in enumerate(held, number + 1 - len(held)):
                    assert_inputs(picture, first)
                    picture.free()
                held.clear()


def test_many_requests_and_answers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A socket holds some hundreds of messages in each direction, however short they are."""
    (item,) = write_pictures(tmp_path / "in", 1, {})
    layout = Layout(resolution=2, slots=1024, ring_bytes=0)
    with start(layout) as decoders:
        count = 0
        for outcome in decoders.run([item] * 2500):
            assert isinstance(outcome, Picture)
            outcome.free()
            count += 1
    assert count == 2500


def test_a_picture_without_room_in_its_own_size_is_resized_by_its_decoder(tmp_path: Path) -> None:
    items = write_pictures(tmp_path / "in", SLOTS, {})
    sizes: list[tuple[int, int]] = []
    held: list[Picture] = []
    # A ring that no picture fits into, and one that has room for some.
    for layout in (Layout(resolution=8, slots=3 * SLOTS, ring_bytes=64), OWN_SIZE):
        with start(layout) as decoders:
            for number, outcome in enumerate(decoders.run(items)):
                assert isinstance(outcome, Picture)
                image, _ = decode(picture_bytes(number), "a", 1000)
                made = resized_rgb(image, outcome.width, outcome.height)
                np.testing.assert_array_equal(outcome.pixels, np.asarray(made))
                assert outcome.size == image.size
                sizes.append((outcome.width, outcome.height))
                held.append(outcome)
                if len(held) == 4:
                    for picture in held:
                        picture.free()
                    held.clear()
    assert set(sizes[:SLOTS]) == {(8, 8)}
    assert (30, 20) in sizes[SLOTS:]


def test_a_run_after_one_whose_pictures_were_not_freed_has_all_room(tmp_path: Path) -> None:
    """As an engine that failed leaves them, even those of the last batch."""
    items = write_pictures(tmp_path / "in", SLOTS, {})
    with start() as decoders:
        for _ in range(3):
            kept: Sequence[Outcome] = list(decoders.run(items[: SLOTS // 3]))
            for number, outcome in enumerate(kept):
                assert_inputs(outcome, number)
        for number, outcome in enumerate(decoders.run(items[: SLOTS // 3])):
            assert_inputs(outcome, number)


def test_a_url_without_a_body_is_an_empty_file() -> None:
    with start(limits=ImageLimits(fetch=lambda _: b"")) as decoders:
        (failure,) = decoders.run([Item(id="a", uri="https://a/b")])
    assert isinstance(failure, Failure)
    assert failure.error == EMPTY_FILE


def test_urls_that_fail_are_progress() -> None:
    reported: list[None] = []
    with start() as decoders:  # which refuses every URL
        items = [Item(id=str(n), uri=f"https://a/{n}") for n in range(40)]
        failures = list(decoders.run(items, progress=lambda: reported.append(None)))
    assert len(failures) == 40
    assert reported


def encoded(mode: str = "RGB", kind: str = "JPEG", width: int = 30, **options: Any) -> bytes:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (20, width, 3), dtype=np.uint8)).convert(mode)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def without_tables(data: bytes, first: bytes, after: bytes) -> bytes:
    """Return a JPEG file without its tables of a kind, which lie before the marker `after`."""
    return data[: data.index(first)] + data[data.index(after) :]


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return exif.tobytes()


# Each with whether the GPU decodes it.
PICTURES = {
    "colour.jpg": (encoded(), True),
    "grey.jpg": (encoded("L"), True),
    "progressive.jpg": (encoded(progressive=True), False),
    "turned.jpg": (encoded(exif=turned()), True),
    "url": (encoded(subsampling=0), True),
    "cmyk.jpg": (encoded("CMYK"), False),
    "rgb.jpg": (encoded(keep_rgb=True), False),
    "tail.jpg": (encoded() + b"more", False),
    "large.jpg": (encoded(comment=b"x" * 60_000) + b"\0" * (1 << 20) + b"\xff\xd9", False),
    "film.jpg": (without_tables(encoded(), b"\xff\xc4", b"\xff\xda"), False),
    "narrow.jpg": (encoded(width=15), False),
    "picture.png": (encoded(kind="PNG"), False),
}


def test_only_sound_jpeg_files_in_usual_colours_are_left_to_the_gpu(tmp_path: Path) -> None:
    items = [Item(id=name, uri=str(tmp_path / name)) for name in PICTURES if name != "url"]
    for name, (data, _) in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    damaged = {
        "cut.jpg": encoded()[:-100],
        "tables.jpg": without_tables(encoded(), b"\xff\xdb", b"\xff\xc0"),
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        items.append(Item(id=name, uri=str(tmp_path / name)))
    items.append(Item(id="url", uri="https://a/b"))
    limits = ImageLimits(fetch=lambda _: PICTURES["url"][0])
    with start(FILES, limits) as decoders:
        for exact in (False, True):
            for item, outcome in zip(items, decoders.run(items, exact=exact), strict=True):
                if item.id in damaged:
                    assert isinstance(outcome, Failure)
                    assert outcome.error == DECODE_FAILED
                    continue
                data, on_gpu = PICTURES[item.id]
                assert isinstance(outcome, Picture)
                assert outcome.size == Image.open(io.BytesIO(data)).size
                if on_gpu and not exact:
                    assert outcome.file.tobytes() == data
                    assert (outcome.width, outcome.height) == (30, 20)
                else:
                    assert outcome.file_bytes == 0, item.id
                    made = resized_rgb(decode(data, "a", 1000)[0], outcome.width, outcome.height)
                    np.testing.assert_array_equal(outcome.pixels, np.asarray(made))
                outcome.free()


@pytest.mark.parametrize("layout", [INPUTS, FILES], ids=["inputs", "files"])
def test_decoders_follow_the_rules_of_a_run(tmp_path: Path, layout: Layout) -> None:
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(picture_bytes(1))).save(jpeg, "JPEG", subsampling=0)
    (tmp_path / "truncated.jpg").write_bytes(jpeg.getvalue()[:-2])
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.new("RGBA", (30, 20), (0, 0, 0, 100)).save(tmp_path / "clear.png")
    names = ("truncated.jpg", "deep.png", "clear.png")
    items = [Item(id=name, uri=str(tmp_path / name)) for name in names]
    rules = PictureRules(sixteen_bit="scale", alpha="white", truncated="allow")
    with start(layout) as decoders:
        for run in (PictureRules(), rules, PictureRules()):
            found = list(decoders.run(items, rules=run))
            if run != rules:
                codes = [one.error for one in found if isinstance(one, Failure)]
                assert codes == [DECODE_FAILED, NOT_8_BIT]
            remarks = [one.remark for one in found if isinstance(one, Picture)]
            assert remarks == [Remark.WITHOUT_END, Remark.NONE, Remark.TRANSPARENT][-len(remarks) :]
            for item, one in zip(items, found, strict=True):
                if isinstance(one, Picture):
                    data = Path(item.uri or "").read_bytes()
                    image = decode(data, "a", 1000, run)[0]
                    size = one.width, one.height
                    made = resized_rgb(image, *size) if layout.has_ring else preprocess(image, 8)
                    np.testing.assert_array_equal(one.pixels, np.asarray(made))
                    one.free()


@pytest.mark.parametrize(
    ("layout", "answer"),
    [
        (OWN_SIZE, [64, 30, 20, 30, 20, 100, 0, KNOWN]),
        (FILES, [64, 30, 20, 31, 20, 100, 0, KNOWN]),
        (FILES, [64, 30, 20, 30, 20, 1 << 30, 0, KNOWN]),
        (FILES, [64, 30, 20, 30, 20, -1, 0, KNOWN]),
        (FILES, [64, 30, 20, 30, 20, 100, 4, KNOWN]),
        (FILES, [64, 30, 20, 30, 20, 100, KNOWN]),
        (FILES, [64, 30, 20, 30, 20, 20, 100, 0, KNOWN]),
        (FILES, [64, 30, 20, 30, 20, 100, 0]),
        (FILES, [64, 30, 20, 30, 20, 100, 0, [100, 1 << 63, ""]]),
        (FILES, [64, 30, 20, 30, 20, 100, 0, [True, 0, ""]]),
        (FILES, [64, 30, 20, 30, 20, 100, 0, [100, 0, "AB" * 32]]),
        (FILES, [64, 30, 20, 30, 20, 100, 0, [100, 0]]),
    ],
)
def test_a_file_that_a_region_cannot_have_is_no_answer(layout: Layout, answer: list[Any]) -> None:
    with start(layout) as decoders:
        (decoder,) = decoders._decoders
        with pytest.raises((ValueError, TypeError)):
            decoder._parsed(answer)
