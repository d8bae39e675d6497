"""Arrays whose memory is used again, and freed with the last of them."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from clipfleet.workers.engines.cuda.pinned_memory import PinnedArrays, address_of
from tests.unit.workers.fake_tensorrt import State, install


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


def test_an_array_has_its_shape_and_keeps_written_values(machine: State) -> None:
    arrays = PinnedArrays()
    array = arrays.empty((3, 2, 5), "float32")
    array[:] = np.arange(30).reshape(3, 2, 5)
    assert array.dtype == np.float32
    assert array.sum() == sum(range(30))
    assert arrays.empty((0, 7), "int64").shape == (0, 7)
    del array
    arrays.close()
    assert not machine.cuda.held


def test_memory_is_used_again_once_no_view_is_left(machine: State) -> None:
    arrays = PinnedArrays()
    first = arrays.empty((8, 4), "float32")
    address, view = address_of(first), first[2:].reshape(-1)[3:]
    del first
    other = arrays.empty((8, 4), "float32")
    assert address_of(other) != address, "a view still shows it"
    del view
    again = arrays.empty((7, 4), "float32")
    assert address_of(again) == address
    assert machine.cuda.calls.count("cudaHostAlloc") == 2


def test_a_little_is_kept_and_nothing_far_too_large_is_given(machine: State) -> None:
    arrays = PinnedArrays()
    for _ in range(2):
        held = [arrays.empty((64,), "uint8") for _ in range(9)]
        held.clear()
    assert len(machine.cuda.held) == 9, "taken back at the next call"
    small = arrays.empty((2,), "uint8")
    assert small.nbytes == 2
    assert len(machine.cuda.held) == 4 + 1
    arrays.close()
    assert len(machine.cuda.held) == 1
    del small
    assert not machine.cuda.held


def test_contains_is_true_for_arrays_in_pinned_memory_only(machine: State) -> None:
    arrays = PinnedArrays()
    array = arrays.empty((4, 6), "float32")
    for inside in (array, array[1:3], array[3]):
        assert arrays.contains(inside)
    for outside in (np.empty((4, 6), np.float32), array[:, ::2], array.T, array.astype("f8")):
        assert not arrays.contains(outside)
    address = address_of(array)
    del array, inside
    arrays.empty((1,), "uint8")
    assert address not in arrays._used


def test_a_buffer_that_another_thread_frees_first_is_no_error(machine: State) -> None:
    class Raced(deque[int]):
        def __bool__(self) -> bool:
            return True  # as it was when it was looked at

    arrays = PinnedArrays()
    arrays._dropped = Raced()
    array = arrays.empty((3,), "uint8")
    arrays.close()
    assert machine.cuda.held
    del array
    assert not machine.cuda.held
