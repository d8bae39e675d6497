"""The decoder in a process of its own, and pictures that do it harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clipfleet.error_codes import DECODE_FAILED, DECODE_TIMEOUT, DECODER_CRASHED, TOO_LARGE
from clipfleet.errors import ItemError, StorageError
from clipfleet.workers.images import isolated_decoder
from clipfleet.workers.images.decode import ImageLimits, decode
from clipfleet.workers.images.isolated_decoder import IsolatedDecoder
from clipfleet.workers.images.preprocess import preprocess
from tests.faults.pictures import held_processes, picture_bytes, poisoned_environment
from tests.integration.support import PATIENCE_S, wait_until

ATTEMPTS = 3
TIMEOUT_S = 1.0


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in poisoned_environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    limits = ImageLimits(max_pixels=1000)
    with IsolatedDecoder(limits, attempts=ATTEMPTS, timeout_s=TIMEOUT_S, pause_s=0.01) as opened:
        yield opened


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were started."""
    pids: list[int] = []
    start = subprocess.Popen.__init__

    def counted(self: subprocess.Popen[bytes], *args: object, **keywords: object) -> None:
        start(self, *args, **keywords)  # type: ignore[call-overload]
        pids.append(self.pid)

    monkeypatch.setattr(subprocess.Popen, "__init__", counted)
    return pids


def new_pixels() -> np.ndarray:
    return np.zeros((3, 16, 16), dtype=np.float32)


def test_its_pixels_are_those_of_this_process(decoder: IsolatedDecoder) -> None:
    for seed in range(5):
        pixels = new_pixels()
        assert decoder.decode_into(picture_bytes(seed), "a", pixels) == (30, 20)
        image, _ = decode(picture_bytes(seed), "a", 1000)
        np.testing.assert_array_equal(pixels, preprocess(image, 16))


@pytest.mark.parametrize(
    ("poison", "code", "message"),
    [
        ("ABORT", DECODER_CRASHED, "'a.png' ended its decoder 3 times, .* died of SIGABRT"),
        ("SIGKILL", DECODER_CRASHED, "'a.png' ended its decoder 3 times, .* died of SIGKILL"),
        ("HANG", DECODE_TIMEOUT, "'a.png' held its decoder 3 times, .* took more than 1 s"),
    ],
)
def test_a_picture_that_harms_its_decoder_each_time_is_an_error_and_the_next_is_not(
    decoder: IsolatedDecoder, starts: list[int], poison: str, code: str, message: str
) -> None:
    with pytest.raises(ItemError, match=message) as caught:
        decoder.decode_into(picture_bytes(1, poison), "a.png", new_pixels())
    assert caught.value.code == code
    assert len(starts) == ATTEMPTS
    assert decoder.decode_into(picture_bytes(2), "b.png", new_pixels()) == (30, 20)
    assert len(starts) == ATTEMPTS + 1


def test_what_takes_more_memory_than_allowed_is_an_error_of_that_picture(
    decoder: IsolatedDecoder, starts: list[int]
) -> None:
    with pytest.raises(ItemError, match="'a' takes more memory than there is") as caught:
        decoder.decode_into(picture_bytes(1, "MEMORY"), "a", new_pixels())
    assert caught.value.code == DECODE_FAILED
    assert len(starts) == 1  # Python saw it: nothing died


def test_an_image_that_is_wrong_says_so_as_in_this_process(decoder: IsolatedDecoder) -> None:
    big = ImageLimits(max_pixels=10)
    with (
        IsolatedDecoder(big, attempts=1, timeout_s=PATIENCE_S) as strict,
        pytest.raises(ItemError, match="has 600 pixels, more than the 10 allowed") as caught,
    ):
        strict.decode_into(picture_bytes(1), "a", new_pixels())
    assert caught.value.code == TOO_LARGE
    with pytest.raises(ItemError, match="is damaged"):
        decoder.decode_into(picture_bytes(1)[:200], "a", new_pixels())


def test_a_decoder_killed_between_two_pictures_costs_neither(
    decoder: IsolatedDecoder, starts: list[int]
) -> None:
    decoder.decode_into(picture_bytes(1), "a", new_pixels())
    os.kill(starts[-1], signal.SIGKILL)
    assert decoder.decode_into(picture_bytes(2), "b", new_pixels()) == (30, 20)


def test_closing_waits_for_no_picture(starts: list[int], tmp_path: Path) -> None:
    endless = IsolatedDecoder(ImageLimits(), attempts=ATTEMPTS, timeout_s=3600)
    with ThreadPoolExecutor(2) as pool:
        held = [
            pool.submit(endless.decode_into, picture_bytes(n, "HANG"), "a", new_pixels())
            for n in range(2)
        ]
        wait_until(lambda: held_processes(tmp_path), what="a held process")
        endless.close()
        for waiting in held:
            with pytest.raises(StorageError, match="was closed"):
                waiting.result(timeout=PATIENCE_S)
    assert len(starts) == 1


def test_a_decoder_that_does_not_start_is_no_pictures_fault(
    decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_decoder, "_MODULE", "workers.nowhere")
    with pytest.raises(StorageError, match="did not start: it ended with exit code 1"):
        decoder.decode_into(picture_bytes(1), "a", new_pixels())


_HOLDER = """
import sys, time
from clipfleet.workers.images.isolated_decoder import IsolatedDecoder
from clipfleet.workers.images.decode import ImageLimits
import numpy as np
decoder = IsolatedDecoder(ImageLimits(), attempts=1, timeout_s=3600)
decoder.decode_into(sys.stdin.buffer.read(), "a", np.zeros((3, 8, 8), np.float32))
"""


def test_a_decoder_that_hangs_ends_with_whoever_started_it(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE)
    assert holder.stdin is not None
    holder.stdin.write(picture_bytes(1, "HANG"))
    holder.stdin.close()
    wait_until(lambda: held_processes(tmp_path), what="a held decoder")
    (decoder,) = held_processes(tmp_path)
    holder.kill()
    holder.wait()
    wait_until(lambda: not _lives(decoder), what="its end")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
