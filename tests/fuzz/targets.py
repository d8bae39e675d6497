"""The targets: each feeds bytes to one of the ways by which strangers' bytes come in.

A target passes if its input is right, or ends as a `ClipfleetError`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from clipfleet.architectures import Tower, load_architecture
from clipfleet.engine_files import check_files
from clipfleet.errors import ClipfleetError
from clipfleet.images import PictureRules
from clipfleet.model_card import load_card
from clipfleet.settings import load_settings
from clipfleet.storage.sources.open_source import open_source
from clipfleet.tasks.broker.signing import SIGNATURE_HEADER, check_signature, signature
from clipfleet.workers.engines.fake import write_fake_engine
from clipfleet.workers.images.decode import decode
from clipfleet.workers.images.read import read_bytes
from tests.fuzz.archive_targets import ARCHIVE_TARGETS
from tests.fuzz.dataset_targets import DATASET_TARGETS
from tests.fuzz.embed_targets import EMBED_TARGETS
from tests.fuzz.process_targets import PROCESS_TARGETS
from tests.fuzz.redis_targets import REDIS_TARGETS
from tests.fuzz.tables import table_target
from tests.fuzz.target import Make, Target, rows
from tests.fuzz.user_targets import USER_TARGETS
from tests.fuzz.web_targets import WEB_TARGETS

TOWERS: tuple[Tower, ...] = ("img", "txt")
_QUEUE = "clipfleet.txt"
_KEY = "k" * 32
_MAX_PIXELS = 1_000_000
_MAX_BYTES = 1 << 20
_IN_THE_FILE = ("parquet://", "base64://")
_RULES = PictureRules(sixteen_bit="scale", alpha="white", truncated="allow")


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
    samples = Path(__file__).parents[2] / "workers" / "images" / "samples"
    seeds = [p.read_bytes() for p in sorted(samples.rglob("*")) if p.suffix in {".jpg", ".png"}]

    def run(data: bytes) -> None:
        with rows():
            decode(data, "x", _MAX_PIXELS)
        decode(data, "x", _MAX_PIXELS, _RULES)

    return Target(run=run, seeds=(*_small_images(), *seeds[:1]))


def _small_images() -> list[bytes]:
    made = []
    for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"):
        file = BytesIO()
        Image.new("RGB", (4, 3), "red").save(file, kind)
        made.append(file.getvalue())
    made.append(made[-1][:-2])  # a JPEG file without its end
    for mode in ("I;16", "LA"):
        file = BytesIO()
        Image.new(mode, (4, 3)).save(file, "PNG")
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
            if item.uri and item.uri.startswith(_IN_THE_FILE):
                with rows():
                    read_bytes(item.uri, _MAX_BYTES, [str(path.parent)])
    except ClipfleetError as error:
        str(error)


def _rows(separator: str) -> str:
    rows = (("id", "uri", "text"), ("a", "b.jpg", '"x, y"'), ("2", "/c.png", "é"))
    return "\n".join(separator.join(row) for row in rows) + "\n"


_JSONL = '{"id": "a", "uri": "b.jpg", "text": "c"}\n{"id": 5, "uri": "file:///d", "text": "e"}\n'
_JSON_OBJECTS = _JSONL.strip().replace("\n", ", ")

TARGETS: dict[str, Make] = {
    "signed": signed,
    "jsonl": _source(".jsonl", _JSONL),
    "json": _source(".json", f"[{_JSON_OBJECTS}]", "[1, {}]"),
    "imgs": _source("_imgs.tsv", "1\tYWJj\n22\tYW-_\r\n", "a\tb\n\n3\tYWJ"),
    "csv": _source(".csv", _rows(",")),
    "tsv": _source(".tsv", _rows("\t")),
    "lines": _source(".txt", "a\nb\n\nc.jpg\n"),
    **{name: table_target(name, _read_source) for name in ("parquet", "tables")},
    "card": card,
    "architecture": architecture,
    "settings": settings,
    "image": image,
    **ARCHIVE_TARGETS,
    **REDIS_TARGETS,
    **WEB_TARGETS,
    **PROCESS_TARGETS,
    **USER_TARGETS,
    **EMBED_TARGETS,
    **DATASET_TARGETS,
}
