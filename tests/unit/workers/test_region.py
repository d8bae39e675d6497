"""A decoder's room: no picture is overwritten before it is freed, in whichever order that is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfleet.workers.images.region import Layout, Region, Room

SLOTS = 5
RESOLUTION = 4
RING_BYTES = 1024
OWN_SIZE = Layout(resolution=RESOLUTION, slots=SLOTS, ring_bytes=RING_BYTES)
INPUTS = Layout(resolution=RESOLUTION, slots=SLOTS, ring_bytes=0)


@dataclass(kw_only=True, eq=False)
class Held:
    """A picture in the region, as the engine's process knows it."""

    start: int
    size_bytes: int
    mark: int
    in_ring: bool
    is_free: bool = False


class Pair:
    """A decoder and an engine with one region: the decoder writes, the engine checks and frees."""

    def __init__(self, layout: Layout) -> None:
        self.region = Region(layout)
        self.region.close_file()
        self.room = Room(self.region)
        self.held: deque[Held] = deque()
        self.freed = 0
        self.pictures = 0

    def decode(self, size_bytes: int) -> Held | None:
        """Place a picture as a decoder does; None if the engine's process gives it none now."""
        if len(self.held) == self.region.layout.slots:
            return None
        found = self.room.ring(size_bytes) if self.region.layout.has_ring else None
        start = self.room.slot() if found is None else found
        if found is None:
            size_bytes = min(size_bytes, self.region.layout.slot_bytes)
        self.room.take()
        self.pictures += 1
        picture = Held(
            start=start, size_bytes=size_bytes, mark=self.pictures % 251, in_ring=found is not None
        )
        self.region.check(start, size_bytes)
        self.region.array(start, (size_bytes,), "uint8")[:] = picture.mark
        self.held.append(picture)
        return picture

    def free(self, position: int) -> None:
        """Free one of the pictures; the region is freed in order, by `Decoder.free_room`'s rule."""
        self.held[position % len(self.held)].is_free = True
        while self.held and self.held[0].is_free:
            self.held.popleft()
            self.freed += 1
        self.region.freed = self.freed

    def check(self) -> None:
        """Check that each picture that is not freed is as it was written."""
        for picture in self.held:
            written = self.region.array(picture.start, (picture.size_bytes,), "uint8")
            assert (written == picture.mark).all()


steps = st.lists(
    st.one_of(
        st.integers(1, RING_BYTES + 200).map(lambda size: ("decode", size)),
        st.integers(1, 300).map(lambda size: ("decode", size)),
        st.integers(0, SLOTS).map(lambda position: ("free", position)),
    ),
    max_size=80,
)


@pytest.mark.parametrize("layout", [INPUTS, OWN_SIZE], ids=["inputs", "own size"])
@given(steps=steps)
@settings(max_examples=150, deadline=None)
def test_no_picture_is_overwritten_before_it_is_freed(
    layout: Layout, steps: list[tuple[str, int]]
) -> None:
    pair = Pair(layout)
    for what, value in steps:
        if what == "decode":
            pair.decode(value)
        elif pair.held:
            pair.free(value)
        pair.check()


def test_the_ring_is_used_up_to_its_end_and_again_from_its_start() -> None:
    pair = Pair(OWN_SIZE)
    third = RING_BYTES // 4
    places = []
    for _ in range(12):
        picture = pair.decode(third)
        assert picture is not None
        assert picture.in_ring
        places.append((picture.start - OWN_SIZE.ring_start) // third)
        if len(pair.held) == 3:
            pair.free(0)
    assert places == [0, 1, 2, 3] * 3


def test_a_picture_without_room_in_the_ring_goes_to_a_slot() -> None:
    pair = Pair(OWN_SIZE)
    too_large = pair.decode(RING_BYTES + 1)
    whole = pair.decode(RING_BYTES)
    none_left = pair.decode(1)
    assert [one and one.in_ring for one in (too_large, whole, none_left)] == [False, True, False]
    for _ in range(3):
        pair.free(0)
    after = pair.decode(RING_BYTES)
    assert after is not None
    assert after.in_ring


def test_a_decoder_remembers_no_more_pictures_than_are_held() -> None:
    for layout in (INPUTS, OWN_SIZE):
        pair = Pair(layout)
        for size in range(1, 100):
            pair.decode(size)
            pair.free(0)
        assert len(pair.room._ends) <= 2


def test_slots_and_ring_do_not_overlap() -> None:
    for layout in (INPUTS, OWN_SIZE):
        starts = [layout.slot(number) for number in range(SLOTS)]
        assert starts == sorted(set(starts))
        assert {start % 64 for start in starts} == {0}
        assert np.diff(starts).min() >= layout.slot_bytes
        assert starts[-1] + layout.slot_bytes <= layout.ring_start
        assert layout.slot(SLOTS) == starts[0]
        assert layout.size_bytes == layout.ring_start + layout.ring_bytes
    assert INPUTS.slot_bytes == 4 * 3 * RESOLUTION**2
    assert OWN_SIZE.slot_bytes == 64


@pytest.mark.parametrize("start", [0, 63, OWN_SIZE.size_bytes - 9, OWN_SIZE.size_bytes, 1 << 40])
def test_bytes_outside_the_region_are_refused(start: int) -> None:
    region = Region(OWN_SIZE)
    region.close_file()
    region.close_file()
    with pytest.raises(ValueError, match=rf"10 bytes at {start} are not in the region"):
        region.check(start, 10)
    region.check(64, 10)
    region.check(OWN_SIZE.size_bytes - 10, 10)


def test_both_processes_see_the_same_memory() -> None:
    ours = Region(OWN_SIZE)
    theirs = Region(OWN_SIZE, ours.file)
    ours.freed = 7
    ours.array(OWN_SIZE.ring_start, (2, 2, 3), "uint8")[:] = 5
    assert theirs.freed == 7
    assert (theirs.array(OWN_SIZE.ring_start, (12,), "uint8") == 5).all()
    ours.close_file()
