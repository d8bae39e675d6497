"""The verdict on measured stages: the slowest one, and what to change.

Each piece of advice is a rule on figures, and a sentence that contains the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from clipfleet.tasks.bench.stage import Setup, Stage, StageName

# Reading is the limit only if the disk is slower than the cache by so much: else the reads of this
# process, and not the disk, are what is measured.
_COLD_SHARE = 0.8
_WHOLE_SHARE = 0.9  # of decoding and the engine together, below which pauses matter
_MOSTLY = 0.5  # of the items


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The slowest stage, the whole way's share of its rate, and what to change.

    The whole way reads files from the cache: if reading is the slowest stage, `share` may exceed 1.
    """

    bottleneck: StageName
    share: float
    advice: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The stages by their names, and the setup."""

    stages: Mapping[StageName, Stage]
    setup: Setup

    def rate(self, name: StageName) -> float:
        """Return the items a second of a stage that was measured."""
        return self.stages[name].items_s

    def worker_rate(self, name: StageName) -> float:
        """Return what a worker's processes make together; each engine process tokenises."""
        return self.rate(name) * (self.setup.engine_processes if name == "tokenise" else 1)

    def shown(self, name: StageName) -> str:
        """Return what a worker makes for a sentence: 9,158/s, or 0.52/s."""
        return shown_rate(self.worker_rate(name))

    @property
    def is_disk_slow(self) -> bool:
        """Whether the disk, and not this process's reads, limits the reading."""
        return self.rate("read_cold") < _COLD_SHARE * self.rate("read_warm")

    @property
    def feed(self) -> StageName:
        """The stage that makes what the engine or the GPU's resize takes."""
        if self.setup.tower == "txt":
            return "tokenise"
        return "decode" if self.setup.takes_pictures else "decode_resize"

    @property
    def feeding(self) -> str:
        return "tokenising" if self.setup.tower == "txt" else "decoding"


def shown_rate(items_s: float) -> str:
    """Return items a second in three digits or more."""
    return f"{items_s:,.0f}/s" if items_s >= 100 else f"{items_s:.3g}/s"


def judge(stages: Sequence[Stage], setup: Setup) -> Verdict:
    """Return the verdict on all stages of a tower's items."""
    figures = Figures(stages={stage.name: stage for stage in stages}, setup=setup)
    bottleneck = min(_needed(figures), key=figures.worker_rate)
    advice = [_ADVICE[bottleneck](figures), *(rule(figures) for rule in _MORE)]
    return Verdict(
        bottleneck=bottleneck,
        share=figures.rate("whole") / max(figures.worker_rate(bottleneck), 1e-9),
        advice=tuple(text for text in advice if text),
    )


def _needed(figures: Figures) -> Iterator[StageName]:
    """Yield the stages that every item passes while others pass the others."""
    if "read_cold" in figures.stages and figures.is_disk_slow:
        yield "read_cold"
    yield figures.feed
    if figures.setup.takes_pictures:
        yield "copy"
        yield "resize"
    yield "engine"
    yield "write"


def _reading(figures: Figures) -> str:
    mb_s = (figures.stages["read_cold"].bytes_s or 0.0) / 1e6
    return (
        f"The disk gives {figures.shown('read_cold')} ({mb_s:,.0f} MB/s) of files that are not in "
        f"the cache, and decoding takes {figures.shown(figures.feed)}: use a faster disk, or set "
        f"CLIPFLEET_DECODERS above {figures.setup.decoders}, so that more reads wait at once."
    )


def _decoding(figures: Figures) -> str:
    setup, name = figures.setup, figures.feed
    found = (
        f"{setup.decoders} decoders on {setup.cores} cores make {figures.shown(name)}, and the "
        f"engine takes {figures.shown('engine')}"
    )
    if setup.decoders < setup.cores:
        return f"{found}: set CLIPFLEET_DECODERS to {setup.cores}."
    ways = ["use a machine with more cores"]
    if setup.runtime == "tensorrt" and setup.jpeg_share > _MOSTLY:
        share = f"{setup.jpeg_share:.0%} of the files are JPEG"
        ways.append(f"decode on the GPU (`clipfleet embed --decode gpu`; {share})")
    if setup.is_on_gpu and not setup.takes_pictures:
        without = figures.shown("decode")
        ways.append(f"use a TensorRT engine, whose GPU resizes (without a resize: {without})")
    return f"{found}: {', or '.join(ways)}."


