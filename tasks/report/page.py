"""The page of a report, in HTML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from html import escape

from clipfleet import __version__
from clipfleet.error_codes import BAD_ITEM, TRANSIENT_CODES
from clipfleet.errors import ItemError, StorageError
from clipfleet.retrieval.pages.items import NAME_CHARACTERS, OpenImage, image, quoted
from clipfleet.retrieval.pages.page import document, facts, figure, table
from clipfleet.retrieval.pages.visible import shortened
from clipfleet.storage.format.parts import item_value
from clipfleet.storage.format.results import Failure
from clipfleet.storage.format.stage_seconds import StageSeconds
from clipfleet.storage.plan.failures import ErrorClass
from clipfleet.tasks.report.facts import Machine, ReportFacts
from clipfleet.tasks.report.plots import rate_over_time, stage_strip
from clipfleet.tasks.snapshot import duration

_THUMBNAILS = 24  # in the page
_ROWS = 50  # of a table
_SHORT_S = 10.0  # of an engine process: the start of its decoders is a large part of less

_STAGES = {
    "plan": "a shard's items are read from the plan",
    "read": "decoders read pictures, several at a time, beside the engine",
    "decode": "decoders decode them, several at a time, beside the engine",
    "wait": "the engine process waits for decoders and URLs",
    "tokenise": "texts become ids",
    "engine": "the engine's calls",
}

_STYLE = """
a { color: var(--a); }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 1rem;
  margin: 1rem 0; padding: 0; list-style: none; }
