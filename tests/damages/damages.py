"""Damages: everything that may befall a dataset's files, each with what `verify` must name."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.storage.format.parts import part_of
from clipfleet.storage.format.results import Embedded
from tests.damages import files
from tests.damages.files import (
    add_row,
    change_json,
    change_vector,
    double_row,
    drop_row,
    errors,
    finish_anew,
    flip,
    flip_page,
    flip_text,
    footer_of,
    job,
    part,
    plan,
    record,
    replace_table,
    rewrite,
    set_value,
    swap,
)
from tests.datasets import embedded, make_card, memory_dataset, texts

FIRST, SECOND, THIRD = (f"00001-{n:07d}" for n in range(3))
OTHER_JOB = "00002-0000000"
RETRY, RETRY_2 = (f"00003-{n:07d}" for n in range(2))
ITEMS_1, ITEMS_2, ITEMS_3, ITEMS_4 = (f"items-{n:010d}" for n in range(1, 5))

Apply = Callable[[Path], object]  # to a dataset's folder
Change = Callable[[Path], object]  # of a file


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A damage of a dataset of one of `MAKERS`.

    `verify` names `names`. `repair` mends it, unless it is `by_hand`. Items of a stream may
    be `untold`: then they have to be known elsewhere to be queued again.
    """

    title: str
    apply: Apply
    names: str
    maker: str = "planned"
    by_hand: bool = False
    untold: bool = False


def _rows() -> Iterator[tuple[str, Change, str]]:
    """Yield changes of the rows of a part with t00, t02 and t03, and what is named."""

    def rewritten(change: files.Change) -> Change:
        return lambda path: rewrite(path, change)

    def vector(change: Callable[[np.ndarray], np.ndarray]) -> Change:
        return rewritten(change_vector(0, change))

    def cast(name: str, type_: pa.DataType) -> Change:
        def change(table: pa.Table) -> pa.Table:
            index = table.schema.get_field_index(name)
            return table.set_column(index, name, table[name].cast(type_))

        return lambda path: replace_table(path, change)

    yield "two rows swapped", rewritten(swap()), FIRST
    yield "two vectors swapped", rewritten(swap("embedding")), FIRST
    yield "two texts swapped", rewritten(swap("text")), FIRST
    yield "two ids swapped", rewritten(swap("id")), FIRST
    yield "a vector negated", vector(lambda v: -v), FIRST
    yield "a vector replaced by another", vector(lambda v: np.roll(v, 1)), FIRST
    yield "the last bit of one number changed", vector(_next_float16), FIRST
    yield "a vector of fewer bits", vector(lambda v: (v * 64).round() / 64), FIRST
    yield "a NaN", vector(lambda v: v * np.float16("nan")), "t00"
    yield "an infinite number", vector(lambda v: v + np.float16("inf")), "t00"
    yield "a vector of zeros", vector(lambda v: v * 0), "t00"
    yield "a vector of norm 2", vector(lambda v: v * 2), "t00"
    yield "a text replaced", rewritten(set_value("text", 0, "another text")), FIRST
    yield "an id replaced", rewritten(set_value("id", 0, "new")), FIRST
    yield "a row dropped", rewritten(drop_row), FIRST
    yield "a row doubled", rewritten(double_row), FIRST
    yield "a row added", rewritten(add_row), FIRST
    yield "float32 for float16", cast("embedding", pa.list_(pa.float32(), 8)), FIRST
    yield "texts as binary", cast("text", pa.binary()), FIRST
    yield "no column of texts", lambda path: replace_table(path, _without_texts), FIRST
    yield "one column more", lambda path: replace_table(path, _with_column), FIRST
    yield "columns in another order", lambda path: replace_table(path, _reversed), FIRST


