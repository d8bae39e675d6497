"""Items of equal bytes are embedded once, and vectors of another dataset are copied."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.error_codes import DECODE_FAILED, EMPTY_TEXT, NON_FINITE, REMOVED
from clipfleet.errors import DatasetError, DatasetMismatchError
from clipfleet.images import DEFAULT_RULES
from clipfleet.items import Fingerprint, Item
from clipfleet.messages import Shard
from clipfleet.reader import Dataset as Reader
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.dataset_info import EmbeddingDtype
from clipfleet.storage.format.parts import part_of, part_path, without_rows
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verification import Verification
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.workers.copies import known, stored
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.copies.reuse import open_reused
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from clipfleet.workers.images import decoders
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.rules import Remark

DIM = 8


class CountingEngine(FakeEngine):
    """A fake engine that counts its items."""

    items = 0

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        self.items += len(inputs)
        return super().__call__(inputs)


def engine_of(embedder: Embedder) -> CountingEngine:
    assert isinstance(embedder.engine, CountingEngine)
    return embedder.engine


def make_embedder(**settings: str) -> Embedder:
    return Embedder(CountingEngine(fake_card("txt", dim=DIM)), load_settings(**settings))


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    with make_embedder() as made:
        yield made


def texts(*values: str) -> list[Item]:
    return [Item(id=f"t{n}", text=value) for n, value in enumerate(values)]


def make_dataset(
    folder: Path,
    items: Sequence[Item],
    *,
    dtype: EmbeddingDtype = "float16",
    hashes: bool = True,
    shard_size: int = 100,
) -> Dataset:
    dataset = Dataset.create(
        str(folder),
        fake_card("txt", dim=DIM),
        kind="planned",
        embedding_dtype=dtype,
        columns=("content_hash",) if hashes else (),
    )
    plan_items(dataset, ListSource(items), shard_size)
    return dataset


def embed(dataset: Dataset, embedder: Embedder) -> Verification:
    embed_shards(dataset, list(missing_shards(dataset)), embedder)
    return verified(dataset)


def embed_shards(dataset: Dataset, shards: Sequence[Shard], embedder: Embedder) -> None:
    for shard in shards:
        work = read_shard_work(dataset, shard)
        fingerprints = Fingerprints.of(dataset, embedder.copies)
        rows = work.finish(embedder.embed(work.items, fingerprints=fingerprints))
        commit(dataset, shard.name, rows, card=embedder.card, worker="w")


def verified(dataset: Dataset) -> Verification:
    result = verify_dataset(dataset)
    assert result.problems == []
    return result


def test_equal_texts_are_embedded_once_and_each_id_has_the_vector(
    tmp_path: Path, embedder: Embedder
) -> None:
    items = texts("a cat", "a dog", "a cat", "", "a cat", "a dog", "")
    result = embed(make_dataset(tmp_path / "d", items), embedder)
    assert engine_of(embedder).items == 2
    assert (result.vectors, result.errors, result.copied) == (5, 2, 3)
    assert "3 vectors are copies" in result.lines()[0]
    reader = Reader(tmp_path / "d")
    assert reader.ids == ("t0", "t1", "t2", "t4", "t5")
    vectors = reader.vectors()
    assert (vectors[0] == vectors[[2, 3]]).all()
    assert (vectors[1] == vectors[4]).all()
    assert (vectors[0] != vectors[1]).any()
    assert {(row.id, row.error) for row in reader.errors()} == {
        ("t3", EMPTY_TEXT),
        ("t6", EMPTY_TEXT),
    }
    hashes = reader.to_arrow()["content_hash"].to_pylist()
    assert hashes[0] == sha256(b"a cat").hexdigest() == hashes[2]


def test_each_copy_of_a_cut_text_is_counted_as_cut(tmp_path: Path, embedder: Embedder) -> None:
    long = "cat " * 100
    result = embed(make_dataset(tmp_path / "d", texts(long, "a dog", long)), embedder)
    assert (result.cut, result.copied) == (2, 1)


def test_vectors_of_another_dataset_are_copied(tmp_path: Path, embedder: Embedder) -> None:
    long = "cat " * 100
    embed(make_dataset(tmp_path / "old", texts("a cat", "a dog", long)), embedder)
    with make_embedder(reuse=str(tmp_path / "old")) as reusing:
        items = texts("a bird", long, "a cat", "a cat", "a bird")
        result = embed(make_dataset(tmp_path / "new", items), reusing)
        assert engine_of(reusing).items == 1
    assert (result.vectors, result.copied, result.cut) == (5, 4, 1)
    old, new = Reader(tmp_path / "old").vectors(), Reader(tmp_path / "new").vectors()
    assert (new[[1, 2, 3]] == old[[2, 0, 0]]).all()


def test_a_process_embeds_equal_bytes_of_different_shards_once(
    tmp_path: Path, embedder: Embedder
) -> None:
    long = "cat " * 100
    items = texts("a dog", long, "a bird", long, long, "a fish", "a dog")
    result = embed(make_dataset(tmp_path / "d", items, shard_size=2), embedder)
    assert engine_of(embedder).items == 4
    assert (result.vectors, result.copied, result.cut) == (7, 3, 3)
    vectors = Reader(tmp_path / "d").vectors()
    assert (vectors[1] == vectors[[3, 4]]).all()
    assert (vectors[0] == vectors[6]).all()


@pytest.mark.parametrize("recent_bytes", [0, 1 << 20])
def test_processes_copy_what_others_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent_bytes: int
) -> None:
    monkeypatch.setattr(known, "_MAX_BYTES", recent_bytes)
    monkeypatch.setattr(stored, "_LIST_PAUSE", 0)
    distinct = [f"text {n}" for n in range(30)]
    dataset = make_dataset(tmp_path / "d", texts(*distinct * 10), shard_size=10)
    with make_embedder() as one, make_embedder() as other:
        for n, shard in enumerate(list(missing_shards(dataset))):
            embed_shards(dataset, [shard], (one, other)[n % 2])
        result = verified(dataset)
        assert engine_of(one).items + engine_of(other).items == 30
    assert (result.vectors, result.copied) == (300, 270)
    vectors = Reader(tmp_path / "d").vectors().reshape(10, 30, DIM)
    assert (vectors == vectors[0]).all()


def test_a_copy_is_of_the_same_dataset(tmp_path: Path, embedder: Embedder) -> None:
    embed(make_dataset(tmp_path / "one", texts("a cat")), embedder)
    assert embed(make_dataset(tmp_path / "two", texts("a cat")), embedder).copied == 0
    assert embed(make_dataset(tmp_path / "two", texts("a cat", "a cat")), embedder).copied == 1


def test_what_is_gone_when_it_is_to_be_copied_is_embedded(
    tmp_path: Path, embedder: Embedder
) -> None:
    old = make_dataset(tmp_path / "old", texts("a cat", "a dog", "a fish"))
    embed(old, embedder)
    items = texts("a cat", "a bird", "a cat", "a dog", "a bird", "a fish")
    new = make_dataset(tmp_path / "new", items)
    with make_embedder(reuse=str(tmp_path / "old")) as reusing:
        fingerprints = Fingerprints.of(new, reusing.copies)
        path = part_path("00001-0000000")
        with old.fs.open(path) as file:
            gone = Failure(item=items[0], error=REMOVED, message="")
            data = without_rows(file, {"t0": gone, "t1": gone}, old.info, path=path)
        old.fs.replace(path, data)
        rows = reusing.embed(items, fingerprints=fingerprints)
        assert engine_of(reusing).items == 3
    assert rows.items == items
    assert rows.failures == []
    assert rows.copied == 3  # the second cat and bird, and the fish, which has another row now
    assert [one.sha256 for one in rows.fingerprints or []] == [
        sha256((item.text or "").encode()).hexdigest() for item in items
    ]
    assert (rows.vectors[[0, 1]] == rows.vectors[[2, 4]]).all()
    assert (rows.vectors[5] == Reader(tmp_path / "old").vectors()[0]).all()


def test_no_vector_is_copied_from_a_damaged_part_which_is_told(
    tmp_path: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(tmp_path / "d", texts("a cat", "a dog", "a cat"), shard_size=1)
    shards = list(missing_shards(dataset))
    embed_shards(dataset, shards[:2], embedder)
    (tmp_path / "d" / part_path(shards[0].name)).write_bytes(b"damaged")
    with make_embedder() as other:
        embed_shards(dataset, shards[2:], other)
        assert engine_of(other).items == 1
    [told] = caplog.messages
    assert f"{part_path(shards[0].name)} is damaged" in told
    assert "`clipfleet repair` moves it away" in told


def test_no_vector_of_another_model_is_copied(
    tmp_path: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(tmp_path / "d", texts("a cat", "a cat"), shard_size=1)
    [first, second] = missing_shards(dataset)
    rows = embedder.embed(
        read_shard_work(dataset, first).items,
        fingerprints=Fingerprints.of(dataset, embedder.copies),
    )
    card = replace(embedder.card, checkpoint_sha256="d" * 64)
    dataset.fs.create(part_path(first.name), part_of(rows, dataset.info, card, first.name)[0])
    with make_embedder() as other:
        embed_shards(dataset, [second], other)
        assert engine_of(other).items == 1
    assert "is of another model: `clipfleet repair` moves it away" in caplog.text


def test_a_process_tells_that_it_knows_no_more_contents(
    tmp_path: Path,
    embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(known, "_MAX_CONTENTS", 1)
    monkeypatch.setattr(known, "_MAX_BYTES", 0)
    monkeypatch.setattr(stored, "_LIST_PAUSE", 0)
    items = texts("a cat", "a dog", "a dog", "a cat")
    result = embed(make_dataset(tmp_path / "d", items, shard_size=1), embedder)
    assert result.copied == 1
    [told] = caplog.messages
    assert "has 1 contents or more: equal bytes in later parts may be embedded again" in told


def test_parts_are_listed_for_a_tenth_of_the_time(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    def list_slowly(fs: Filesystem) -> set[str]:
        nonlocal now_s
        now_s += 2
        return part_names(fs)

    dataset = make_dataset(tmp_path / "d", texts("a cat"))
    vectors = stored.StoredVectors(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "monotonic", lambda: now_s)
        patch.setattr(stored, "part_names", list_slowly)
        vectors.look()
        assert now_s == 2
        embed_shards(dataset, list(missing_shards(dataset)), embedder)
        cat = sha256(b"a cat").hexdigest()
        now_s = 21.9
        vectors.look()
        assert cat not in vectors
        now_s = 22
        vectors.look()
        assert cat in vectors


def test_a_dataset_without_hashes_takes_no_copies(tmp_path: Path, embedder: Embedder) -> None:
    items = texts("a cat", "a cat")
    assert embed(make_dataset(tmp_path / "d", items, hashes=False), embedder).copied == 0
    assert engine_of(embedder).items == 2


def test_a_vector_is_taken_by_the_whole_sha256_from_a_part_that_is_there(
    tmp_path: Path, embedder: Embedder
) -> None:
    dataset = make_dataset(tmp_path / "d", texts(*map(str, range(600)), ""), shard_size=1000)
    embed(dataset, embedder)
    vectors = stored.StoredVectors(dataset)
    vectors.look()
    hashes = [sha256(str(n).encode()).hexdigest() for n in (599, 0, 300)]
    found = vectors.take(hashes)  # of three row groups
    expected = Reader(tmp_path / "d").vectors()[[599, 0, 300]]
    assert (np.array([found[one] for one in hashes]) == expected).all()
    other = hashes[0][:-1] + ("0" if hashes[0][-1] != "0" else "1")
    assert other in vectors
    assert vectors.take([other]) == {}
    dataset.fs.delete(part_path("00001-0000000"))
    assert vectors.take(hashes) == {}


def test_a_dataset_that_cannot_be_reused_is_refused_with_the_way_out(
    tmp_path: Path, embedder: Embedder
) -> None:
    def settings(name: str) -> Settings:
        return load_settings(reuse=str(tmp_path / name))

    make_dataset(tmp_path / "without", [], hashes=False)
    with pytest.raises(DatasetMismatchError, match=r"no content hashes.*--content-hash"):
        open_reused(settings("without"), embedder.card)
    make_dataset(tmp_path / "halves", [])
    with pytest.raises(DatasetMismatchError, match="holds vectors of fake txt fp32"):
        open_reused(settings("halves"), fake_card("txt", dim=DIM + 1))
    card = fake_card("img", dim=DIM)
    pictures = str(tmp_path / "pictures")
    Dataset.create(
        pictures, card, kind="planned", embedding_dtype="float16", columns=("content_hash",)
    )
    with pytest.raises(DatasetMismatchError, match="vectors with alpha"):
        open_reused(load_settings(reuse=pictures, alpha="white"), card)
    reused = open_reused(load_settings(reuse=pictures), card)
    assert reused is not None
    white = Dataset.create(
        str(tmp_path / "white"),
        card,
        kind="planned",
        embedding_dtype="float16",
        rules=replace(DEFAULT_RULES, alpha="white"),
    )
    with pytest.raises(DatasetMismatchError, match="vectors with alpha"):
        reused.check(white.info)
    with pytest.raises(DatasetError, match="no dataset at"):
        open_reused(settings("nothing"), embedder.card)
    floats = make_dataset(tmp_path / "floats", texts("a"), dtype="float32")
    with (
        make_embedder(reuse=str(tmp_path / "halves")) as reusing,
        pytest.raises(DatasetMismatchError, match="float16 vectors, which a dataset of"),
    ):
        embed(floats, reusing)


def test_a_dataset_has_hashes_for_all_vectors_or_for_none(tmp_path: Path) -> None:
    make_dataset(tmp_path / "d", [], hashes=False)
    with pytest.raises(DatasetMismatchError, match="made without content hashes"):
        make_dataset(tmp_path / "d", [])


class FakePicture:
    """A picture that knows its bytes."""

    def __init__(self, data: bytes, width: int) -> None:
        self.size = (width, 2)
        self.fingerprint = Fingerprint(len(data), width, sha256(data).hexdigest())
        self.remark = Remark.TRANSPARENT if data == b"a" else Remark.NONE
        self.freed = 0

    def free(self) -> None:
        self.freed += 1


def test_a_copied_picture_is_freed_once_and_keeps_its_own_size_and_time() -> None:
    pictures = [FakePicture(data, 10 + n) for n, data in enumerate((b"a", b"b", b"a", b"a"))]
    items = [Item(id=str(n), uri=f"/{n}") for n in range(5)]
    broken = Failure(item=items[4], error=DECODE_FAILED, message="damaged")
    closed = []

    def decoded() -> Generator[decoders.Outcome, None, None]:
        try:
            yield from cast("list[Picture]", pictures)
            yield broken
        finally:
            closed.append(True)

    fingerprints = Fingerprints(sha256=True)
    outcomes = list(fingerprints.pictures(items, decoded()))
    assert [isinstance(outcome, FakePicture) for outcome in outcomes] == [
        *(True, True, False, False, False)
    ]
    assert [picture.freed for picture in pictures] == [0, 0, 1, 1]
    assert closed
    vectors = np.eye(2, DIM, dtype=np.float32)
    found = Embedded(
        items=items[:2],
        vectors=vectors,
        sizes=[(10, 2), (11, 2)],
        failures=[one for one in outcomes if isinstance(one, Failure)],
        transparent=frozenset("0"),
    )
    whole = fingerprints.finish(items, found)
    assert whole.items == items[:4]
    assert (whole.vectors == vectors[[0, 1, 0, 0]]).all()
    assert whole.sizes == [(10, 2), (11, 2), (12, 2), (13, 2)]
    assert whole.fingerprints == [picture.fingerprint for picture in pictures]
    assert (whole.failures, whole.copied) == ([broken], 2)
    assert (whole.transparent, whole.without_end) == (frozenset("023"), frozenset())


def test_copies_fail_with_the_item_whose_vector_has_no_direction() -> None:
    pictures = [FakePicture(b"a", 10), FakePicture(b"a", 10)]
    items = [Item(id=str(n), uri=f"/{n}") for n in range(2)]
    fingerprints = Fingerprints(sha256=True)
    outcomes: list[decoders.Outcome] = list(cast("list[Picture]", pictures))
    list(fingerprints.pictures(items, (outcome for outcome in outcomes)))
    bad = Failure(item=items[0], error=NON_FINITE, message="it is all zeros")
    none = Embedded(items=[], vectors=np.empty((0, DIM), np.float32), sizes=[], failures=[bad])
    whole = fingerprints.finish(items, none)
    assert whole.failures == [bad, replace(bad, item=items[1])]
    assert (whole.fingerprints, whole.copied) == ([], 0)
