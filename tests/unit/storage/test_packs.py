"""Packs: bytes that follow from their parts, in a store where nothing can be put into place."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.errors import StorageError
from clipfleet.storage.format.parts import part_of, part_path
from clipfleet.storage.packs.pack import PackBuilder, has_own_footer, read_members
from clipfleet.storage.packs.packed_parts import MARK, MARK_PATH, PackedParts
from clipfleet.storage.packs.thrift import read_struct, struct_bytes
from tests.datasets import embedded, make_card, memory_dataset, texts
from tests.memory_filesystem import MemoryFilesystem


def parts(*sizes: int) -> dict[str, bytes]:
    """Return parts of so many rows, by their names."""
    info, card = memory_dataset().info, make_card()
    made = {}
    for number, size in enumerate(sizes):
        name = f"00001-{number:07d}"
        rows = embedded(texts(*(f"{number}-{n}" for n in range(size))), seed=number)
        made[name] = bytes(part_of(rows, info, card, name)[0])
    return made


def pack_of(made: dict[str, bytes]) -> bytes:
    builder = PackBuilder()
    for name, part in made.items():
        builder.add(name, part)
    return bytes(builder.finish())


def stored(pack: bytes) -> PackedParts:
    inner = MemoryFilesystem()
    inner.create(MARK_PATH, MARK)
    inner.create("parts/00001-0000000_packed.parquet", pack)
    return PackedParts(inner, "parts")


def footer(part: bytes) -> bytes:
    return part[-8 - int.from_bytes(part[-8:-4], "little") : -8]


def test_a_footer_is_the_same_after_it_was_read_and_written() -> None:
    for part in parts(0, 1, 5000).values():  # 5,000 rows are two row groups
        assert struct_bytes(read_struct(footer(part))) == footer(part)


def test_a_pack_is_read_as_one_table_and_part_by_part() -> None:
    made = parts(3, 0, 5000, 1)
    pack = pack_of(made)
    table = pq.ParquetFile(io.BytesIO(pack), page_checksum_verification=True).read()
    assert table.equals(pa.concat_tables(pq.read_table(io.BytesIO(p)) for p in made.values()))
    members = read_members(io.BytesIO(pack))
    assert {m.name: pack[m.offset : m.offset + m.size] for m in members} == made
    assert has_own_footer(io.BytesIO(pack), members)
    fs = stored(pack)
    assert fs.list("parts") == [f"{name}.parquet" for name in made]
    for name, part in made.items():
        assert fs.exists(part_path(name))
        assert fs.read(part_path(name)) == part
        with fs.open(part_path(name)) as file:
            assert pq.ParquetFile(file).read().equals(pq.read_table(io.BytesIO(part)))
    assert not fs.create(part_path("00001-0000002"), b"another")


def test_in_an_object_store_a_part_in_a_pack_cannot_be_changed() -> None:
    fs = stored(pack_of(parts(2, 2)))
    for change in (lambda path: fs.replace(path, b""), fs.delete):
        with pytest.raises(StorageError, match="copy the dataset to a disk"):
            change(part_path("00001-0000001"))
    assert fs.create(part_path("00001-0000002"), b"new")


def test_a_pack_whose_footer_is_damaged_is_listed_as_a_file_of_its_own() -> None:
    pack = pack_of(parts(2, 2))
    for damaged in (pack[:-1], pack[: len(pack) // 2], b"", pack.replace(b"[[", b"{[")):
        assert stored(damaged).list("parts") == ["00001-0000000_packed.parquet"]


def test_parts_with_other_columns_do_not_go_into_one_pack() -> None:
    made = parts(2)
    wider = memory_dataset("txt", dtype="float32").info
    other, _ = part_of(embedded(texts("a")), wider, make_card(), "00001-0000001")
    with pytest.raises(ValueError, match="00001-0000001 has other columns than 00001-0000000"):
        pack_of({**made, "00001-0000001": bytes(other)})