def _footers() -> Iterator[tuple[str, Change, str]]:
    """Yield changes of the footer of that part."""

    def footer(**fields: str) -> Change:
        return lambda path: rewrite(path, lambda _: None, **fields)

    def failure(**fields: Any) -> Change:
        return lambda path: footer(
            failures=json.dumps([{**footer_of(path, "failures")[0], **fields}])
        )(path)

    def card(**fields: Any) -> Change:
        return lambda path: footer(
            model_card=json.dumps({**footer_of(path, "model_card"), **fields})
        )(path)

    yield "no failure in the footer", footer(failures="[]"), FIRST
    yield "another class of failure in the footer", failure(error="missing"), FIRST
    yield "another reason in the footer", failure(message="it has 1 byte"), FIRST
    yield "another attempt in the footer", failure(attempt=2), FIRST
    yield "another text of a failure in the footer", failure(text="another text"), FIRST
    yield "another worker in the footer", footer(worker="worker-2"), FIRST
    yield "another time in the footer", footer(finished_at="2026-01-01"), FIRST
    yield "another engine in the footer", footer(engine_sha256="f" * 64), FIRST
    yield "another count of cut texts in the footer", footer(cut="1"), FIRST
    yield "another model in the footer", footer(model="d" * 64), FIRST
    yield "a card of another checkpoint", card(checkpoint_sha256="d" * 64), FIRST
    yield "a card with another logit scale", card(logit_scale=1.0), FIRST
    yield "a card that is no JSON", footer(model_card="{"), FIRST


