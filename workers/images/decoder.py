"""A decoder, as the engine's process sees it: a process, a socket to it, and its region."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import ERROR_CODES
from clipfleet.errors import ItemError, StorageError
from clipfleet.images import DEFAULT_RULES, PictureRules
from clipfleet.items import Fingerprint
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.images.read import ObjectBytes
from clipfleet.workers.images.region import MAX_OWN_SIDE, Layout, Region
from clipfleet.workers.images.rules import Remark
from clipfleet.workers.item_errors import item_error, shown

log = logging.getLogger(__name__)

_MODULE = "clipfleet.workers.images.decoder_process"
_END_S = 5.0
_ANSWERS_BYTES = 1 << 16  # that are received at once; no line is longer
_READY = b"ready"
_MAX_REQUESTED_BYTES = 1 << 16  # that are not answered
_MAX_WITH_BYTES = 4  # requests that come with a picture's bytes

_SHA256 = re.compile("[0-9a-f]{64}")
_UNKNOWN = Fingerprint()

# A decoder's memory limit: above the measured need of any sound image of the allowed pixels (JPEG
# 2000 needs most, some 40 bytes a pixel), and low enough that a bomb fails before the machine.
_MEMORY_A_PIXEL = 48  # bytes
_MEMORY_BESIDES = 1 << 30  # bytes

# What a decoder has of this process's environment: neither Redis's URL nor a key nor a password.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
_KEPT_PREFIX = "PYTHON"


class DecoderLostError(Exception):
    """A decoder died, or exceeded its time; str(error) continues a sentence that begins with it."""

    def __init__(self, reason: str, *, timed_out: bool = False, killed: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self.killed = killed


@dataclass(kw_only=True, slots=True, eq=False)
class Request:
    """A picture to decode: a file, or the bytes that were fetched from a URL.

    `number` is its position in its run. `losses` is how often it ended its decoder. If `exact`, the
    decoder decodes JPEG files too. If `sha256`, the fingerprint has that of the bytes.
    """

    number: int
    uri: str
    rules: PictureRules = DEFAULT_RULES
    exact: bool = False
    sha256: bool = False
    data: bytes | None = None
    losses: int = 0
    not_before_s: float = 0.0
    line_bytes: int = 0


class Picture:
    """A picture in a decoder's region: decoded, or a JPEG file of `file_bytes` bytes.

    `width` and `height` are those of its pixels, and `size` is the (width, height) of the image.
    """

    __slots__ = (
        *("_decoder", "_start", "file_bytes", "fingerprint", "height", "is_free", "remark", "size"),
        "width",
    )
    on_gpu = False

    def __init__(
        self,
        decoder: Decoder,
        start: int,
        width: int,
        height: int,
        size: tuple[int, int],
        file_bytes: int = 0,
        remark: Remark = Remark.NONE,
        fingerprint: Fingerprint = _UNKNOWN,
    ) -> None:
        self._decoder = decoder
        self._start = start
        self.width = width
        self.height = height
        self.size = size
        self.file_bytes = file_bytes  # 0: decoded
        self.remark = remark
        self.fingerprint = fingerprint
        self.is_free = False

    @property
    def pixels(self) -> NDArray[Any]:
        """The pixels, uint8 (height, width, 3); or an engine's input, float32 (3, S, S)."""
        region = self._decoder.region
        if region.layout.has_ring:
            return region.array(self._start, (self.height, self.width, 3), "uint8")
        return region.array(self._start, (3, self.height, self.width), "float32")

    @property
    def file(self) -> NDArray[np.uint8]:
        """The JPEG file, uint8 (file_bytes,)."""
        return self._decoder.region.array(self._start, (self.file_bytes,), "uint8")

    @property
    def address(self) -> int:
        """The address of the pixels, or of the file."""
        return self._decoder.region.address + self._start

    def free(self) -> None:
        """Let the decoder use the memory again; once."""
        self.is_free = True
        self._decoder.free_room()


