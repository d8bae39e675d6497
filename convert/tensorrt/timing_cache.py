"""TensorRT's timing cache: the measurements of earlier builds, in a file beside the models.

A cache is valid for one TensorRT version on one GPU model; its name has both. Several builders
may share it: each adds its measurements to the file's present content.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipfleet.atomic_write import atomic_write
from clipfleet.workers.engines.tensorrt.place import gpu_slug

SUFFIX = ".timing.cache"

Report = Callable[[str], None]


def cache_name(version: str, gpu: str) -> str:
    """Return the file name of a TensorRT version's cache for a GPU model."""
    return f"tensorrt-{version}-{gpu_slug(gpu)}{SUFFIX}"


class TimingCache:
    """A cache file, attached to one build."""

    def __init__(self, path: Path, config: Any, report: Report, *, own_name: str) -> None:
        """Attach the file's content to a builder's config; start empty where it is not valid.

        `own_name` is the name for this version and GPU (`cache_name`). A file of another name
        that is damaged, or of another version or GPU, is not changed: the file `own_name` beside
        it is used instead, and `report` is called.
        """
        self.path = path
        self._config = config
        self._report = report
        self._read = b""
        self._cache: Any = None
        own = path.with_name(own_name)
        if self._attach(path):
            return
        wrong = f"timing cache {path} is damaged, unreadable, or of another version or GPU"
        if path != own:
            report(f"{wrong}: it stays as it is, and {own.name} beside it is used")
            self.path = own
            if self._attach(own):
                return
        else:
            report(f"{wrong}: it is begun anew")
        self._cache = config.create_timing_cache(b"")
        config.set_timing_cache(self._cache, False)

    def _attach(self, path: Path) -> bool:
        """Have the builder use a file's content; return whether it can."""
        try:
            self._read = _content(path)
        except OSError:
            return False
        self._cache = _created(self._config, self._read)
        return self._cache is not None and bool(self._config.set_timing_cache(self._cache, False))

    def save(self) -> None:
        """Add this build's measurements to the file; a failure only slows later builds."""
        try:
            with _locked(self.path):
                self._merge(_content(self.path))
                _replace(self.path, self._cache.serialize())
        except OSError as error:
            self._report(f"timing cache {self.path} cannot be written: {error.strerror}")

    def _merge(self, content: bytes) -> None:
        if not content or content == self._read:
            return  # no other build has written since
        others = _created(self._config, content)
        if others is not None:
            self._cache.combine(others, False)


def _created(config: Any, content: bytes) -> Any:
    """Return the cache of a file's content; None where TensorRT does not take it.

    TensorRT rejects it by None, by the TypeError that its binding raises for a null pointer, or
    silently: then the cache is as empty as one without content.
    """
    try:
        cache = config.create_timing_cache(content)
    except TypeError:
        return None
    if cache is None or not content:
        return cache
    kept = bytes(memoryview(cache.serialize()))
    empty = bytes(memoryview(config.create_timing_cache(b"").serialize()))
    return None if kept == empty and content != empty else cache


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on a cache file; the lock is a separate file, as the cache is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: Any) -> None:
    with atomic_write(path) as part:
        part.write_bytes(memoryview(content))
