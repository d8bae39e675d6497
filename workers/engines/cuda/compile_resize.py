"""`python -m clipfleet.workers.engines.cuda.compile_resize`: compile resize.cu to resize.ptx.

NVRTC compiles without a GPU. Take the package nvidia-cuda-nvrtc-cu12 12.0.140: old drivers take the
PTX of an old version, too.
"""

from __future__ import annotations

import ctypes
import hashlib
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("resize.cu")
PTX = Path(__file__).with_name("resize.ptx")
_OPTIONS = (b"--gpu-architecture=compute_52", b"--fmad=false")


def source_line() -> str:
    """Return the first line of the PTX, which names the source that it was compiled from."""
    return f"// sha256 of resize.cu: {hashlib.sha256(SOURCE.read_bytes()).hexdigest()}"


def compile_resize() -> None:
    """Write resize.ptx."""
    found = find_spec("nvidia.cuda_nvrtc")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit("NVRTC is missing: install the package nvidia-cuda-nvrtc-cu12 12.0.140")
    folder = Path(found.submodule_search_locations[0])
    nvrtc = ctypes.CDLL(str(folder / "lib" / "libnvrtc.so.12"))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source = SOURCE.read_bytes()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"resize.cu", 0, None, None))
    options = (ctypes.c_char_p * len(_OPTIONS))(*_OPTIONS)
    code = nvrtc.nvrtcCompileProgram(program, len(_OPTIONS), options)
    _check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    _check(nvrtc.nvrtcGetProgramLog(program, log))
    if code:
        raise SystemExit(log.value.decode())
    _check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)))
    ptx = ctypes.create_string_buffer(size.value)
    _check(nvrtc.nvrtcGetPTX(program, ptx))
    PTX.write_text(f"{source_line()}\n{ptx.value.decode()}")


def _check(code: int) -> None:
    if code:
        raise SystemExit(f"NVRTC failed with code {code}")


if __name__ == "__main__":
    compile_resize()