def _copying(figures: Figures) -> str:
    mb_s = (figures.stages["copy"].bytes_s or 0.0) / 1e6
    return (
        f"The copy to the GPU makes {figures.shown('copy')} ({mb_s:,.0f} MB/s), and the engine "
        f"takes {figures.shown('engine')}: smaller pictures are copied faster."
    )


def _resizing(figures: Figures) -> str:
    return (
        f"The resize on the GPU makes {figures.shown('resize')}, and the engine takes "
        f"{figures.shown('engine')}: smaller pictures are resized faster."
    )


def _tokenising(figures: Figures) -> str:
    processes = figures.setup.engine_processes
    return (
        f"Tokenising makes {figures.shown('tokenise')} in {processes} engine processes, and the "
        f"engine takes {figures.shown('engine')}: set CLIPFLEET_ENGINE_PROCESSES to "
        f"{processes + 1}; each of them tokenises."
    )


def _engine(figures: Figures) -> str:
    setup = figures.setup
    found = f"The engine makes {figures.shown('engine')}"
    could = f"{figures.feeding} could feed it {figures.shown(figures.feed)}"
    if not setup.is_on_gpu:
        return f"{found} on {setup.cores} cores, and {could}: use a GPU, or more cores."
    if setup.runtime == "tensorrt" and setup.batch_size == 1:
        return (
            f"{found} with one item a call, and {could}: build an engine for 32 items a call "
            "(`clipfleet convert --dynamic-batch`, then `clipfleet build --batch-size 32`)."
        )
    return f"{found}, and {could}: there is nothing to change, the GPU is the limit."


def _writing(figures: Figures) -> str:
    setup = figures.setup
    return (
        f"Writing makes {figures.shown('write')} in shards of {setup.shard_size:,} items, and the "
        f"engine {figures.shown('engine')}: use larger shards (--shard-size), or a faster disk."
    )


def _shared_cores(figures: Figures) -> str | None:
    """Say what decoding and an engine on the same cores allow together."""
    setup = figures.setup
    if setup.is_on_gpu or setup.tower == "txt":
        return None
    together = 1 / (1 / figures.rate(figures.feed) + 1 / figures.rate("engine"))
    return (
        f"Decoding ({figures.shown(figures.feed)}) and the engine ({figures.shown('engine')}) "
        f"share {setup.cores} cores, which allows {shown_rate(together)} together; the whole way "
        f"makes {figures.rate('whole') / together:.0%} of it."
    )


def _pauses(figures: Figures) -> str | None:
    """Name the pauses between shards, if the whole way is slower than its parts by them."""
    setup = figures.setup
    if setup.is_shard_reduced or figures.rate("whole") >= _WHOLE_SHARE * figures.rate("embedder"):
        return None
    ways = "use larger shards (--shard-size)"
    if setup.is_on_gpu and setup.engine_processes == 1:
        ways += (
            ", or set CLIPFLEET_ENGINE_PROCESSES to 2, so that one embeds while the other writes"
        )
    return (
        f"The whole way makes {figures.shown('whole')}, and {figures.feeding} with the engine "
        f"{figures.shown('embedder')}: there are pauses between shards of {setup.shard_size:,} "
        f"items; {ways}."
    )


_ADVICE: Mapping[StageName, Callable[[Figures], str]] = {
    "read_cold": _reading,
    "decode": _decoding,
    "decode_resize": _decoding,
    "tokenise": _tokenising,
    "copy": _copying,
    "resize": _resizing,
    "engine": _engine,
    "write": _writing,
}
_MORE: Sequence[Callable[[Figures], str | None]] = (_shared_cores, _pauses)
