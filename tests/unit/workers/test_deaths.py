"""What a worker holds against the items of its child, and against none."""

from __future__ import annotations

import mmap
import os
import signal
from typing import Any

import pytest

from workers import deaths as module
from workers.deaths import (
    EMPTY_INPUT,
    KEY_LENGTH,
    OWN_SIGNALS,
    Deaths,
    Died,
    deaths,
    deaths_counted,
)
from workers.shared_bytes import opened

ME = os.getpid()
A, B, C = (name * KEY_LENGTH for name in "abc")
SEGFAULT = -signal.SIGSEGV


@pytest.fixture
def record() -> Deaths:
    return Deaths()


def die(record: Deaths, key: str, exit_code: int = SEGFAULT, pid: int = ME) -> None:
    """Do what the worker does when its child has died with an item."""
    with record.alone(key):
        record.count(pid, exit_code)


def test_the_deaths_with_an_item_are_counted(record: Deaths) -> None:
    die(record, A)
    die(record, B)
    die(record, A, -signal.SIGABRT)
    assert record.counted() == {A: Died(times=2, of="SIGABRT"), B: Died(times=1, of="SIGSEGV")}


@pytest.mark.parametrize("number", sorted(set(signal.Signals) - OWN_SIGNALS))
def test_a_signal_that_others_send_is_held_against_nobody(record: Deaths, number: int) -> None:
    die(record, A, -number)
    assert record.counted() == {}


@pytest.mark.parametrize("exit_code", [0, 1, 3, 134, 139])
def test_nor_is_an_exit(record: Deaths, exit_code: int) -> None:
    die(record, A, exit_code)
    assert record.counted() == {}


def test_nor_is_the_death_of_a_process_whose_engine_had_no_item_alone(record: Deaths) -> None:
    record.count(ME, SEGFAULT)
    with record.alone(A):
        pass
    record.count(ME, SEGFAULT)
    assert record.counted() == {}


def test_nor_is_the_death_of_another_process(record: Deaths) -> None:
    """A child that dies while it loads its engine finds what the one before it said."""
    die(record, A, pid=ME + 1)
    assert record.counted() == {}


def test_a_death_is_counted_once(record: Deaths) -> None:
    with record.alone(A):
        record.count(ME, SEGFAULT)
        record.count(ME, SEGFAULT)
    assert record.counted()[A].times == 1


def test_an_error_that_python_sees_is_no_death(record: Deaths) -> None:
    with pytest.raises(OSError, match="disk"), record.alone(A):
        raise OSError("disk")
    record.count(ME, SEGFAULT)
    assert record.counted() == {}


def test_an_engine_that_dies_of_an_empty_input_acquits_everything(record: Deaths) -> None:
    die(record, A)
    die(record, B)
    die(record, EMPTY_INPUT)
    assert record.counted() == {}


def test_an_item_that_is_forgotten_begins_anew(record: Deaths) -> None:
    die(record, A)
    die(record, B)
    record.forget(A)
    assert list(record.counted()) == [B]
    die(record, A)
    assert record.counted()[A].times == 1


def test_a_full_record_forgets_the_oldest(record: Deaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    die(record, A)
    die(record, B)
    die(record, A)
    assert record.counted()[A].times == 2
    die(record, C)
    assert list(record.counted()) == [B, C]


class Torn(mmap.mmap):
    """Memory whose process dies in the middle of a write, if it is to."""

    dies = False

    def __setitem__(self, at: Any, value: Any) -> None:
        if self.dies:
            super().__setitem__(slice(at.start, at.start + 60), value[:60])
            raise ChildProcessError
        super().__setitem__(at, value)


def test_a_process_that_dies_as_it_forgets_leaves_an_empty_record() -> None:
    shared = Torn(-1, module._SIZE)
    record = Deaths(shared)
    for key in (A, B, C):
        die(record, key)
    shared.dies = True
    with pytest.raises(ChildProcessError):
        record.forget(A)
    shared.dies = False
    assert record.counted() == {}
    die(record, B)
    assert record.counted() == {B: Died(times=1, of="SIGSEGV")}


def test_a_worker_keeps_a_record_for_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module._VARIABLE, "")  # whatever happens to it here is undone
    deaths.cache_clear()
    try:
        with deaths_counted():
            child = Deaths(opened(module._VARIABLE, module._SIZE))
            with child.alone(A):
                deaths().count(ME, SEGFAULT)
            assert child.counted() == {A: Died(times=1, of="SIGSEGV")}
    finally:
        deaths.cache_clear()


@pytest.mark.parametrize("scribble", [b"\xff", b"[", b"[]", b'{"a": 1}', b'{"a": ["x", "y"]}'])
def test_what_a_dying_process_scribbles_over_the_record_is_an_empty_one(scribble: bytes) -> None:
    shared = mmap.mmap(-1, module._SIZE)
    record = Deaths(shared)
    die(record, A)
    shared[module._TEXT :] = scribble.ljust(module._SIZE - module._TEXT)
    assert record.counted() == {}
    die(record, B)
    assert record.counted() == {B: Died(times=1, of="SIGSEGV")}