class Decoder:
    """A running decoder process."""

    def __init__(
        self,
        limits: ImageLimits,
        layout: Layout,
        *,
        pin: Callable[[int, int], Callable[[], None]] | None = None,
    ) -> None:
        """Start the process; for `pin`, see `Decoders`.

        Raises:
            OSError: No process starts.
        """
        self.started = False  # it has said that it is ready
        self.since_s = time.monotonic()  # the start, or when its first request became the first
        self.requests: deque[Request] = deque()  # not answered yet
        self._layout = layout
        self.region = Region(layout)
        if pin is not None:
            unpin = pin(self.region.address, layout.size_bytes)
            # A picture keeps its region: so the GPU copies no more from it.
            weakref.finalize(self.region, unpin).atexit = False
        self._held: deque[Picture] = deque()  # not freed, or behind one that is not
        self._freed = 0  # pictures; a decoder that was taken over may change the region's count
        self._requested_bytes = 0
        self._work_ns = (0, 0)  # as in the region at the last `take_work`
        self._unsent = b""
        self._files: list[int] = []  # that go with the unsent requests
        self._received = b""
        self.socket, theirs = socket.socketpair()
        memory = _MEMORY_BESIDES + limits.max_bytes + _MEMORY_A_PIXEL * limits.max_pixels
        given = {
            "limits": {
                "max_pixels": limits.max_pixels,
                "max_bytes": limits.max_bytes,
                "input_roots": limits.input_roots,
                "attempts": limits.attempts,
            },
            "layout": asdict(layout),
            "memory_bytes": memory,
        }
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", _MODULE),
                    *(str(os.getpid()), str(self.region.file), json.dumps(given)),
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=[self.region.file],
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()
            self.region.close_file()

    @property
    def is_held(self) -> bool:
        """Whether some of its pictures are not free."""
        return bool(self._held)

    @property
    def room(self) -> int:
        """How many more requests the region has room for."""
        return self._layout.slots - len(self.requests) - len(self._held)

    def take_work(self) -> tuple[float, float]:
        """Return the seconds of reading and of decoding since the last call.

        A picture may have taken control of the process: so they are any numbers from 0.
        """
        (read_before, all_before), self._work_ns = self._work_ns, self.region.work_ns
        read_ns, all_ns = self._work_ns
        read_ns, all_ns = max(0, read_ns - read_before), max(0, all_ns - all_before)
        return read_ns / 1e9, max(0, all_ns - read_ns) / 1e9

    def takes(self, request: Request) -> bool:
        """Return whether the decoder can have a request now."""
        if self._requested_bytes > _MAX_REQUESTED_BYTES:
            return False
        if request.data is not None and len(self.requests) >= _MAX_WITH_BYTES:
            return False
        return self.room > 0

    def add(self, request: Request) -> None:
        """Give the decoder a request, which `flush` sends.

        Raises:
            StorageError: This process has no file handle or memory left for the picture's bytes.
        """
        message: dict[str, Any] = {"uri": request.uri}
        if request.exact:
            message["exact"] = True
        if request.rules != DEFAULT_RULES:
            message["rules"] = asdict(request.rules)
        if request.sha256:
            message["sha256"] = True
        if request.data is not None:
            message["bytes"] = len(request.data)
            if isinstance(request.data, ObjectBytes):
                message["mtime_ns"] = request.data.mtime_ns
            self._files.append(_file_of(request))
        if not self.requests:
            self.since_s = time.monotonic()
        self.requests.append(request)
        line = json.dumps(message).encode() + b"\n"
        request.line_bytes = len(line)
        self._requested_bytes += len(line)
        self._unsent += line

    def flush(self) -> None:
        """Send the requests that were added, as far as the socket takes them.

        It never waits: the decoder may wait until its answers are received. `answers` tells if the
        process has ended.
        """
        if not self._unsent:
            return
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if self._files:
                sent = socket.send_fds(self.socket, [self._unsent], self._files, flags)
            else:
                sent = self.socket.send(self._unsent, flags)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("decoder %d takes no request: %s", self._process.pid, error)
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        self._close_files()

    def answers(self) -> Iterator[tuple[Request, Picture | ItemError | StorageError]]:
        """Receive, and yield each request that is answered, with its answer.

        Raises:
            DecoderLostError: The process ended, or its answer is none.
        """
        try:
            received = self.socket.recv(_ANSWERS_BYTES)
        except OSError:
            received = b""
        if not received:
            raise self._lost()
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            if not self.started and line == _READY:
                self.started = True
                self.since_s = time.monotonic()
                continue
            try:
                answer = self._parsed(json.loads(line))
                request = self.requests.popleft()
                self._requested_bytes -= request.line_bytes
            # Any content: a picture may have taken control of the process.
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise DecoderLostError("gave an answer that is none") from error
            self.since_s = time.monotonic()
            if isinstance(answer, Picture):
                self._held.append(answer)
            yield request, answer
        if len(self._received) > _ANSWERS_BYTES:
            raise DecoderLostError("gave an answer that is none")

    def _parsed(self, answer: Any) -> Picture | ItemError | StorageError:
        if len(answer) == 2:
            code, message = answer
            if not isinstance(message, str) or code not in ("", *ERROR_CODES):
                raise ValueError("its answer is no class of error with a message")
            return item_error(code, message) if code else StorageError(message)
        *numbers, last = answer
        fingerprint = _fingerprint(last)
        start, width, height, *size, file_bytes, remark = numbers
        if len(size) != 2:
            raise ValueError(f"an answer of {len(answer)} values is no picture")
        for number in (start, width, height, *size):
            if type(number) is not int or not 0 < number < 1 << 62:
                raise ValueError(f"{number!r} is no offset, width or height")
        if type(file_bytes) is not int or not 0 <= file_bytes < 1 << 62:
            raise ValueError(f"{file_bytes!r} is no number of bytes")
        if max(size) >= 1 << 31:  # int32 in parts
            raise ValueError(f"{size} is no size of an image")
        side = self._layout.resolution
        is_own_size = self._layout.has_ring and max(width, height) <= MAX_OWN_SIDE
        if not is_own_size and not width == height == side:
            raise ValueError(f"{width}x{height} is no size of a picture in this region")
        if file_bytes and not (self._layout.jpeg_files and size == [width, height]):
            raise ValueError("a file is no picture in this region")
        pixel_bytes = 3 * width * height * (1 if self._layout.has_ring else 4)
        self.region.check(start, file_bytes or pixel_bytes)
        own_size = (size[0], size[1])
        return Picture(
            self, start, width, height, own_size, file_bytes, Remark(remark), fingerprint
        )

    def free_room(self) -> None:
        """Free the room of the oldest pictures, as the region is used in order."""
        while self._held and self._held[0].is_free:
            self._held.popleft()
            self._freed += 1
        self.region.freed = self._freed

    def _lost(self) -> DecoderLostError:
        """Wait for a process that closed its socket, and return how it ended."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return DecoderLostError("did not answer")
        if code < 0:
            killed = code == -signal.SIGKILL
            return DecoderLostError(f"died of {_signal_name(-code)}", killed=killed)
        return DecoderLostError(f"ended with exit code {code}")

    def close(self) -> list[Request]:
        """End the process, and return what it did not answer; its pictures stay."""
        self._process.kill()
        self._process.wait()
        self.socket.close()
        self._close_files()
        self._held.clear()  # they refer to this object, which has the memory
        return list(self.requests)

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _fingerprint(given: Any) -> Fingerprint:
    size_bytes, mtime_ns, sha256 = given
    for number in (size_bytes, mtime_ns):
        if type(number) is not int or not -(1 << 63) <= number < 1 << 63:  # int64 in parts
            raise ValueError(f"{number!r} is no size or time")
    if sha256 and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ValueError(f"{sha256!r:.100} is no SHA-256")
    return Fingerprint(size_bytes, mtime_ns, sha256)


def _file_of(request: Request) -> int:
    """Return an open file in memory with a request's bytes."""
    try:
        with open(os.memfd_create("clipfleet-picture"), "wb") as file:
            file.write(request.data or b"")
            file.seek(0)
            return os.dup(file.fileno())
    except OSError as error:
        raise StorageError(f"{shown(request.uri)} cannot be decoded now: {error}") from error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIX)
    }
    return {**kept, "OPENBLAS_NUM_THREADS": "1"}  # each thread's stack counts as memory
