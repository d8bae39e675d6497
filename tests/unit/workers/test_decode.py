"""Reading images: every way to fail is one error with a code and a clear message."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import socket
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from clipfleet.error_codes import ERROR_CODES, NOT_ALLOWED
from clipfleet.errors import ItemError, StorageError
from clipfleet.images import IMAGE_EXTENSIONS, IMAGE_FORMATS, PLUGIN_FORMATS
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.workers.images.decode import (
    ImageLimits,
    configure_pillow,
    decode,
    read_image,
)
from clipfleet.workers.images.read import read_bytes
from clipfleet.workers.item_errors import MAX_MESSAGE_LENGTH

MEGAPIXEL = 1 << 20


def picture(kind: str = "JPEG", size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    random_pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(random_pixels).save(file, kind, **options)
    return file.getvalue()


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG of 67 bytes that says it is 10 gigapixels large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def failure(path: Path | str, **limits: int) -> ItemError:
    """The error of the image at a path, whose message must be fit for a table."""
    with pytest.raises(ItemError) as raised:
        read_image(Item(id="x", uri=str(path)), ImageLimits(**limits))  # type: ignore[arg-type]
    message = str(raised.value)
    assert raised.value.code in ERROR_CODES
    assert 0 < len(message) <= MAX_MESSAGE_LENGTH
    assert message.isprintable()
    assert "object at 0x" not in message
    return raised.value


def test_an_image_comes_with_its_size_and_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(size=(60, 40)))
    image, size = read_image(Item(id="a", uri=str(path)))
    assert size == (60, 40)
    path.unlink()
    assert image.getpixel((59, 39)) is not None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_pixels_are_plain_pillows(tmp_path: Path, kind: str) -> None:
    data = picture(kind, (640, 480))
    ours, _ = decode(data, "a", MEGAPIXEL)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(Image.open(io.BytesIO(data))))


def test_every_format_that_is_read_is_one_of_pillows_or_of_a_plug_in() -> None:
    assert set(IMAGE_FORMATS) - set(PLUGIN_FORMATS) <= set(Image.OPEN)
    assert not {"EPS", "WMF"} & set(IMAGE_FORMATS)


def test_the_extensions_are_those_of_the_formats() -> None:
    of_formats = {suffix for suffix, name in Image.EXTENSION.items() if name in IMAGE_FORMATS}
    assert of_formats - IMAGE_EXTENSIONS == set()
    of_plugins = {".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"}
    # .mpo: a JPEG with more pictures behind it
    assert IMAGE_EXTENSIONS - of_formats - of_plugins == {".mpo"}


@pytest.mark.parametrize("name", ["a\nb.jpg", "😀 图片.jpg", "a b%20#?.jpg", "a\\xff.jpg", "http:"])
def test_unusual_names_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(picture())
    assert read_image(Item(id="x", uri=str(path)))[1] == (60, 40)
    assert read_image(Item(id="x", uri=path.as_uri()))[1] == (60, 40)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.jpg"))
    path.write_bytes(picture())
    assert read_image(Item(id="x", uri=path.as_uri()))[1] == (60, 40)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    error = failure(path)
    assert error.code == "empty_file"
    assert str(error) == f"'{path}' is empty: it has 0 bytes"


def test_a_folder_named_like_an_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    error = failure(tmp_path / "x.png")
    assert error.code == "not_a_file"
    assert str(error).endswith("x.png' cannot be read: it is a folder")


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert failure(tmp_path / "a.jpg").code == "not_a_file"


def test_a_device_is_not_read() -> None:
    assert failure("/dev/zero").code == "not_a_file"


def test_a_socket_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.jpg")
        assert failure(tmp_path / "a.jpg").code == "not_a_file"


@pytest.mark.parametrize("name", ["nothing.jpg", "file.jpg/inside.jpg", "n" * 300, "a\0b"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.jpg").write_bytes(picture())
    error = failure(f"{tmp_path}/{name}")
    assert error.code == "missing"


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert failure(tmp_path / "a.jpg").code == "missing"


def test_a_relative_path_is_refused() -> None:
    error = failure("a/b.jpg")
    assert error.code == "missing"
    assert "not an absolute path" in str(error)


@pytest.mark.parametrize("uri", ["https://example.org/a.jpg", "HTTP://example.org/a.jpg"])
def test_a_url_is_not_fetched_unless_its_host_is_allowed(uri: str) -> None:
    error = failure(uri)
    assert error.code == "not_allowed"
    assert str(error).startswith(
        f"'{uri}' is not fetched: no URL is, unless the worker's CLIPFLEET"
    )


@pytest.mark.parametrize("uri", ["abfs://b/a.jpg", "file://host/a.jpg", "ftp://host/a.jpg"])
def test_a_url_of_another_scheme_or_machine_is_refused(uri: str) -> None:
    error = failure(uri)
    assert error.code == "read_failed"
    assert str(error).startswith(f"'{uri}' cannot be read: workers read absolute paths and file://")


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, "permission_denied"),
        (errno.EPERM, "permission_denied"),
        (errno.EIO, "disk_error"),
        (errno.ESTALE, "disk_error"),
        (errno.ETIMEDOUT, "disk_error"),
        (errno.ELOOP, "read_failed"),
    ],
)
def test_each_error_of_the_file_system_has_its_code(
    monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    refuse_to_open(monkeypatch, number)
    error = failure("/some/a.jpg")
    assert error.code == code
    assert str(error).startswith("'/some/a.jpg' cannot be read: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    path.chmod(0)
    assert failure(path).code == "permission_denied"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOTCONN])
def test_trouble_that_is_not_the_items_is_worth_another_try(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_to_open(monkeypatch, number)
    with pytest.raises(StorageError, match=r"'/some/a\.jpg' cannot be read now"):
        read_bytes("/some/a.jpg", 1000, attempts=3)


def test_a_disk_that_fails_is_asked_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only a disk that fails: what is missing stays missing."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"data")
    slept_s: list[float] = []
    opened: list[str] = []
    failures = [errno.EIO, errno.ESTALE]
    really_open = os.open

    def open_(name: str, flags: int) -> int:
        opened.append(name)
        if failures:
            raise OSError(failures.pop(), "the disk is away", name)
        return really_open(name, flags)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr("clipfleet.workers.images.read.time.sleep", slept_s.append)
    assert read_bytes(str(path), 1000, attempts=3) == b"data"
    assert len(opened) == 3
    assert len(slept_s) == 2
    assert 0 <= slept_s[0] <= 0.5
    assert 0 <= slept_s[1] <= 1.0

    failures = [errno.EIO, errno.EIO]
    with pytest.raises(ItemError) as raised:
        read_bytes(str(path), 1000, attempts=2)
    assert raised.value.code == "disk_error"
    assert len(opened) == 5
    with pytest.raises(ItemError):
        read_bytes(str(tmp_path / "gone.jpg"), 1000, attempts=3)
    assert len(opened) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"<html><body>404 Not Found</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n" + b"x" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"Python is no picture",  # P is PPM's first letter
        b"BMW makes cars",
        b"\n" * 50,
        bytes(1000),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_a_file_that_is_no_image_of_a_known_format(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    error = failure(path)
    assert error.code == "unsupported_format"
    assert "JPEG, PNG, WEBP" in str(error)
    assert str(error).endswith(f"it starts with {data[:12]!r}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    data = picture(kind)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    error = failure(path)
    assert error.code == "decode_failed"
    assert f"'{path}' is damaged: " in str(error)


@pytest.mark.parametrize(("kind", "kept"), [("JPEG", 20), ("PNG", 12), ("GIF", 8), ("WEBP", 16)])
def test_a_file_that_ends_in_its_header_is_damaged_not_unknown(
    tmp_path: Path, kind: str, kept: int
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(kind)[:kept])
    assert failure(path).code == "decode_failed"


def test_a_decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bomb())
    error = failure(path)
    assert error.code == "too_large"
    assert str(error).startswith(f"'{path}' has ")
    assert "CLIPFLEET_MAX_IMAGE_PIXELS" in str(error)


def test_more_pixels_than_the_limit_are_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bomb(2000, 1000))  # decoding it would be a decode_failed
    error = failure(path, max_pixels=1_999_999)
    assert error.code == "too_large"
    assert "has 2000x1000 pixels, more than the 1999999 allowed" in str(error)


def test_a_limit_above_pillows_own_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ItemError, match="has 2400 pixels"):
        decode(picture(), "a", MEGAPIXEL)
    with warnings.catch_warnings(record=True) as seen:
        configure_pillow(ImageLimits(max_pixels=2400))
        decode(picture(), "a", 2400)
        warnings.warn_explicit("odd tag", UserWarning, "a.py", 1, module="PIL.TiffImagePlugin")
        warnings.warn_explicit(
            "ours", UserWarning, "a.py", 1, module="clipfleet.workers.images.decode"
        )
    assert [str(warning.message) for warning in seen] == ["ours"]


def test_as_many_pixels_as_the_limit_are_decoded() -> None:
    assert decode(picture(size=(60, 40)), "a", 2400)[1] == (60, 40)


def test_more_bytes_than_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    size = path.stat().st_size
    error = failure(path, max_bytes=size - 1)
    assert error.code == "too_large"
    assert f"{size} bytes, more than the {size - 1} allowed by max_image_bytes" in str(error)
    assert len(read_bytes(str(path), size)) == size


def test_a_text_is_no_image() -> None:
    with pytest.raises(ItemError, match="item 'x' has a text and no uri") as raised:
        read_image(Item(id="x", text="猫"))
    assert raised.value.code == "missing"


def test_a_long_name_is_shortened_in_its_middle() -> None:
    message = str(failure("/" + "n" * 150 + "/" + "m" * 3000 + "/end.jpg"))
    assert message.startswith("'/nnn")
    assert "mmm/end.jpg' cannot be read" in message


def test_names_are_shown_with_escapes_where_they_cannot_be_printed() -> None:
    assert r"'/no/a\nb\u202e.jpg' cannot be read" in str(failure("/no/a\nb\u202e.jpg"))
    assert "'/no/图片.jpg' cannot be read" in str(failure("/no/图片.jpg"))


@pytest.mark.filterwarnings("ignore")  # Pillow's, about the damage
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "TGA", "ICO", "PPM"])
def test_damaged_files_raise_nothing_but_item_errors(kind: str) -> None:
    chance = random.Random(kind)
    whole = picture(kind, (16, 12))
    codes = []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 20))):
            data[chance.randrange(min(len(data), 100))] = chance.randrange(256)
        del data[chance.choice((len(data), chance.randrange(1, len(data)))) :]
        try:
            decode(bytes(data), "a", MEGAPIXEL)
        except ItemError as error:
            codes.append(error.code)
    assert codes
    assert set(codes) <= {"decode_failed", "unsupported_format", "too_large"}


def test_an_image_below_no_input_root_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "in" / "a.jpg", tmp_path / "b.jpg"):
        path.write_bytes(picture())
    (tmp_path / "in" / "link.jpg").symlink_to("../b.jpg")
    limits = ImageLimits.from_settings(Settings(input_roots=(f"{tmp_path}/in/../in",)))
    assert read_image(Item(id="a", uri=f"{tmp_path}/in/a.jpg"), limits)[1] == (60, 40)
    for name in ("b.jpg", "gone.jpg", "in/../b.jpg", "in/link.jpg"):
        with pytest.raises(ItemError) as raised:
            read_image(Item(id="b", uri=f"{tmp_path}/{name}"), limits)
        assert raised.value.code == NOT_ALLOWED
        assert f"{name}' cannot be read: it lies below none of this" in str(raised.value)
        assert str(raised.value).endswith("start the worker with an --input-root that has it")
    for uri in ("abfs://store/a.jpg", "file://host/a.jpg"):
        with pytest.raises(ItemError, match="workers read absolute paths and file://"):
            read_image(Item(id="c", uri=uri), limits)


@pytest.mark.filterwarnings("ignore")
def test_no_file_starts_another_program(
    monkeypatch: pytest.MonkeyPatch, refused_calls: list[str]
) -> None:
    postscript = io.BytesIO()
    Image.new("RGB", (8, 8)).save(postscript, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "true")  # as if Ghostscript were there
    with pytest.raises(AssertionError, match=r"subprocess\.Popen"):  # Pillow by itself would
        Image.open(io.BytesIO(postscript.getvalue())).load()
    refused_calls.clear()
    hidden = picture("TIFF") + postscript.getvalue()
    for data in (postscript.getvalue(), hidden, *(picture(kind) for kind in ("ICO", "TGA", "PCX"))):
        with contextlib.suppress(ItemError):
            decode(data, "a", MEGAPIXEL)
    assert refused_calls == []
    with pytest.raises(ItemError, match="is no image of a format that is read"):
        decode(postscript.getvalue(), "a", MEGAPIXEL)
