"""The input of users: names in commands, the environment, names of files, texts."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import typer.testing

from clipfleet.cli.main import app
from clipfleet.errors import ClipfleetError
from clipfleet.items import Item
from clipfleet.settings import PREFIX, Settings, load_settings
from clipfleet.storage.filesystem.locations import absolute, in_object_store
from clipfleet.storage.format.results import Failure
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.environment import environment_of
from clipfleet.workers.input_chunks import tokenise
from clipfleet.workers.text.tokenizer import Tokenizer
from tests.fuzz.dataset_targets import make_dataset
from tests.fuzz.target import Make, Target

_CONTEXT_LENGTH = 16
_FIELDS = sorted(Settings.model_fields)
_COMMANDS = (("verify",), ("errors",), ("errors", "--json"), ("errors", "d", "--only"))


def command(folder: Path) -> Target:
    """The name of a dataset, or of a class of errors, in a command; the first byte says which."""
    make_dataset(folder / "d")
    runner = typer.testing.CliRunner()

    def run(data: bytes) -> None:
        words = _COMMANDS[data[0] % len(_COMMANDS)] if data else _COMMANDS[0]
        name = os.fsdecode(data[1:].replace(b"\0", b""))  # a command line has no NUL
        if name.startswith("-") or in_object_store(name):
            return
        with suppress(ClipfleetError):
            absolute(name)
        done = runner.invoke(app, [*words, name])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception

    names = (b"d", b"./d/../d", b"file:d", b"file:///a%00b", b"\xff", b"missing", b"x" * 5000)
    seeds = [bytes([n]) + name for name in names for n in range(len(_COMMANDS))]
    return Target(run=run, seeds=tuple(seeds), reads_anything=True)


def environment(folder: Path) -> Target:
    """A variable of the environment: the first byte says which."""

    def run(data: bytes) -> None:
        field = _FIELDS[data[0] % len(_FIELDS)] if data else _FIELDS[0]
        value = os.fsdecode(data[1:].replace(b"\0", b""))
        with patch.dict(os.environ, {f"{PREFIX}{field.upper()}": value}):
            settings = load_settings()
            handed = environment_of(settings)
        with patch.dict(os.environ, handed, clear=True):
            assert load_settings() == settings, "a worker's child has other settings"

    values = ("5", "/data:/more", "a.example,*.b.example:1", "redis://h/0", "txt", "k" * 32, "1e3")
    seeds = [bytes([n]) + value.encode() for value in values for n in range(len(_FIELDS))]
    right = bytes([_FIELDS.index("shard_size")]) + b"5"
    return Target(run=run, seeds=(right, *seeds))


def folder_source(folder: Path) -> Target:
    """The names of files in a source, a line each; one that begins with > is a link."""
    root = folder / "source"

    def run(data: bytes) -> None:
        _make_files(os.fsencode(root), data)
        try:
            for item in open_source(str(root), tower="img"):
                item.id.encode()  # it will be a row
        finally:
            _remove(os.fsencode(root))

    seeds = (
        b"a.jpg\nb.PNG\nc.txt",
        b"\xff.jpg\n\xc3\xa9.jpg\n\\xff.jpg",
        b">a.jpg\n>.\n..jpg\n\x1b.jpg",
    )
    return Target(run=run, seeds=seeds)


def _make_files(root: bytes, data: bytes) -> None:
    os.mkdir(root)
    for line in data.replace(b"\0", b"").replace(b"/", b"").split(b"\n")[:20]:
        with suppress(OSError):  # a name twice, too long, or of a folder
            if line.startswith(b">") and line != b">..":  # a source's user may read all that
                os.symlink(line[1:] or b".", os.path.join(root, line + b".jpg"))
            else:
                os.close(os.open(os.path.join(root, line), os.O_CREAT | os.O_WRONLY))


def _remove(root: bytes) -> None:
    for name in os.listdir(root):
        os.unlink(os.path.join(root, name))
    os.rmdir(root)


def text(folder: Path) -> Target:
    """A text, up to the ids that a model takes."""
    tokenizer = Tokenizer()
    first = tokenizer.encode([""], _CONTEXT_LENGTH)[0, 0]

    def run(data: bytes) -> None:
        item = Item(id="a", text=data.decode(errors="replace"))
        ids, (outcome,) = tokenise([item], _CONTEXT_LENGTH, tokenizer)
        assert len(ids) == (not isinstance(outcome, Failure))
        assert (ids[:, 0] == first).all()
        assert ((ids >= 0) & (ids < len(tokenizer))).all()

    seeds = ("words, 词", "", "\u0130\ufb03\U000e0001 é", "x" * 300, "[CLS] [SEP]")
    return Target(run=run, seeds=tuple(seed.encode() for seed in seeds))


USER_TARGETS: dict[str, Make] = {
    "command": command,
    "environment": environment,
    "folder": folder_source,
    "text": text,
}