.numbers li { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; }
.numbers strong { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
.examples { list-style: none; margin: .5rem 0; padding: 0; display: grid; gap: .75rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.examples li { border-left: 3px solid var(--line); padding-left: .75rem; }
.examples img { display: block; max-width: 10rem; max-height: 10rem; width: auto; height: auto;
  border-radius: .25rem; margin: .25rem 0; }
.examples small { color: var(--faint); }
:focus-visible { outline: 3px solid var(--a); outline-offset: 2px; }
"""


def report_page(found: ReportFacts, open_image: OpenImage) -> str:
    """Return the page: what was embedded, how fast, what was not, and by what.

    `open_image` is asked for the pictures of a few failed items.
    """
    return document(f"Report of {found.root}", _body(found, open_image), style=_STYLE)


def _body(found: ReportFacts, open_image: OpenImage) -> Iterator[str]:
    yield f"<h1>Report of {quoted(found.root)}</h1>"
    is_good = not (found.failed or found.missing)
    yield f'<p class="verdict{"" if is_good else " cannot"}">{_verdict(found)}</p>'
    yield from _numbers(found)
    yield from _speed(found)
    yield from _errors(found, open_image)
    yield from _skipped(found)
    yield "<h2>Model</h2>"
    yield from facts(_model(found))
    yield from _machines(found)
    yield from _jobs(found)
    yield f'<p class="caption">Written by clipfleet {__version__} at {escape(found.made_at)}.</p>'


def _verdict(found: ReportFacts) -> str:
    things = "pictures" if found.tower == "img" else "texts"
    if not found.total:
        return "Nothing is planned or embedded yet."
    if not (found.failed or found.missing):
        return f"All {found.total:,} {things} have a vector."
    left = []
    if found.failed:
        left.append(f"{found.failed:,} failed, see <a href='#errors'>the errors</a>")
    if found.missing:
        left.append(
            f"{found.missing:,} are not done: <code>clipfleet resume</code> or the same "
            "<code>clipfleet embed</code> goes on"
        )
    return f"{found.vectors:,} of {found.total:,} {things} have a vector. {'; '.join(left)}."


def _numbers(found: ReportFacts) -> Iterator[str]:
    numbers = {
        "embedded": found.vectors,
        "failed": found.failed,
        "not done": found.missing,
        "files left out": sum(found.skipped.values()),
    }
    if found.tower == "txt":
        numbers["texts that were cut"] = found.cut
    if found.copied:
        numbers["copies, of items with equal bytes"] = found.copied
    yield '<ul class="numbers">'
    yield from (f"<li><strong>{count:,}</strong> {name}</li>" for name, count in numbers.items())
    yield f"<li><strong>{found.shards_done:,}/{found.shards:,}</strong> shards done</li></ul>"


def _speed(found: ReportFacts) -> Iterator[str]:
    yield "<h2>Speed</h2>"
    yield '<div class="plots">'
    yield from _rate(found.times)
    if found.seconds is not None and found.seconds.inputs + found.seconds.engine:
        inputs = "waiting" if found.tower == "img" else "tokenising"
        processes = sum(1 for one in found.machines if one.seconds)
        yield from figure(stage_strip(found.seconds, inputs), _bottleneck(found.seconds, processes))
    yield "</div>"
    if found.seconds is None:
        yield "<p>How long the shards took is not known: no part of them says it.</p>"
        return
    yield from _stages(found.seconds)


def _rate(times: list[tuple[float, int]]) -> Iterator[str]:
    span_s = times[-1][0] - times[0][0] if times else 0.0
    if span_s <= 0:
        yield "<p>No two shards were done at different times, so there is no rate.</p>"
        return
    items = sum(count for _, count in times[1:])
    yield from figure(
        rate_over_time(times),
        f"{items / span_s:,.1f} items/s on average in {duration(span_s)}, from the first shard's "
        "end to the last one's (UTC), pauses included. An item counts when its shard is done.",
    )


def _bottleneck(seconds: StageSeconds, processes: int) -> str:
    if seconds.engine >= seconds.inputs:
        return "The bottleneck is the engine."
    if seconds.tokenise >= seconds.wait:
        return "The bottleneck is tokenising."
    of_each_s = seconds.of_process / processes
    if of_each_s < _SHORT_S:
        return (
            "Too short to tell the bottleneck: an engine process worked for "
            f"{_seconds(of_each_s)}, and the start of its decoders is a large part of less than "
            f"{_SHORT_S:.0f} s."
        )
    decoders = "reading" if seconds.read >= seconds.decode else "decoding"
    return f"The bottleneck is {decoders}: the engine waits for its inputs."


def _stages(seconds: StageSeconds) -> Iterator[str]:
    taken = asdict(seconds)
    rows = [[name, words, _seconds(taken[name])] for name, words in _STAGES.items() if taken[name]]
    yield from table("Work in each stage, of all workers", ["stage", "what it is", "time"], rows)


def _errors(found: ReportFacts, open_image: OpenImage) -> Iterator[str]:
    yield '<h2 id="errors">Errors</h2>'
    if not found.classes:
        yield "<p>No item failed.</p>"
        return
    rows = [
        [f'<a href="#{escape(code)}">{escape(code)}</a>', f"{of_class.count:,}", _remedy(code)]
        for code, of_class in found.classes.items()
    ]
    yield from table("Failed items by class", ["class", "items", "remedy"], rows)
    pictures = _Pictures(open_image)
    for code, of_class in found.classes.items():
        yield from _error_class(code, of_class, pictures)


def _error_class(code: str, of_class: ErrorClass, pictures: _Pictures) -> Iterator[str]:
    shown = len(of_class.examples)
    more = f", {shown} of them" if shown < of_class.count else ""
    yield f'<h3 id="{escape(code)}">{escape(code)}: {of_class.count:,}{more}</h3>'
    yield '<ul class="examples">'
    for failure in of_class.examples:
        yield f"<li>{pictures.of(failure)}{_example(failure)}</li>"
    yield "</ul>"


def _example(failure: Failure) -> str:
    value = shortened(item_value(failure.item), NAME_CHARACTERS)
    place = "" if value == failure.item.id else f"<br><small>{quoted(value)}</small>"
    message = quoted(shortened(failure.message, NAME_CHARACTERS))
    return f"{quoted(shortened(failure.item.id, NAME_CHARACTERS))}{place}<br>{message}"


def _remedy(code: str) -> str:
    if code == BAD_ITEM:
        return "mend the row, then embed the table with <code>--refresh</code>"
    if code in TRANSIENT_CODES:
        return f"<code>clipfleet retry --only {escape(code)}</code>"
    return f"remove the cause, then <code>clipfleet retry --only {escape(code)}</code>"


class _Pictures:
    """Thumbnails of failed items that can be read here, as many as a page may have."""

    def __init__(self, open_image: OpenImage) -> None:
        self._open_image = open_image
        self._left = _THUMBNAILS

    def of(self, failure: Failure) -> str:
        """Return a thumbnail, or nothing: most failed items cannot be read."""
        if failure.item.uri is None or self._left == 0:
            return ""
        try:
            made = image(failure.item.uri, f"Picture {failure.item.id}", self._open_image)
        except (ItemError, StorageError, OSError, ValueError):  # the example says why it failed
            return ""
        self._left -= 1
        return made


def _skipped(found: ReportFacts) -> Iterator[str]:
    if not found.skipped:
        return
    yield "<h2>Files that were left out</h2>"
    ordered = sorted(found.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
    rows = [[quoted(kind), f"{count:,}"] for kind, count in ordered[:_ROWS]]
    yield from table("Files of the source that were no items", ["extension or kind", "files"], rows)
    yield from _more(len(ordered))


def _model(found: ReportFacts) -> dict[str, str]:
    card = found.card
    named = {
        "architecture": card.architecture,
        "tower": "images" if card.tower == "img" else "texts",
        "precision": card.precision,
        "vectors": f"{card.dim} wide",
        "engine": f"{card.engine} ({card.runtime} {card.runtime_version})",
        "checkpoint": card.checkpoint_sha256,
        "identity": card.identity,
    }
    if card.gpu:
        named["built for"] = card.gpu
    if card.parity:
        named["compared with"] = (
            f"{card.parity.reference}: cosine {card.parity.cosine_min:.6f} at least, over "
            f"{card.parity.items:,} items"
        )
    return {name: quoted(value) for name, value in named.items()}


def _machines(found: ReportFacts) -> Iterator[str]:
    yield "<h2>Workers</h2>"
    headings = ["worker", "GPU or runtime", "shards", "items", "items/s", "last shard at"]
    rows = [_machine(one) for one in found.machines[:_ROWS]]
    yield from table("By items; items/s are of a worker's own time", headings, rows)
    yield from _more(len(found.machines))


def _machine(one: Machine) -> list[str]:
    rate = one.items_per_s
    device = (one.card.gpu or f"{one.card.runtime} {one.card.runtime_version}") if one.card else ""
    return [
        quoted(one.worker),
        quoted(device),
        f"{one.shards:,}",
        f"{one.items:,}",
        f"{rate:,.1f}" if rate is not None else "",
        quoted(one.last_at),
    ]


def _jobs(found: ReportFacts) -> Iterator[str]:
    if not found.jobs:
        return
    yield "<h2>Jobs</h2>"
    rows = [
        [
            quoted(job.id),
            "retry" if job.retry else "source",
            f"{job.items:,}",
            f"{job.shards:,}",
            quoted(job.created_at),
            quoted(shortened(job.source, NAME_CHARACTERS)),
        ]
        for job in found.jobs[-_ROWS:]
    ]
    headings = ["job", "kind", "items", "shards", "planned at", "source"]
    yield from table("Oldest first", headings, rows)
    yield from _more(len(found.jobs))


def _more(count: int) -> Iterator[str]:
    if count > _ROWS:
        yield f'<p class="caption">{_ROWS} of {count:,} are shown.</p>'


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.1f} s"
