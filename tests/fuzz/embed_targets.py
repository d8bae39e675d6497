"""Messages through a worker's child, up to the verification of its dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from clipfleet.architectures import Tower
from clipfleet.errors import ClipfleetError
from clipfleet.messages import EmbedTask, Shard
from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.tasks.embed_shard import embed_shard
from clipfleet.tasks.items.embed import embed_single_items
from clipfleet.tasks.items.parse import read_single_items
from clipfleet.tasks.items.task import open_dataset
from clipfleet.workers import open_decoders
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from tests.fuzz.dataset_targets import CARD, DIM, contents, make_dataset, restore
from tests.fuzz.decoders_here import DecodersHere
from tests.fuzz.target import Make, Target

_RESOLUTION = 4


def _embedder(tower: Tower, output: Path, roots: tuple[str, ...]) -> Embedder:
    card = CARD if tower == "txt" else fake_card("img", dim=DIM, resolution=_RESOLUTION)
    settings = Settings(
        output=str(output), tower=tower, input_roots=roots, decoders=1, read_attempts=1
    )
    with mock.patch.object(open_decoders, "Decoders", DecodersHere):
        return Embedder(FakeEngine(card), settings)


def items(tower: Tower, folder: Path) -> Target:
    """The items of a message, and its dataset, of which all that has an id becomes a row."""
    output, inputs = folder / "output", folder / "inputs"
    inputs.mkdir()
    sample = next((Path(__file__).parents[2] / "workers" / "images" / "samples").rglob("*.jpg"))
    shutil.copy(sample, inputs / "a.jpg")
    (inputs / "out.jpg").symlink_to("/etc/passwd")
    embedder = _embedder(tower, output, (str(inputs.resolve()),))

    def run(data: bytes) -> None:
        try:
            message = json.loads(data)
            given, named = message["items"], message.get("dataset")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return  # no message of ours: the targets `element` and `body` have these
        if not isinstance(given, list) or not isinstance(named, str | None):
            return
        output.mkdir()
        try:
            _embed(given, named)
        finally:
            shutil.rmtree(output)

    def _embed(given: list[Any], named: str | None) -> None:
        dataset = open_dataset(embedder, named)
        arrivals, _ = read_single_items(given, tower)
        embed_single_items(arrivals, dataset, embedder, worker="w")
        result = verify_dataset(dataset.root)
        assert result.ok, result.problems
        assert result.vectors + result.errors == len({arrival.item.id for arrival in arrivals})

    return Target(run=run, seeds=tuple(_item_seeds(tower, inputs)))


def _item_seeds(tower: Tower, inputs: Path) -> list[bytes]:
    field = "uri" if tower == "img" else "text"
    values = [str(inputs / "a.jpg"), "words", ""]
    places = [f"{inputs}/../a", "/etc/passwd", f"file://{inputs}/out.jpg", "https://h/a", "\0"]
    first = [{"id": f"i{n}", field: value} for n, value in enumerate(values)]
    second = [{"id": f"i{n}", field: value} for n, value in enumerate([*places, 5])]
    seeds: list[dict[str, Any]] = [
        {"items": first},
        {"items": [*second, {"id": "\ud800"}, 5], "dataset": "a/b"},
        {"items": [*first, *first], "dataset": "../out"},
    ]
    return [json.dumps(seed).encode() for seed in seeds]


def task(folder: Path) -> Target:
    """The arguments of a shard's message, for a worker with one dataset."""
    output = folder / "output"
    dataset = make_dataset(output / "d")
    open_shards = list(missing_shards(dataset))
    before = contents(output)
    embedder = _embedder("txt", output, ())

    def run(data: bytes) -> None:
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return  # the consumer has looked at that
        try:
            embed_shard(EmbedTask.from_json(message), embedder, worker="w")
        except ClipfleetError as error:
            str(error).encode(errors="surrogatepass")
        finally:
            restore(output, before)

    message: Callable[..., EmbedTask] = partial(EmbedTask, tower="txt", model=CARD.identity)
    tasks = [message(dataset="d", shard=shard) for shard in open_shards]
    tasks += [
        message(dataset=name, shard=Shard(job="00001", index=9, size=4))
        for name in ("../d", "d/parts", dataset.root, "file:///etc", "\0", "s3://b/d")
    ]
    return Target(run=run, seeds=tuple(json.dumps(each.to_json()).encode() for each in tasks))


EMBED_TARGETS: dict[str, Make] = {
    "text_items": partial(items, "txt"),
    "image_items": partial(items, "img"),
    "task": task,
}
