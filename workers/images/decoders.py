"""Decoders: processes that read and decode pictures ahead of the engine.

Decoding in processes uses all cores, which threads of one Python process do not. A picture can end
the process that decodes it (by a fault in a decoder's C code, or by its memory) or block it for
ever. That costs one process, which is started again, and the picture that the process held one
attempt. After a few attempts the picture becomes an error; the others go on.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from clipfleet.error_codes import DECODE_TIMEOUT, DECODER_CRASHED
from clipfleet.errors import ItemError, StorageError
from clipfleet.images import DEFAULT_RULES, PictureRules
from clipfleet.items import Item
from clipfleet.storage.filesystem.members import is_fetched
from clipfleet.storage.format.results import Failure
from clipfleet.workers.closing import Closing
from clipfleet.workers.images.decode import ImageLimits, no_image
from clipfleet.workers.images.decoder import Decoder, DecoderLostError, Picture, Request
from clipfleet.workers.images.read import is_in_order, read_bytes
from clipfleet.workers.images.region import Layout
from clipfleet.workers.item_errors import shown

Outcome = Picture | Failure

_START_S = 60.0  # a busy machine starts a process slowly
_STARTS = 3  # of a decoder that ends before it is ready
_PAUSE_S = 0.5  # doubled each time, after a kill that may have come from outside
_LOOK_S = 0.5  # between two looks for held decoders
_FULL_S = 0.01  # the same while no decoder has room, until the caller has freed some
_TAKEN = 16  # pictures between two looks for answers
_FETCHES = 8  # threads that wait for URLs
_MAX_BODIES = 2 * _FETCHES  # of URLs, until decoders have them

log = logging.getLogger(__name__)


def nothing() -> None:
    """Do nothing."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Run:
    """One call of `Decoders.run`."""

    items: Sequence[Item]
    outcomes: list[Outcome | None]
    rules: PictureRules
    exact: bool
    sha256: bool
    files: Sequence[bytes] | None = None  # of the items, where they are at hand
    next: int = 0  # the first item that no decoder and no fetch has had
    again: list[Request] = field(default_factory=list)  # fetched, or to be tried again
    fetches: dict[int, Future[None]] = field(default_factory=dict)  # by the item's position
    # Filled by the threads of `fetches`.
    fetched: deque[tuple[Request, Exception | None]] = field(default_factory=deque)
    awaited: int = 0  # the first item that the caller has not taken

    def request(self, number: int, uri: str) -> Request:
        """Return what a decoder is asked for an item."""
        return Request(
            number=number,
            uri=uri,
            rules=self.rules,
            exact=self.exact,
            sha256=self.sha256,
            data=self.files[number] if self.files else None,
        )

    def waiting_before(self, number: int) -> int:
        """Return how many earlier items no decoder has yet."""
        later = [request.number for request in self.again if request.number < number]
        return len(later) + sum(fetching < number for fetching in self.fetches)

    @property
    def may_fetch(self) -> bool:
        """Whether another URL may be fetched: bodies take memory until a decoder has them."""
        bodies = sum(request.data is not None for request in self.again)
        return len(self.fetches) + bodies < _MAX_BODIES


