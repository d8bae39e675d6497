"""The real nvImageCodec takes what `JpegDecoder` gives it; it decodes on the CPU here.

The fake of the unit tests has no parameter that the real package does not have.
"""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.jpeg_decoder import BLANK, JpegDecoder
from tests.unit.workers import fake_nvimgcodec
from tests.unit.workers.fake_cuda import Cuda

nvimgcodec = pytest.importorskip("nvidia.nvimgcodec")


def test_the_fake_has_only_what_the_real_package_has() -> None:
    for kind in fake_nvimgcodec.BackendKind:
        assert hasattr(nvimgcodec.BackendKind, kind.name)
    nvimgcodec.Backend(nvimgcodec.BackendKind.HW_GPU_ONLY)
    constructor = nvimgcodec.Decoder.__init__.__doc__
    for parameter in ("max_num_cpu_threads", "backends", "options"):
        assert f"{parameter}: " in constructor
    decode = nvimgcodec.Decoder.decode.__doc__
    assert "params: nvidia.nvimgcodec.nvimgcodec_impl.DecodeParams" in decode
    assert "cuda_stream: typing.SupportsInt" in decode
    assert "There is None in returned list on positions which could not be decoded" in decode


class OnCpu:
    """The real image, which lies in the host's memory here."""

    def __init__(self, image: Any) -> None:
        self.image = image
        self.__cuda_array_interface__ = image.__array_interface__


class CpuDecoder:
    """The real decoder with our options, on the CPU: a GPU decoder needs a GPU."""

    def __init__(self, *, backends: Any, **options: Any) -> None:
        cpu = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
        device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
        self._decoder = nvimgcodec.Decoder(device_id=device, backends=cpu, **options)

    def decode(self, srcs: Any, **options: Any) -> list[OnCpu | None]:
        return [image and OnCpu(image) for image in self._decoder.decode(srcs, **options)]

    def __exit__(self, *error: Any) -> None:
        self._decoder.__exit__(*error)


class File:
    on_gpu = False
    address = 0

    def __init__(self, data: bytes, width: int, height: int) -> None:
        self.file, self.file_bytes = np.frombuffer(data, np.uint8), len(data)
        self.width, self.height = width, height


def test_files_become_pillows_pixels_and_what_is_none_becomes_blank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Any = ModuleType("nvidia.nvimgcodec")
    module.__dict__.update({**vars(nvimgcodec), "Decoder": CpuDecoder})
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cast("ModuleType", Cuda()))
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (20, 31, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    contents = []
    for mode, options in (("RGB", {}), ("L", {}), ("RGB", {"exif": exif})):
        content = io.BytesIO()
        image.convert(mode).save(content, "JPEG", **options)
        contents.append(content.getvalue())
    with JpegDecoder() as decoder, cuda.Stream() as stream:
        files = [File(data, 31, 20) for data in contents]
        odd = contents[0].replace(b"\xff\xc0", b"\xff\xd0\xff\xc0", 1)  # Pillow skips the marker
        bad = [File(contents[0], 31, 21), File(b"x" * 99, 31, 20), File(odd, 31, 20)]
        found = decoder.decode([*files, *bad], stream)
    for data, pixels in zip(contents, found, strict=False):
        assert pixels.on_gpu
        made = np.asarray(pixels.owner.image)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(made, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert all(pixels is BLANK for pixels in found[len(files) :])
