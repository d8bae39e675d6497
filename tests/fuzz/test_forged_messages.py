"""Forged messages of any JSON are refused, and touch no file elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from clipfleet.errors import MessageError
from clipfleet.items import MAX_TEXT_LENGTH, MAX_URI_LENGTH, Item
from clipfleet.messages import (
    EMBED_ITEMS_TASK,
    EMBED_TASK,
    MAX_DATASET_LENGTH,
    MAX_MESSAGE_ITEMS,
    EmbedTask,
)
from clipfleet.settings import load_settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.app import make_app
from clipfleet.tasks.items.parse import read_single_item
from clipfleet.tasks.items.receive import parse_delivery
from clipfleet.tasks.retry_policy import BatchPostponed
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import write_fake_engine

ODD_SIZE = 5_000  # deeper than Python's stack, longer than any name
NOTHING_SHARED = settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],  # an odd value is small enough as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Odd(Enum):
    """A value that neither Hypothesis nor pytest could show."""

    HUGE = "a number"
    LONG = "a string"
    DEEP = "a list"


def _wrapped(inner: list[Any], _: int) -> list[Any]:
    return [inner]


def real(value: Any) -> Any:
    """Return a value whose placeholders are replaced by odd values."""
    if value is Odd.HUGE:
        return 10**5000  # Python prints no integer of so many digits
    if value is Odd.LONG:
        return "x" * ODD_SIZE
    if value is Odd.DEEP:
        return reduce(_wrapped, range(ODD_SIZE), [])
    if isinstance(value, list):
        return [real(inner) for inner in value]
    if isinstance(value, dict):
        return {name: real(inner) for name, inner in value.items()}
    return value


odd_text = st.text(st.characters(), max_size=20)  # with NUL, and halves of surrogate pairs
places = st.sampled_from(
    [
        *(
            "",
            ".",
            "..",
            "/",
            "/etc",
            "/etc/passwd",
            "../d",
            "d/../../x",
            "~",
            "d/plan",
            "d/parts/e",
        ),
        *("link", "link/e", "file/e", "a\0b", "half\ud800", "x" * 5000, "n/" * 2000, "n" * 300),
        *("file:///etc", "file://host/d", "http://host/d", "s3://bucket/d", "//host/d", "C:\\d"),
        *("linked", "d", "new", "a/b\n/c", "\u202e", "$HOME", "$(id)", "-rf", "%2e%2e/x"),
    ]
)
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), odd_text, places),
    st.sampled_from([-1, 2**63, *Odd]),
)
json = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(odd_text, inner, max_size=4)
    ),
    max_leaves=8,
)


class Touched:
    """The paths that Python opens, lists or changes while `watch` runs."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.on = False
        sys.addaudithook(self._hear)  # for ever: there is no way to take one away

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in _FILE_EVENTS:
            given = [a for a in arguments[:2] if isinstance(a, str | bytes) and len(a) > 2]
            self.paths += [os.fsdecode(path) for path in given if os.fsdecode(path)[0] == "/"]

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        self.paths = []
        self.on = True
        try:
            yield self.paths
        finally:
            self.on = False


_FILE_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link"} | {
    *("os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod", "os.utime")
}
touched = Touched()


