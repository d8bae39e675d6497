"""The targets: each feeds bytes to one of the ways by which strangers' bytes come in.

A target passes if its input is right, or ends as a `ClipfleetError`. Messages may also end as
one of the errors that the worker's transport and consumer turn into refusals.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kombu.exceptions import ContentDisallowed, DecodeError, SerializationError
from kombu.transport.virtual import Channel
from kombu.utils.json import loads
from PIL import Image

from clipfleet.card import check_files, load_card
from clipfleet.errors import ClipfleetError
from clipfleet.jobs import EMBED_TASK, EmbedTask, Shard
from clipfleet.models import Tower, load_architecture
from clipfleet.settings import load_settings
from storage.sources import open_source
from tasks.arrivals import read_arrival
from tasks.messages import arguments_of, keep_used
from tasks.output import dataset_root
from tasks.receive import parse_delivery
from tasks.signing import SIGNATURE_HEADER, check_signature, signature
from tasks.transport import PARSE_ERRORS, CarefulMessage
from tests.fuzz.dataset_targets import DATASET_TARGETS
from tests.fuzz.embed_targets import EMBED_TARGETS
from tests.fuzz.process_targets import PROCESS_TARGETS
from tests.fuzz.redis_targets import REDIS_TARGETS
from tests.fuzz.tables import table_target
from tests.fuzz.target import Make, Target
from tests.fuzz.user_targets import USER_TARGETS
from tests.fuzz.web_targets import WEB_TARGETS
from workers.decode import decode
from workers.engines.fake import write_fake_engine

TOWERS: tuple[Tower, ...] = ("img", "txt")
# What the worker's consumer turns into a refusal.
_REFUSED = (ClipfleetError, ContentDisallowed, DecodeError, SerializationError, *PARSE_ERRORS)
_QUEUE = "clipfleet.txt"
_KEY = "k" * 32
_MAX_PIXELS = 1_000_000


def element(folder: Path) -> Target:
    """What a list of Redis holds, up to the task that it is for."""

    def run(data: bytes) -> None:
        try:
            message = CarefulMessage(loads(data.decode()), channel=_CHANNEL)
        except PARSE_ERRORS:
            return  # the transport drops it
        _consume(message, folder)

    return Target(run=run, seeds=tuple(json.dumps(_element(body)).encode() for body in _BODIES))


def body(folder: Path) -> Target:
    """The body of a message whose headers are right, of either task."""

    def run(data: bytes) -> None:
        for task in (EMBED_TASK, "clipfleet.embed_items"):
            raw = _element("", task=task) | {"body": data.decode("latin-1")}
            raw["content-encoding"] = "latin-1"  # the bytes as they are
            _consume(CarefulMessage(raw, channel=_CHANNEL), folder)

    return Target(run=run, seeds=tuple(body.encode() for body in _BODIES))


def signed(folder: Path) -> Target:
    """A signed message: task, id and body, a NUL between them; it is no other one, moved about."""

    def run(data: bytes) -> None:
        task, id_, body = ([*data.decode("latin-1").split("\x00", 2), "", ""])[:3]
        made = signature(_KEY, task=task, id_=id_, queue=_QUEUE, body=body.encode())
        headers = {"task": task, "id": id_, SIGNATURE_HEADER: made}
        message = SimpleNamespace(headers=headers, body=body, content_encoding="utf-8")
        assert _is_taken(message, _QUEUE) is ("\n" not in task + id_)
        assert not _is_taken(message, "clipfleet.img")
        first, _, rest = body.partition("\n")
        for changes, text in (
            ({"task": f"{task}\n{id_}", "id": _QUEUE}, body),
            ({"id": f"{id_}\n{_QUEUE}"}, body),
            ({"id": f"{id_}\n{_QUEUE}\n{first}"}, rest),
            ({"task": id_, "id": task}, body),
            ({}, f"{body} "),
        ):
            if (changes.get("task", task), changes.get("id", id_), text) != (task, id_, body):
                moved = SimpleNamespace(
                    headers=headers | changes, body=text, content_encoding="utf-8"
                )
                assert not _is_taken(moved, _QUEUE)

    return Target(
        run=run, seeds=(b"clipfleet.embed\0a\0{}", b"a\nb\0c\0d", b"a\0b\nclipfleet.txt\0c\nd")
    )


def _is_taken(message: Any, queue: str) -> bool:
    try:
        check_signature(message, queue=queue, keys=["o" * 32, _KEY])
    except ClipfleetError:
        return False
    return True


def _consume(message: CarefulMessage, folder: Path) -> None:
    """Do what the worker's parent and child do with a message, short of embedding."""
    output = folder / "output"
    output.mkdir(exist_ok=True)
    try:
        check_signature(message, queue=_QUEUE, keys=[_KEY])
    except ClipfleetError:
        pass
    else:
        raise AssertionError("a message was signed without the key")
    try:
        message.accept = {"application/json"}
        keep_used(message)
        if message.headers.get("task") == EMBED_TASK:
            _, keywords = arguments_of(message)
            dataset_root(str(output), EmbedTask.from_json(keywords).dataset)
        else:
            delivery = parse_delivery(message, ack=lambda: None)
            _read_items(delivery.items)
            dataset_root(str(output), delivery.dataset or "items-txt")
    except _REFUSED:
        pass  # the consumer refuses it


