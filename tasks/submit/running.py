"""`running.json`: the local run that embeds a dataset now, so that a second command is refused.

A local run has a queue of its own. A second command would write its queue into `queued.json`, and
the first one's workers would no longer find the shards that wait or are lost. The file is removed
at the run's end. A killed run leaves it: on the same machine the process is looked for, from
elsewhere the file is watched, because a run renews it.

Correctness does not depend on the file: a shard that is embedded twice is committed once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from clipfleet.errors import ClipfleetError, DatasetError
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, read_queued

RUN_PATH = "running.json"
RENEW_S = 3.0
DEAD_AFTER_S = 15.0  # without a renewal: for this long, a run on another machine is watched
_POLL_S = 0.5

_LOCAL_QUEUE = re.compile(r".*\.[0-9a-f]{8}\.(img|txt)")  # of a queue, see `local_prefix`

log = logging.getLogger(__name__)


def local_prefix(prefix: str) -> str:
    """Return a queue prefix for one local run: nobody serves its queue after the run."""
    return f"{prefix}.{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRun:
    """The contents of the file. `process` tells processes of one machine apart, see `_process`."""

    queue: str
    host: str
    pid: int
    process: str
    beat: int = 0  # renewals

    def to_json(self) -> bytes:
        """Return the text of the file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


class HeldDataset:
    """A dataset that this process embeds."""

    def __init__(self, dataset: Dataset, run: LocalRun) -> None:
        self._dataset = dataset
        self._run = run
        self._queued = False  # this run wrote its queue into `queued.json`
        self._taken_by = ""

    def check(self) -> None:
        """Refuse to go on after another command took the dataset over.

        Raises:
            DatasetError: One did.
        """
        if self._taken_by:
            raise DatasetError(
                f"{self._taken_by} took dataset {self._dataset.root} over from this command: its "
                "workers go on; committed shards stay"
            )

    def renew(self) -> None:
        """Write the file again, unless another command wrote it, or the queue, meanwhile."""
        found, queued = read_run(self._dataset), read_queued(self._dataset)
        if found is not None and found.queue != self._run.queue:
            self._taken_by = _named(found)
        elif self._queued and queued is not None and queued.queue != self._run.queue:
            self._taken_by = f"a command for the queue {queued.queue}"
        else:
            self._queued |= queued is not None and queued.queue == self._run.queue
            self._run = replace(self._run, beat=self._run.beat + 1)
            self._dataset.fs.replace(RUN_PATH, self._run.to_json())


@contextmanager
def hold_dataset(dataset: Dataset, queue: str) -> Iterator[HeldDataset]:
    """Hold a dataset for a local run with a queue of its own.

    Raises:
        DatasetError: Another local run holds it, or shards of it wait in a fleet's queue.
    """
    refuse_others(dataset, queue)
    run = LocalRun(
        queue=queue, host=socket.gethostname(), pid=os.getpid(), process=_process(os.getpid())
    )
    while not dataset.fs.create(RUN_PATH, run.to_json()):
        refuse_local_run(dataset, queue)  # another command began just now
    held, ended = HeldDataset(dataset, run), threading.Event()
    renewal = threading.Thread(target=_renew, args=(held, ended), daemon=True)
    renewal.start()
    try:
        yield held
    finally:
        ended.set()
        renewal.join()
        with suppress(ClipfleetError):  # an earlier error is more important; the file gets old
            found = read_run(dataset)
            if found is not None and found.queue == queue:
                dataset.fs.delete(RUN_PATH)


def refuse_others(dataset: Dataset, queue: str) -> None:
    """Refuse to queue shards in a queue while a local run or another fleet has the dataset's.

    Raises:
        DatasetError: One has.
    """
    refuse_local_run(dataset, queue)
    queued = read_queued(dataset)
    if queued is None or queued.queue == queue or _LOCAL_QUEUE.fullmatch(queued.queue):
        return
    if next(missing_shards(dataset), None) is not None:
        raise DatasetError(
            f"shards of dataset {dataset.root} are not done, and were queued in {queued.queue}: "
            "wait until its workers have embedded them. If it has no workers any more, delete "
            f"{QUEUED_PATH} in the dataset and run again, or queue them in another fleet by "
            "`clipfleet resume`"
        )


def refuse_local_run(dataset: Dataset, queue: str) -> None:
    """Refuse to go on while a local run with another queue lives; remove a dead one's file.

    Raises:
        DatasetError: It lives.
    """
    found = read_run(dataset)
    if found is None or found.queue == queue:
        return
    if _is_alive(dataset, found):
        raise DatasetError(
            f"{_named(found)} embeds dataset {dataset.root} now: wait until it ends, or stop it, "
            "and run again"
        )
    log.info("the run of %s is over: it was killed", _named(found))
    dataset.fs.delete(RUN_PATH)


def read_run(dataset: Dataset) -> LocalRun | None:
    """Return the contents of the file; None if there is none. A damaged one is as good as none."""
    try:
        return LocalRun(**json.loads(dataset.fs.read(RUN_PATH)))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError):
        dataset.fs.delete(RUN_PATH)
        return None


def _is_alive(dataset: Dataset, run: LocalRun) -> bool:
    machine, _, _ = _process(os.getpid()).rpartition(" ")
    if machine and run.process.startswith(f"{machine} "):
        return _process(run.pid) == run.process
    ends_s = time.monotonic() + DEAD_AFTER_S
    while time.monotonic() < ends_s:
        time.sleep(_POLL_S)
        if read_run(dataset) != run:  # it was renewed, or another command took over
            return read_run(dataset) is not None
    return False


def _process(pid: int) -> str:
    """Return what is unique to a process: the boot, the namespace of its pid, and its start.

    "" if it does not exist, or the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
        # After the name, which may hold blanks: the third field is the state, the 22nd the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    return "" if state == b"Z" else f"{boot} {namespace} {start.decode()}"


def _named(run: LocalRun) -> str:
    return f"process {run.pid} on {run.host}"


def _renew(held: HeldDataset, ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        with suppress(ClipfleetError):  # the disk may answer the next time
            held.renew()
