"""A worker's decoders: how many there are, and how far they are ahead of the engine."""

from __future__ import annotations

from collections.abc import Callable

from clipfleet.settings import Settings, cores
from clipfleet.workers.engines.base import Engine
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.read import refuse_url
from clipfleet.workers.images.region import Layout

_CHUNKS_AHEAD = 3  # of decoded pictures: one that the engine has, and two for a slow file
_MIN_SLOTS = 8  # pictures that each decoder may be ahead, at least
_DECODE_SHARE = 0.5  # of the shard's deadline, at most, for one picture


def decoder_count(settings: Settings) -> int:
    """Return the number of a worker's decoders: the one that is set, or one for each core."""
    return settings.decoders or cores()


def open_decoders(
    settings: Settings,
    engine: Engine,
    *,
    chunk: int,
    has_ring: bool,
    jpeg_files: bool = False,
    fetch: Callable[[str], bytes] = refuse_url,
    pin: Callable[[int, int], Callable[[], None]] | None = None,
) -> Decoders:
    """Start the decoders for an image tower's engine, which takes `chunk` pictures at once.

    With a ring they leave pictures in their own size, without one they also resize them. If
    `jpeg_files`, they leave JPEG files to the GPU.

    Raises:
        StorageError: No process starts.
    """
    count = decoder_count(settings)
    layout = Layout(
        resolution=engine.card.input.shape[-1] or 0,
        slots=max(_MIN_SLOTS, -(-_CHUNKS_AHEAD * chunk // count)),
        ring_bytes=(settings.decode_memory_mib << 20) // count if has_ring else 0,
        jpeg_files=jpeg_files,
    )
    return Decoders(
        ImageLimits.from_settings(settings, fetch=fetch),
        layout,
        count=count,
        attempts=settings.decode_attempts,
        # With a longer timeout the deadline would end this process first, at every attempt.
        timeout_s=min(settings.decode_timeout_s, settings.shard_deadline_s * _DECODE_SHARE),
        pin=pin,
    )