class Worker:
    """A worker's child without Celery: its tasks and their refusals."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder = folder
        self.output = Path(str(embedder.settings.output))
        self.tasks = make_app(embedder.settings).tasks
        self.refused: list[str] = []
        self.dataset, self.right = self._plan(embedder)
        (folder / "elsewhere").mkdir()
        (self.output / "link").symlink_to(folder / "elsewhere")
        (self.output / "file").write_text("no folder")
        shutil.copytree(self.output / "d", self.output / "linked")
        shutil.rmtree(self.output / "linked" / "plan")
        (self.output / "linked" / "plan").symlink_to(folder / "elsewhere")

    def _plan(self, embedder: Embedder) -> tuple[Dataset, dict[str, Any]]:
        root = str(self.output / "d")
        dataset = Dataset.create(root, embedder.card, kind="planned", embedding_dtype="float16")
        plan_items(dataset, ListSource([Item(id=f"t{n}", text="word") for n in range(3)]), 3)
        (shard,) = missing_shards(dataset)
        task = EmbedTask(dataset=root, tower="txt", model=embedder.card.identity, shard=shard)
        return dataset, task.to_json()

    def refuse(self, _: object, message: str, dataset: str, *, reason: str, **more: Any) -> None:
        assert len(message) < 400
        assert len(dataset) <= MAX_DATASET_LENGTH
        assert reason
        self.refused.append(reason)

    def assert_nothing_elsewhere(self, paths: list[str]) -> None:
        outside = [p for p in paths if not Path(p).is_relative_to(self.output)]
        assert [p for p in outside if not p.startswith(_OWN)] == []
        assert list((self.folder / "elsewhere").iterdir()) == []
        assert {entry.name for entry in self.folder.iterdir()} == _MADE


_OWN = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]))  # modules that are imported
_MADE = {"out", "elsewhere", "fake.txt", "fake.txt.card.json"}


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.chdir(tmp_path)
    made = load_settings(
        tower="txt",
        model=str(write_fake_engine(tmp_path, "txt")),
        output=str(tmp_path / "out"),
    )
    with Embedder.from_settings(made) as embedder:
        monkeypatch.setattr(Embedder, "current", embedder)
        worker = Worker(tmp_path, embedder)
        for module in ("clipfleet.tasks.embed_shard", "clipfleet.tasks.items.task"):
            monkeypatch.setattr(f"{module}.refuse", worker.refuse)
        for name in ("forget_waiting", "record_waiting"):  # there is no Redis
            monkeypatch.setattr(f"clipfleet.tasks.items.task.{name}", lambda *_: None)
        yield worker


@NOTHING_SHARED
@given(
    changes=st.dictionaries(
        st.sampled_from(["dataset", "tower", "model", "shard", "more", "self", "args"]), json
    ),
    shard=st.dictionaries(st.sampled_from(["job", "index", "size", "more"]), json),
    dataset=st.none() | places,
    positional=st.lists(json, max_size=2),
)
@example(changes={}, shard={"index": -1}, dataset=None, positional=[])
@example(changes={}, shard={"index": Odd.HUGE}, dataset=None, positional=[])
@example(changes={}, shard={"job": "../../etc"}, dataset=None, positional=[])
@example(changes={"model": Odd.DEEP}, shard={}, dataset=None, positional=[])
@example(changes={"self": 1}, shard={}, dataset=None, positional=[])
@example(changes={}, shard={}, dataset="linked", positional=[])
def test_a_forged_shard_is_refused_or_is_the_right_one(
    worker: Worker,
    changes: dict[str, Any],
    shard: dict[str, Any],
    dataset: str | None,
    positional: list[Any],
) -> None:
    message = {**worker.right, "shard": {**worker.right["shard"], **shard}, **changes}
    if dataset is not None:
        message["dataset"] = dataset
    message = real(message)
    worker.refused.clear()
    with touched.watch() as paths:
        worker.tasks[EMBED_TASK].run(*real(positional), **message)
    if not worker.refused:
        assert message | {"dataset": "d"} == worker.right | {"dataset": "d"}
    assert len(worker.refused) <= 1
    worker.assert_nothing_elsewhere(paths)


@NOTHING_SHARED
@given(message=st.dictionaries(odd_text, json, max_size=5))
def test_arguments_of_any_names_are_refused(worker: Worker, message: dict[str, Any]) -> None:
    worker.refused.clear()
    given = real(message)
    with touched.watch() as paths:
        worker.tasks[EMBED_TASK].run(**given)
    assert len(worker.refused) == 1
    worker.assert_nothing_elsewhere(paths)


forged_items = st.lists(
    st.one_of(json, st.fixed_dictionaries({"id": json}, optional={"text": json, "uri": json})),
    min_size=1,
    max_size=4,
)


@NOTHING_SHARED
@given(items=forged_items, dataset=st.none() | places | odd_text)
@example(items=[Odd.DEEP], dataset=None)
@example(items=[{"id": "a", "text": "b"}], dataset="d/parts/e")
@example(items=[{"id": "a", "text": "b"}], dataset="linked")
def test_forged_items_are_rows_or_refusals(
    worker: Worker, items: list[Any], dataset: str | None
) -> None:
    worker.refused.clear()
    given = parse_delivery(_message([[real(items)], {"dataset": dataset}, {}]), ack=lambda: None)
    with touched.watch() as paths:
        try:
            worker.tasks[EMBED_ITEMS_TASK].run(given.items, dataset=given.dataset)
        except BatchPostponed:  # an existing folder without a dataset: the message waits
            assert dataset == "."
    worker.assert_nothing_elsewhere(paths)


@NOTHING_SHARED
@given(body=st.one_of(json, st.tuples(json, st.dictionaries(odd_text, json), json).map(list)))
@example(body=[[Odd.DEEP], {"more": Odd.DEEP}, {}])
@example(body=[[[1]], {"dataset": Odd.HUGE}, {}])
def test_a_body_of_any_form_is_a_delivery_or_an_error_that_ends_no_worker(body: Any) -> None:
    try:
        delivery = parse_delivery(_message(real(body)), ack=lambda: None)
    except (MessageError, AttributeError, LookupError, TypeError, ValueError):
        return
    assert delivery.items
    assert delivery.dataset is None or isinstance(delivery.dataset, str)


def test_a_message_of_too_many_items_is_refused() -> None:
    items = [{"id": "a", "text": "b"}] * (MAX_MESSAGE_ITEMS + 1)
    assert len(parse_delivery(_message([[items[1:]], {}, {}]), ack=lambda: None).items)
    with pytest.raises(MessageError, match=r"of 1000001 items: .* takes at most 1000000"):
        parse_delivery(_message([[items], {}, {}]), ack=lambda: None)


@pytest.mark.parametrize(
    ("tower", "field", "limit"), [("img", "uri", MAX_URI_LENGTH), ("txt", "text", MAX_TEXT_LENGTH)]
)
def test_an_item_of_too_many_characters_is_a_row_that_is_not_as_long(
    tower: Any, field: str, limit: int
) -> None:
    assert read_single_item({"id": "a", field: "/" * limit}, tower).fault == ""
    arrival = read_single_item({"id": "a", field: "/" * (limit + 1)}, tower)
    assert arrival.fault == f"{field} has {limit + 1} characters: at most {limit} are taken"
    assert (arrival.item.uri or "") + (arrival.item.text or "") == ""


def test_the_watch_sees_what_is_touched(tmp_path: Path) -> None:
    with touched.watch() as paths:
        (tmp_path / "a").write_text("a")
        os.listdir(tmp_path)
        (tmp_path / "a").rename(tmp_path / "b")
    assert {str(tmp_path / "a"), str(tmp_path), str(tmp_path / "b")} <= set(paths)


def _message(body: Any) -> SimpleNamespace:
    return SimpleNamespace(delivery_info={}, payload=body, headers={"id": "x"})