def _read_items(items: list[Any]) -> None:
    for item in items:
        for tower in TOWERS:
            try:
                arrival = read_arrival(item, tower)
            except ClipfleetError:
                continue
            arrival.item.id.encode()  # it will be a row
            arrival.fault.encode(errors="surrogatepass")


class _Channel:
    """As much of a channel as a message needs."""

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        return body if not encoding else Channel.codecs[encoding].decode(body)


_CHANNEL = _Channel()


def _element(body: str, *, task: str = EMBED_TASK) -> dict[str, Any]:
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": "a", SIGNATURE_HEADER: "0" * 64},
        "properties": {
            "delivery_tag": "1",
            "body_encoding": "",
            "delivery_info": {"exchange": "", "routing_key": _QUEUE},
        },
    }


def _bodies() -> tuple[str, ...]:
    shard = Shard(job="00001", index=0, size=3)
    task = EmbedTask(dataset="d", tower="txt", model="a" * 64, shard=shard)
    item = {"id": "a", "text": "words"}
    return tuple(
        json.dumps(value)
        for value in (
            [[], task.to_json(), {}],
            [[[item]], {"dataset": "../../etc"}, {}],
            [[[item, {"id": "b", "uri": "/etc/passwd"}]], {}, {"chain": None}],
            {"args": [], "kwargs": asdict(task), "task": EMBED_TASK, "id": "a"},
        )
    )


_BODIES = _bodies()


def card(folder: Path) -> Target:
    """A model card."""
    path = write_fake_engine(folder, "txt")
    right = path.read_bytes()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        found, engine = load_card(path)
        check_files(found, engine)

    return Target(run=run, seeds=(right,))


def architecture(folder: Path) -> Target:
    """An architecture file."""
    path = folder / "a.json"
    published = Path(__file__).parents[2] / "clipfleet" / "architectures"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load_architecture(path)

    return Target(run=run, seeds=tuple(p.read_bytes() for p in sorted(published.glob("*.json"))))


def settings(folder: Path) -> Target:
    """`clipfleet.toml`."""
    path = folder / "clipfleet.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load_settings()

    seed = b'redis_url = "redis://h/0"\nshard_size = 5\ninput_roots = ["/data"]\nwindow_s = 0.5\n'
    return Target(run=run, seeds=(seed,))


def image(folder: Path) -> Target:
    """The bytes of a picture."""
    samples = Path(__file__).parents[2] / "convert" / "samples"
    seeds = [p.read_bytes() for p in sorted(samples.rglob("*")) if p.suffix in {".jpg", ".png"}]

    def run(data: bytes) -> None:
        decode(data, "x", _MAX_PIXELS)

    return Target(run=run, seeds=(*_small_images(), *seeds[:1]))


def _small_images() -> list[bytes]:
    made = []
    for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"):
        file = BytesIO()
        Image.new("RGB", (4, 3), "red").save(file, kind)
        made.append(file.getvalue())
    return made


def _source(suffix: str, *seeds: str) -> Make:
    def make(folder: Path) -> Target:
        path = folder / f"source{suffix}"

        def run(data: bytes) -> None:
            path.write_bytes(data)
            for tower in TOWERS:
                _read_source(path, tower)

        return Target(run=run, seeds=tuple(seed.encode() for seed in seeds))

    return make


def _read_source(path: Path, tower: Tower) -> None:
    try:
        for item in open_source(str(path), tower=tower):
            item.id.encode()  # it will be a row
    except ClipfleetError as error:
        str(error)


def _rows(separator: str) -> str:
    rows = (("id", "uri", "text"), ("a", "b.jpg", '"x, y"'), ("2", "/c.png", "é"))
    return "\n".join(separator.join(row) for row in rows) + "\n"


_JSONL = '{"id": "a", "uri": "b.jpg", "text": "c"}\n{"id": 5, "uri": "file:///d", "text": "e"}\n'

TARGETS: dict[str, Make] = {
    "element": element,
    "body": body,
    "signed": signed,
    "jsonl": _source(".jsonl", _JSONL),
    "csv": _source(".csv", _rows(",")),
    "tsv": _source(".tsv", _rows("\t")),
    "lines": _source(".txt", "a\nb\n\nc.jpg\n"),
    **{name: table_target(name, _read_source) for name in ("parquet", "tables")},
    "card": card,
    "architecture": architecture,
    "settings": settings,
    "image": image,
    **REDIS_TARGETS,
    **WEB_TARGETS,
    **PROCESS_TARGETS,
    **USER_TARGETS,
    **EMBED_TARGETS,
    **DATASET_TARGETS,
}