def _bytes() -> Iterator[Damage]:
    """Damages of the bytes of a part, of any kind of item."""
    for column in ("id", "text", "embedding"):
        yield Damage(
            title=f"a flipped bit in the page of {column}",
            apply=_to(part, FIRST, partial(flip_page, column=column)),
            names=FIRST,
        )
        yield Damage(
            title=f"a flipped bit in the header of the page of {column}",
            apply=_to(part, FIRST, partial(flip_page, column=column, header=True)),
            names=FIRST,
        )
    for column in ("id", "uri", "width", "height", "embedding"):
        yield Damage(
            title=f"a flipped bit in the page of {column} of images",
            apply=_to(part, FIRST, partial(flip_page, column=column)),
            names=FIRST,
            maker="pictures",
        )
    for column in ("id", "text", "embedding"):
        yield Damage(
            title=f"a flipped bit in the page of {column} of single items",
            apply=_to(part, ITEMS_2, partial(flip_page, column=column)),
            names=ITEMS_2,
            maker="stream",
            untold=column != "embedding",
        )
    for title, change in (
        ("a flipped bit in the first bytes", lambda path: flip(path, 1)),
        ("a flipped bit in the last bytes", lambda path: flip(path, -2)),
        ("a flipped bit in the length of the footer", lambda path: flip(path, -6)),
        ("a flipped bit in the footer's structure", lambda path: flip(path, -60)),
        ("a flipped bit in the name of the worker", lambda path: flip_text(path, b"worker-1")),
        ("a flipped bit in the statistics of ids", lambda path: flip_text(path, b"t03")),
        ("a flipped bit in the Arrow schema", lambda path: flip_text(path, b"ARROW:schema")),
        ("a flipped bit in the reason of a failure", lambda path: flip_text(path, b"0 bytes")),
        ("a part without its last byte", lambda path: _cut(path, -1)),
        ("half a part", lambda path: _cut(path, path.stat().st_size // 2)),
        ("an empty part", lambda path: path.write_bytes(b"")),
        ("bytes after a part", lambda path: path.write_bytes(path.read_bytes() + b"\0" * 8)),
        ("bytes before a part", lambda path: path.write_bytes(b"\0" * 8 + path.read_bytes())),
        ("a part with a hole of zeros", _punch),
        ("a part that is text", lambda path: path.write_text("no Parquet")),
        ("a part that is another program's", _write_foreign),
        ("a symbolic link to nothing", lambda path: _link(path, path.parent / "nothing")),
        ("a symbolic link to another part", lambda path: _link(path, part_beside(path))),
    ):
        yield Damage(title=title, apply=_to(part, FIRST, change), names=FIRST)


def _part_files() -> Iterator[Damage]:
    """Damages of whole parts."""
    yield Damage(
        title="two parts swapped",
        apply=_swap_files(part),
        names=FIRST,
    )
    yield Damage(
        title="two parts swapped with their records",
        apply=_swap_files(part, record),
        names=FIRST,
    )
    yield Damage(title="a part removed", apply=_remove((part, FIRST)), names=FIRST)
    yield Damage(
        title="a part removed with its record",
        apply=_remove((part, FIRST), (record, FIRST)),
        names="t00",
    )
    yield Damage(title="all parts removed", apply=lambda root: _empty(root / "parts"), names=FIRST)
    yield Damage(
        title="a part with another name",
        apply=lambda root: part(root, FIRST).rename(part(root, "00001-0000009")),
        names="00001-0000009",
    )
    yield Damage(
        title="a part with its suffix in capitals",
        apply=lambda root: part(root, FIRST).rename(root / "parts" / f"{FIRST}.PARQUET"),
        names=f"{FIRST}.PARQUET",
        by_hand=True,
    )
    yield Damage(
        title="a part with its name in capitals",
        apply=lambda root: part(root, ITEMS_2).rename(part(root, ITEMS_2.upper())),
        names=ITEMS_2.upper(),
        maker="stream",
        untold=True,
    )
    yield Damage(
        title="a folder with a part's name",
        apply=_to(part, FIRST, _make_folder),
        names=FIRST,
        by_hand=True,
    )
    yield Damage(
        title="a copy of a part under another shard's name",
        apply=lambda root: shutil.copy(part(root, FIRST), part(root, SECOND)),
        names=SECOND,
    )
    yield Damage(
        title="a copy of a part beside it",
        apply=lambda root: shutil.copy(part(root, FIRST), part(root, "copy")),
        names="copy",
    )
    yield Damage(
        title="a copy of a part beside it, as file managers name it",
        apply=lambda root: shutil.copy(part(root, FIRST), part(root, f"{FIRST} (copy)")),
        names=f"{FIRST} (copy)",
    )
    yield Damage(
        title="a copy of single items under the next number",
        apply=lambda root: shutil.copy(part(root, ITEMS_4), part(root, "items-0000000005")),
        names="items-0000000005",
        maker="stream",
    )
    yield Damage(
        title="a part of another dataset with its record",
        apply=lambda root: _put_part(root, embedded(texts("x", "y", "z", "t01"), failing=("t01",))),
        names=FIRST,
    )
    yield Damage(
        title="a part of another model",
        apply=lambda root: _put_part(root, embedded(texts("t00", "t02", "t03")), checkpoint="d"),
        names=FIRST,
    )
    yield Damage(
        title="a part of a shard that its job does not have",
        apply=lambda root: _put_part(root, embedded(texts("x")), name="00001-0000007"),
        names="00001-0000007",
    )
    yield Damage(
        title="the retry's parts removed",
        apply=_remove((part, RETRY), (part, RETRY_2)),
        names=RETRY,
    )
    yield Damage(
        title="the retry's parts removed with their records and errors",
        apply=_remove(*((k, n) for n in (RETRY, RETRY_2) for k in (part, record, errors))),
        names=FIRST,
    )
    yield Damage(
        title="single items removed",
        apply=_remove((part, ITEMS_2)),
        names=ITEMS_2,
        maker="stream",
        untold=True,
    )
    yield Damage(
        title="single items removed with their record",
        apply=_remove((part, ITEMS_2), (record, ITEMS_2), (errors, ITEMS_2)),
        names=ITEMS_2,
        maker="stream",
        untold=True,
    )
    yield Damage(
        title="the last single items' part removed with its record",
        apply=_remove((part, ITEMS_4), (record, ITEMS_4), (errors, ITEMS_4)),
        names=ITEMS_4,
        maker="stream",
        untold=True,
    )
    yield Damage(
        title="the first two single items' parts removed with their records",
        apply=_remove(
            *((k, n) for n in (ITEMS_1, ITEMS_2) for k in (part, record, errors)),
        ),
        names=ITEMS_1,
        maker="stream",
        untold=True,
    )


def _records() -> Iterator[Damage]:
    for title, change in (
        ("a record removed", lambda path: path.unlink()),
        ("an empty record", lambda path: path.write_bytes(b"")),
        ("a record that is no JSON", lambda path: path.write_text("{")),
        ("a record of another part", lambda path: shutil.copy(path.with_stem(SECOND), path)),
        ("a record with another count", lambda path: change_json(path, vectors=2)),
        ("a record with another path", lambda path: change_json(path, part="parts/x.parquet")),
        ("a record with another model", lambda path: change_json(path, model="d" * 64)),
        ("a record with another engine", lambda path: change_json(path, engine_sha256="d" * 64)),
        ("a record with another worker", lambda path: change_json(path, worker="worker-2")),
        ("a record with another time", lambda path: change_json(path, finished_at="2026")),
        ("a record with another count of cut texts", lambda path: change_json(path, cut=1)),
        ("a record with another name", lambda path: change_json(path, name=SECOND)),
        ("a record without its checksum", lambda path: change_json(path, sha256=None)),
        ("a record with another checksum", lambda path: change_json(path, sha256="0" * 64)),
        (
            "a record with its suffix in capitals",
            lambda path: path.rename(path.with_suffix(".JSON")),
        ),
    ):
        by_hand = "capitals" in title
        apply = _to(record, FIRST, change)
        yield Damage(title=title, apply=apply, names=FIRST, by_hand=by_hand)
    yield Damage(
        title="a record that is a folder",
        apply=_to(record, FIRST, _make_folder),
        names=FIRST,
        by_hand=True,
    )
    yield Damage(
        title="all records removed", apply=lambda root: _empty(root / "manifest"), names=FIRST
    )


def _errors() -> Iterator[Damage]:
    for title, change in (
        ("an errors table removed", lambda path: path.unlink()),
        ("an errors table without its row", lambda path: rewrite(path, drop_row)),
        ("an errors table with a row twice", lambda path: rewrite(path, double_row)),
        ("an errors table with another row", lambda path: rewrite(path, add_row)),
        ("another id in an errors table", _set("id", "new")),
        ("another class in an errors table", _set("error", "missing")),
        ("another reason in an errors table", _set("message", "it has 1 byte")),
        ("another attempt in an errors table", _set("attempt", 7)),
        ("another uri in an errors table", _set("uri", "/elsewhere")),
        ("a flipped bit in an errors table's ids", lambda path: flip_page(path, "id")),
        ("a flipped bit in an errors table's reasons", lambda path: flip_page(path, "message")),
        ("an errors table cut off", lambda path: _cut(path, -3)),
        ("an empty errors table", lambda path: path.write_bytes(b"")),
    ):
        yield Damage(
            title=title,
            apply=_to(errors, FIRST, change),
            names=FIRST,
            maker="pictures",
        )
    yield Damage(
        title="an errors table that is a folder",
        apply=_to(errors, RETRY, _make_folder),
        names=RETRY,
        by_hand=True,
    )
    yield Damage(
        title="an errors table of a part without failures",
        apply=lambda root: shutil.copy(errors(root, RETRY), errors(root, OTHER_JOB)),
        names=OTHER_JOB,
    )
    yield Damage(
        title="an errors table without a part",
        apply=lambda root: shutil.copy(errors(root, RETRY), errors(root, "00001-0000099")),
        names="00001-0000099",
    )
    yield Damage(
        title="an errors table of single items removed",
        apply=_remove((errors, ITEMS_2)),
        names=ITEMS_2,
        maker="stream",
    )


def _plans() -> Iterator[Damage]:
    for title, change in (
        ("another text in the plan", _set("text", "another text")),
        ("another id in the plan", _set("id", "new")),
        ("two rows of the plan swapped", lambda path: rewrite(path, swap())),
        ("a row of the plan dropped", lambda path: rewrite(path, drop_row)),
        ("a row of the plan doubled", lambda path: rewrite(path, double_row)),
        ("a row added to the plan", lambda path: rewrite(path, add_row)),
        ("a flipped bit in the plan's ids", lambda path: flip_page(path, "id")),
        ("a flipped bit in the plan's texts", lambda path: flip_page(path, "text")),
        ("a flipped bit in the plan's footer", lambda path: flip(path, -40)),
        ("a plan file cut off", lambda path: _cut(path, -3)),
        ("an empty plan file", lambda path: path.write_bytes(b"")),
        ("a plan file removed", lambda path: path.unlink()),
        ("a plan file of another job", lambda path: shutil.copy(plan(path.parents[1], 2), path)),
        ("a second copy of a plan file", lambda path: shutil.copy(path, _next_file(path))),
    ):
        apply = _to_number(plan, 1, change)
        yield Damage(title=title, apply=apply, names="plan/00001-", by_hand=True)
    yield Damage(
        title="another reason in a retry's plan",
        apply=lambda root: rewrite(plan(root, 3), set_value("message", 0, "none")),
        names="plan/00003-",
        by_hand=True,
    )
    for title, number, change in (
        ("a job's record removed", 1, lambda path: path.unlink()),
        ("the last job's record removed", 3, lambda path: path.unlink()),
        ("a job's record that is no JSON", 1, lambda path: path.write_text("{")),
        ("a job's record with fewer items", 1, lambda path: change_json(path, items=10)),
        ("a job's record with other shards", 1, lambda path: change_json(path, shard_size=5)),
        ("a job's record with another token", 1, lambda path: change_json(path, token="x")),
        ("a job's record of another tower", 1, lambda path: change_json(path, tower="img")),
        ("a job's record with another number", 1, lambda path: change_json(path, id="00004")),
        ("a job's record with another checksum", 1, lambda p: change_json(p, sha256=["0" * 64])),
        ("a job that is called a retry", 1, lambda path: change_json(path, retry=True)),
        ("a retry that is not called one", 3, lambda path: change_json(path, retry=None)),
    ):
        yield Damage(
            title=title,
            apply=_to_number(job, number, change),
            names=f"{number:05d}",
            by_hand=True,
        )
    for title, number in (
        ("a job removed with all of its files", 2),
        ("the last job removed with all of its files", 3),
    ):
        yield Damage(
            title=title,
            apply=_remove_jobs(number),
            names=f"{number:05d}",
            by_hand=True,
        )
    yield Damage(
        title="all jobs removed with all of their files",
        apply=_remove_jobs(1, 2, 3),
        names="00001",
        by_hand=True,
    )


def _dataset_files() -> Iterator[Damage]:
    other = make_card(checkpoint="d")
    for title, change in (
        ("another kind in dataset.json", lambda path: change_json(path, kind="stream")),
        ("another dtype in dataset.json", lambda p: change_json(p, embedding_dtype="float32")),
        ("another width in dataset.json", lambda path: change_json(path, dim=16)),
        ("another model in dataset.json", lambda path: change_json(path, model="d" * 64)),
        ("another format in dataset.json", lambda path: change_json(path, format=2)),
        (
            "another model's dataset.json",
            lambda path: change_json(path, model=other.identity, card=json.loads(other.to_json())),
        ),
        ("another logit scale in dataset.json", _change_card),
        ("a dataset.json that is no JSON", lambda path: path.write_text("{")),
        ("an empty dataset.json", lambda path: path.write_text("")),
        ("no dataset.json", lambda path: path.unlink()),
    ):
        apply = _to_file("dataset.json", change)
        names = "has format 2" if "format" in title else "dataset.json"
        yield Damage(title=title, apply=apply, names=names, by_hand=True)
    yield Damage(
        title="a moved.json that is no JSON",
        apply=lambda root: (root / "moved.json").write_text("{"),
        names="moved.json",
        maker="pictures",
        by_hand=True,
    )
    yield Damage(
        title="another kind in a stream's dataset.json",
        apply=_to_file("dataset.json", partial(change_json, kind="planned")),
        names="dataset.json",
        maker="stream",
        by_hand=True,
    )
    for title, change in (
        ("a stream.json that is no JSON", lambda path: path.write_text("{")),
        ("no number in stream.json", partial(change_json, last_part="2")),
    ):
        yield Damage(
            title=title,
            apply=_to_file("stream.json", change),
            names="stream.json",
            maker="stream",
            by_hand=True,
        )
    for title, change, by_hand in (
        ("a queued.json that is no JSON", lambda path: path.write_text("{"), False),
        ("an empty queued.json", lambda path: path.write_text(""), False),
        ("another field in queued.json", lambda path: change_json(path, other="x"), False),
        ("no job in queued.json", lambda path: change_json(path, last_job="last"), False),
        ("a later job in queued.json", lambda path: change_json(path, last_job="00004"), True),
    ):
        yield Damage(
            title=title,
            apply=_to_file("queued.json", change),
            names="00004" if by_hand else "queued.json",
            by_hand=by_hand,
        )


def _foreign() -> Iterator[Damage]:
    for path in (
        f"parts/{FIRST}.parquet.bak",
        f"parts/old/{FIRST}.parquet",
        "parts/README.md",
        "parts/_SUCCESS",
        f"errors/{FIRST} (copy).parquet",
        f"manifest/{FIRST} (copy).json",
        f"errors/{FIRST}.parquet.bak",
        "errors/README",
        f"manifest/{FIRST}.json.bak",
        "manifest/old/x.json",
        "plan/00001.json.bak",
        "plan/README.json",
        "plan/old/x.parquet",
    ):
        folder, name = path.split("/")[:2]
        yield Damage(
            title=f"a foreign file {path}",
            apply=partial(_copy_part, path=path),
            names=f"{folder}/{name}",
            by_hand=True,
        )


def all_damages() -> list[Damage]:
    """Return all damages; those of rows also with the record that `resume` writes anew."""
    rows = [
        Damage(title=title, apply=_to(part, FIRST, change), names=names)
        for title, change, names in (*_rows(), *_footers())
    ]
    anew = [
        replace(
            damage,
            title=f"{damage.title}, and the record written anew",
            apply=_then_finish(damage.apply),
        )
        for damage in rows
    ]
    others = (_bytes, _part_files, _records, _errors, _plans, _dataset_files, _foreign)
    return [*rows, *anew, *(damage for group in others for damage in group())]


def part_beside(path: Path) -> Path:
    return path.with_stem(SECOND)


def _next_float16(vector: np.ndarray) -> np.ndarray:
    changed: np.ndarray = vector.copy()
    changed[0] = np.nextafter(changed[0], np.float16(0))
    return changed


def _without_texts(table: pa.Table) -> pa.Table:
    return table.drop_columns(["text"])


def _with_column(table: pa.Table) -> pa.Table:
    return table.append_column("more", pa.array(range(len(table))))


def _reversed(table: pa.Table) -> pa.Table:
    return table.select(table.column_names[::-1])


def _set(column: str, value: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(path, set_value(column, 0, value))


def _cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def _punch(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes(64) + data[104:])


def _write_foreign(path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["t00"]}), sink)
    path.write_bytes(sink.getvalue())


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to(path_of: Callable[[Path, str], Path], name: str, change: Change) -> Apply:
    """Return the change of one file of a part."""
    return lambda root: change(path_of(root, name))


def _to_number(path_of: Callable[[Path, int], Path], number: int, change: Change) -> Apply:
    """Return the change of one file of a job."""
    return lambda root: change(path_of(root, number))


def _to_file(name: str, change: Change) -> Apply:
    return lambda root: change(root / name)


def _then_finish(change: Apply) -> Apply:
    def apply(root: Path) -> None:
        change(root)
        finish_anew(root, FIRST)

    return apply


def _swap_files(*kinds: Callable[[Path, str], Path]) -> Apply:
    """Return the swap of the files of two parts."""

    def apply(root: Path) -> None:
        for kind in kinds:
            one, other = kind(root, FIRST), kind(root, SECOND)
            data = one.read_bytes()
            one.write_bytes(other.read_bytes())
            other.write_bytes(data)

    return apply


def _remove(*named: tuple[Callable[[Path, str], Path], str]) -> Apply:
    def apply(root: Path) -> None:
        for path_of, name in named:
            path_of(root, name).unlink(missing_ok=True)

    return apply


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _remove_jobs(*numbers: int) -> Apply:
    """Return the removal of all files of jobs."""

    def apply(root: Path) -> None:
        for number in numbers:
            for path in root.glob(f"*/{number:05d}*"):
                path.unlink()

    return apply


def _next_file(path: Path) -> Path:
    return path.with_stem(path.stem[:-1] + "1")


def _copy_part(root: Path, path: str) -> None:
    (root / path).parent.mkdir(exist_ok=True)
    shutil.copy(part(root, FIRST), root / path)


def _change_card(path: Path) -> None:
    card = json.loads(path.read_text())["card"]
    change_json(path, card={**card, "logit_scale": 1.0})


def _put_part(root: Path, rows: Embedded, *, name: str = FIRST, checkpoint: str = "c") -> None:
    """Put a part that another dataset, or another model, could have, with its record."""
    card = make_card(checkpoint=checkpoint)
    info = replace(memory_dataset().info, model=card.identity, card=card)
    data, _ = part_of(rows, info, card, name, worker="other", finished_at="2026-01-01")
    part(root, name).write_bytes(data)
    finish_anew(root, name)