class Decoders(Closing):
    """A pool of decoder processes, which starts at once; a context manager.

    One thread uses it: it hands out pictures and takes answers whenever it takes a picture. A
    decoder has as many requests as its region has slots, so it works while the engine does. All
    regions together have a third more slots than pictures are decoded ahead. The caller may hold
    so many pictures.
    """

    def __init__(
        self,
        limits: ImageLimits,
        layout: Layout,
        *,
        count: int,
        attempts: int,
        timeout_s: float,
        pause_s: float = _PAUSE_S,
        pin: Callable[[int, int], Callable[[], None]] | None = None,
    ) -> None:
        """Start `count` processes.

        `pin` gets the address and the size of each region, and returns what releases them.

        Raises:
            StorageError: No process starts.
        """
        self._limits = limits
        self._layout = layout
        self._count = count
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._pin = pin
        self._failed_starts = 0  # since the last decoder that started
        self._ended_work_s = (0.0, 0.0)  # of decoders that ended, since the last `take_work`
        self._decoders: list[Decoder] = []
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # a URL was fetched
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._fetches = ThreadPoolExecutor(_FETCHES, thread_name_prefix="url")
        # One: they are read in their order, and a row group or a .tar.gz is unpacked once.
        self._in_order = ThreadPoolExecutor(1, thread_name_prefix="in order")
        self._closing = threading.Lock()  # held while a thread wakes this one, or after the end
        try:
            self._start_missing()
        except StorageError:
            self.close()
            raise

    def run(
        self,
        items: Sequence[Item],
        *,
        rules: PictureRules = DEFAULT_RULES,
        exact: bool = False,
        sha256: bool = False,
        files: Sequence[bytes] | None = None,
        progress: Callable[[], None] = nothing,
        idle: Callable[[], None] = nothing,
    ) -> Generator[Outcome, None, None]:
        """Yield a picture or a failure for each of `items`, in order.

        The caller frees each picture. Before it has to wait for one, `idle` is called, in which it
        may free others. `progress` is called when pictures get done while it waits, and after each
        attempt of a picture that ended its decoder. If `exact`, no picture is left to the GPU to
        decode. If `sha256`, the fingerprints have that of the bytes. With `files`, the bytes of
        each item's file, nothing is read, and a uri is a name.

        Raises:
            StorageError: A file system did not answer, or no process starts.
        """
        run = _Run(
            items=items,
            outcomes=[None] * len(items),
            rules=rules,
            exact=exact,
            sha256=sha256,
            files=files,
        )
        try:
            for decoder in list(self._decoders):
                if decoder.is_held:  # by an earlier run, whose caller failed
                    self._end(decoder)
            self._start_missing()
            for number in range(len(items)):
                if number % _TAKEN == 0:
                    self._look(run, 0)
                while (outcome := run.outcomes[number]) is None:
                    idle()
                    if self._look(run, _LOOK_S):
                        progress()
                run.outcomes[number] = None
                run.awaited = number + 1
                yield outcome
        finally:
            for fetch in run.fetches.values():
                fetch.cancel()
            if run.awaited < len(items):  # an error: what the decoders still do is not needed
                self._end_all()

    def take_work(self) -> tuple[float, float]:
        """Return the seconds of reading and of decoding since the last call, of all decoders."""
        read_s, decode_s = self._ended_work_s
        self._ended_work_s = (0.0, 0.0)
        for decoder in self._decoders:
            more_read_s, more_decode_s = decoder.take_work()
            read_s, decode_s = read_s + more_read_s, decode_s + more_decode_s
        return read_s, decode_s

    def _look(self, run: _Run, timeout_s: float) -> bool:
        """Take answers, and hand out pictures; return whether there were answers."""
        self._hand_out(run)
        if not any(decoder.requests for decoder in self._decoders):
            timeout_s = min(timeout_s, _FULL_S)
        found = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.eventfd_read(self._wake)
                found = True
            elif key.data in self._decoders:  # not ended meanwhile
                found |= self._receive(run, key.data)
        found |= self._end_held(run)
        self._take_fetched(run)
        self._hand_out(run)
        return found

    def _receive(self, run: _Run, decoder: Decoder) -> bool:
        found = False
        try:
            for request, answer in decoder.answers():
                found = True
                if isinstance(answer, StorageError):
                    raise answer
                if isinstance(answer, Picture):
                    run.outcomes[request.number] = answer
                else:
                    run.outcomes[request.number] = self._failure(run, request, answer)
        except DecoderLostError as lost:
            self._replace(run, decoder, lost)
            found = True
        return found

    @staticmethod
    def _failure(run: _Run, request: Request, error: ItemError) -> Failure:
        return Failure(item=run.items[request.number], error=error.code, message=str(error))

    def _replace(self, run: _Run, decoder: Decoder, lost: DecoderLostError) -> None:
        """Start a decoder in place of one that ended; its pictures are decoded again."""
        requests = self._end(decoder)
        if decoder.started:
            self._failed_starts = 0
        else:
            self._failed_starts += 1
            if self._failed_starts == _STARTS:
                self._failed_starts = 0
                raise StorageError(f"no process to decode pictures starts: one {lost}")
        if requests and decoder.started:
            self._blame(run, requests.pop(0), lost)
        run.again += requests
        self._start_missing()

    def _blame(self, run: _Run, request: Request, lost: DecoderLostError) -> None:
        """Try the picture that a lost decoder held again, or give it up."""
        request.losses += 1
        name = shown(request.uri)
        context = {"image": name, "attempt": request.losses, "reason": str(lost)}
        log.warning("image ended its decoder", extra=context)
        if request.losses < self._attempts:
            if lost.killed:  # perhaps by an operator, or for a short lack of memory
                pause_s = self._pause_s * 2 ** (request.losses - 1)
                request.not_before_s = time.monotonic() + pause_s
            run.again.append(request)
            return
        times = f"{self._attempts} times; the last time it {lost}"
        if lost.timed_out:
            error = ItemError(DECODE_TIMEOUT, f"{name} held its decoder {times}")
        else:
            error = ItemError(DECODER_CRASHED, f"{name} ended its decoder {times}")
        run.outcomes[request.number] = self._failure(run, request, error)

    def _end_held(self, run: _Run) -> bool:
        """End the decoders whose picture takes too long; return whether there were any."""
        found = False
        now_s = time.monotonic()
        for decoder in list(self._decoders):
            allowed_s = self._timeout_s if decoder.started else _START_S
            if decoder.requests and now_s - decoder.since_s > allowed_s:
                reason = f"took more than {allowed_s:g} s"
                self._replace(run, decoder, DecoderLostError(reason, timed_out=True))
                found = True
        return found

    def _hand_out(self, run: _Run) -> None:
        """Give pictures to the decoders that have room."""
        while (request := self._next(run)) is not None:
            able = [decoder for decoder in self._decoders if decoder.takes(request)]
            # The caller takes pictures in order: so each earlier one keeps room.
            earlier = run.waiting_before(request.number)
            if not able or (earlier and sum(one.room for one in self._decoders) <= earlier):
                run.again.append(request)
                break
            # The fewest requests first, so that all have some before one has many.
            min(able, key=lambda one: len(one.requests)).add(request)
        for decoder in self._decoders:
            decoder.flush()

    def _next(self, run: _Run) -> Request | None:
        """Return the next picture that a decoder can have; start the fetches of URLs before it."""
        if run.again:
            now_s = time.monotonic()
            due = [request for request in run.again if request.not_before_s <= now_s]
            if due:
                first = min(due, key=lambda request: request.number)
                run.again.remove(first)
                return first
        # Room is freed in the order in which it was taken. So a picture that was decoded early
        # keeps the room of all that were decoded after it, until its batch is complete and done.
        ahead = max(1, self._count * self._layout.slots * 2 // 3)
        while run.next < len(run.items) and run.next - run.awaited < ahead:
            number, item = run.next, run.items[run.next]
            run.next += 1
            if item.uri is None:
                error = no_image(item)
                run.outcomes[number] = Failure(item=item, error=error.code, message=str(error))
            elif run.files is not None or (reader := self._reader_of(item.uri)) is None:
                return run.request(number, item.uri)
            elif run.may_fetch:
                request = run.request(number, item.uri)
                run.fetches[number] = reader.submit(self._fetch, run, request)
            else:
                run.next = number
                break
        return None

    def _reader_of(self, uri: str) -> ThreadPoolExecutor | None:
        """Return the threads that read a picture for the decoders; None if decoders do."""
        if is_in_order(uri):
            return self._in_order
        return self._fetches if is_fetched(uri) else None

    def _fetch(self, run: _Run, request: Request) -> None:
        """Read a picture's bytes, in a thread."""
        limits = self._limits
        try:
            request.data = read_bytes(
                request.uri,
                limits.max_bytes,
                limits.input_roots,
                attempts=limits.attempts,
                fetch=limits.fetch,
            )
        except Exception as error:  # noqa: BLE001 - the edge of the thread; the run raises it
            run.fetched.append((request, error))
        else:
            run.fetched.append((request, None))
        with self._closing:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _take_fetched(self, run: _Run) -> None:
        while run.fetched:
            request, error = run.fetched.popleft()
            del run.fetches[request.number]
            if error is None:
                run.again.append(request)
            elif isinstance(error, ItemError):
                run.outcomes[request.number] = self._failure(run, request, error)
            else:
                raise error

    def _start_missing(self) -> None:
        while len(self._decoders) < self._count:
            try:
                decoder = Decoder(self._limits, self._layout, pin=self._pin)
            except OSError as error:
                raise StorageError(f"no process to decode pictures starts: {error}") from error
            self._decoders.append(decoder)
            self._selector.register(decoder.socket, selectors.EVENT_READ, decoder)

    def _end(self, decoder: Decoder) -> list[Request]:
        """End a decoder, and return what it had not answered."""
        self._decoders.remove(decoder)
        read_s, decode_s = decoder.take_work()
        self._ended_work_s = (self._ended_work_s[0] + read_s, self._ended_work_s[1] + decode_s)
        self._selector.unregister(decoder.socket)
        return decoder.close()

    def _end_all(self) -> None:
        for decoder in list(self._decoders):
            self._end(decoder)

    def close(self) -> None:
        """End the processes."""
        self._end_all()
        for threads in (self._fetches, self._in_order):
            threads.shutdown(wait=False, cancel_futures=True)
        self._selector.close()
        with self._closing:
            os.close(self._wake)
            self._wake = -1
