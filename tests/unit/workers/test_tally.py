"""The tally of an engine process: stages share no time, and outcomes are counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clipfleet.error_codes import EMPTY_TEXT
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.workers import tally as tally_module
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from clipfleet.workers.images.region import Layout, Region
from clipfleet.workers.tally import VECTOR, Tally
from tests.fuzz.process_targets import decoder_without_process


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    perf_counter = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tally_module, "time", clock)
    return clock


def test_an_inner_stage_takes_no_time_of_the_outer_one(clock: Clock) -> None:
    tally = Tally()

    def inputs() -> Iterator[int]:
        for number in range(3):
            clock.now_s += 10
            yield number

    with tally.measure("engine"):
        for _ in tally.pulled("wait", inputs()):
            clock.now_s += 1
            with tally.measure("tokenise"):
                clock.now_s += 100
    seconds = {stage: spent.seconds for stage, spent in tally.stages.items()}
    assert seconds == {"wait": 30, "tokenise": 300, "engine": 3}
    assert (tally.stages["engine"].begin_s, tally.stages["engine"].end_s) == (1000, 1333)
    assert (tally.stages["tokenise"].begin_s, tally.stages["tokenise"].end_s) == (1011, 1333)


def test_a_stage_that_fails_is_measured_and_the_next_one_is_not_shortened(clock: Clock) -> None:
    tally = Tally()

    def fail() -> None:
        clock.now_s += 5
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), tally.measure("engine"):
        fail()
    with tally.measure("write"):
        clock.now_s += 7
    assert {stage: spent.seconds for stage, spent in tally.stages.items()} == {
        "engine": 5,
        "write": 7,
    }


@pytest.mark.parametrize(("inputs", "room"), [(0, 0), (1, 32), (32, 32), (33, 64)])
def test_the_room_is_that_of_whole_calls(inputs: int, room: int) -> None:
    tally = Tally()
    tally.count_calls(inputs, call_size=32)
    assert (tally.engine_items, tally.engine_room) == (inputs, room)


def test_texts_are_tokenised_and_embedded_and_each_is_counted_by_its_outcome() -> None:
    with Embedder(FakeEngine(fake_card("txt", dim=8)), Settings()) as embedder:
        items = [Item(id=f"{n}", text="" if n == 3 else f"words {n}") for n in range(40)]
        embedder.tally.count_items(embedder.embed(items))
        assert embedder.tally.outcomes == {VECTOR: 39, EMPTY_TEXT: 1}
        assert set(embedder.tally.stages) == {"tokenise", "engine"}
        assert (embedder.tally.engine_items, embedder.tally.engine_room) == (39, 64)
        embedder.tally.clear()
        assert not embedder.tally.stages
        assert not embedder.tally.outcomes


def test_a_decoders_work_is_in_its_region_beside_the_pictures() -> None:
    region = Region(Layout(resolution=4, slots=1, ring_bytes=0))
    decoders_side = Region(region.layout, region.file)
    region.close_file()
    region.array(region.layout.slot(0), (3, 4, 4), "float32")[:] = 1
    decoders_side.freed = 7
    decoders_side.add_work(read_ns=5)
    decoders_side.add_work(read_ns=5, all_ns=30)
    assert region.work_ns == (10, 30)
    assert region.freed == 7
    assert (region.array(region.layout.slot(0), (3, 4, 4), "float32") == 1).all()


@pytest.mark.parametrize("work_ns", [(-5, -9), (7, 3), (0, -(1 << 62)), (1 << 62, 5)])
def test_whatever_a_decoder_says_of_its_work_is_no_negative_time(work_ns: tuple[int, int]) -> None:
    decoder, theirs = decoder_without_process(Layout(resolution=4, slots=1, ring_bytes=0))
    read_ns, all_ns = work_ns
    decoder.region.add_work(read_ns=read_ns, all_ns=all_ns)
    assert min(decoder.take_work()) >= 0
    decoder.region.add_work(read_ns=-read_ns, all_ns=-all_ns)
    assert min(decoder.take_work()) >= 0
    decoder.socket.close()
    theirs.close()
