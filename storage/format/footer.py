"""The footer of a part: where it is from, what its rows are, and the shard's failures, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow.parquet as pq

from clipfleet.images import ORIGINAL_RULES, PictureRules
from clipfleet.items import Item
from clipfleet.storage.format.results import Failure
from clipfleet.storage.format.stage_seconds import StageSeconds, stage_seconds_of

FORMAT = "1"
MAX_ATTEMPT = 1_000_000  # of an item

_NAME = re.compile(r"[0-9A-Za-z_-]+")  # of a part: it cannot name a path in another folder

_KEYS = b"clipfleet."  # begins the keys of a footer that are not Arrow's
VERSION_KEY = b"clipfleet.version"
_SHARD_KEY = b"clipfleet.shard"
_MODEL_KEY = b"clipfleet.model"
_CARD_KEY = b"clipfleet.model_card"
_ENGINE_KEY = b"clipfleet.engine_sha256"
_DECODE_KEY = b"clipfleet.decode"
_FAILURES_KEY = b"clipfleet.failures"
_WORKER_KEY = b"clipfleet.worker"
_FINISHED_KEY = b"clipfleet.finished_at"
_RETRIES_KEY = b"clipfleet.retries"
_REPLACED_KEY = b"clipfleet.replaced"
_CUT_KEY = b"clipfleet.cut"
_TRANSPARENT_KEY = b"clipfleet.transparent"
_WITHOUT_END_KEY = b"clipfleet.without_end"
_COPIED_KEY = b"clipfleet.copied"
_SECONDS_KEY = b"clipfleet.seconds"
PAYLOAD_KEY = b"clipfleet.payload_sha256"


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """The metadata of a part; `decode` and `rules` are as in `DatasetInfo`.

    `vectors` counts the rows, `cut`, `transparent` and `without_end` those that `Embedded` names;
    `retries`, `replaced` and `copied` are as there. `card` is the model card's JSON.
    """

    shard: str
    model: str  # ModelCard.identity
    engine_sha256: str
    worker: str
    finished_at: str  # ISO 8601, UTC
    vectors: int
    failures: tuple[Failure, ...]
    retries: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    cut: int = 0
    transparent: int = 0
    without_end: int = 0
    copied: int = 0
    decode: str = "exact"
    rules: PictureRules = ORIGINAL_RULES
    card: str = ""
    seconds: StageSeconds | None = None  # older parts, and parts of single items, lack it
    payload_sha256: str | None = None  # older parts lack it


def stored_footer(footer: Footer) -> dict[bytes, str]:
    """Return the keys and values of a new part's footer, without the payload's checksum."""
    metadata = {
        VERSION_KEY: FORMAT,
        _SHARD_KEY: footer.shard,
        _MODEL_KEY: footer.model,
        _CARD_KEY: footer.card,
        _ENGINE_KEY: footer.engine_sha256,
        _WORKER_KEY: footer.worker,
        _FINISHED_KEY: footer.finished_at,
        _FAILURES_KEY: json.dumps([_failure_fields(f) for f in footer.failures]),
        _RETRIES_KEY: json.dumps(footer.retries),
        _REPLACED_KEY: json.dumps(footer.replaced),
        _CUT_KEY: json.dumps(footer.cut),
        _COPIED_KEY: json.dumps(footer.copied),
    }
    if footer.decode != "exact":
        metadata[_DECODE_KEY] = footer.decode
    for key, count in (
        (_TRANSPARENT_KEY, footer.transparent),
        (_WITHOUT_END_KEY, footer.without_end),
    ):
        if count:
            metadata[key] = json.dumps(count)
    metadata |= {_KEYS + rule.encode(): value for rule, value in footer.rules.to_stored().items()}
    if footer.seconds is not None:
        metadata[_SECONDS_KEY] = json.dumps(asdict(footer.seconds))
    return metadata


def parse_footer(parquet: pq.FileMetaData) -> Footer:
    """Return the footer of an open part.

    Raises:
        LookupError, TypeError, ValueError, RecursionError: It was not written by clipfleet.
    """
    metadata = parquet.metadata or {}
    failures = [failure_of(fields) for fields in json.loads(metadata[_FAILURES_KEY])]
    return Footer(
        shard=plain_name(metadata[_SHARD_KEY].decode()),
        model=metadata[_MODEL_KEY].decode(),
        engine_sha256=metadata[_ENGINE_KEY].decode(),
        worker=metadata[_WORKER_KEY].decode(),
        finished_at=metadata[_FINISHED_KEY].decode(),
        vectors=parquet.num_rows,
        failures=tuple(failures),
        # Older parts lack some of these keys.
        retries=tuple(map(plain_name, json.loads(metadata.get(_RETRIES_KEY, b"[]")))),
        replaced=tuple(map(plain_name, json.loads(metadata.get(_REPLACED_KEY, b"[]")))),
        cut=_count(json.loads(metadata.get(_CUT_KEY, b"0"))),
        transparent=_count(json.loads(metadata.get(_TRANSPARENT_KEY, b"0"))),
        without_end=_count(json.loads(metadata.get(_WITHOUT_END_KEY, b"0"))),
        copied=_count(json.loads(metadata.get(_COPIED_KEY, b"0"))),
        decode=metadata.get(_DECODE_KEY, b"exact").decode(),
        rules=_rules_of(metadata),
        card=metadata.get(_CARD_KEY, b"").decode(),
        seconds=stage_seconds_of(text) if (text := metadata.get(_SECONDS_KEY)) else None,
        payload_sha256=metadata[PAYLOAD_KEY].decode() if PAYLOAD_KEY in metadata else None,
    )


def footer_with(
    failures: Sequence[Failure], parquet: pq.FileMetaData, *, rows: int
) -> dict[bytes, str]:
    """Return the keys and values of a part's footer with other failures, and so many rows left."""
    metadata = {key: value.decode() for key, value in payload_metadata(parquet).items()}
    metadata[_FAILURES_KEY] = json.dumps([_failure_fields(f) for f in failures])
    for key in (_CUT_KEY, _TRANSPARENT_KEY, _WITHOUT_END_KEY, _COPIED_KEY):
        if key in metadata:
            metadata[key] = json.dumps(min(json.loads(metadata[key]), rows))
    return metadata


def payload_metadata(parquet: pq.FileMetaData) -> dict[bytes, bytes]:
    """Return the values of a part's footer that its payload has."""
    found = parquet.metadata.items()
    return {k: value for k, value in found if k.startswith(_KEYS) and k != PAYLOAD_KEY}


def _failure_fields(failure: Failure) -> dict[str, Any]:
    item = failure.item
    value = {"uri": item.uri} if item.uri is not None else {"text": item.text}
    reason = {"error": failure.error, "message": failure.message, "attempt": failure.attempt}
    return {"id": item.id, **value, **reason}


def failure_of(fields: dict[str, Any]) -> Failure:
    """Return the failure that a JSON object or a row describes.

    Raises:
        LookupError, TypeError, ValueError: It describes no failure.
    """
    error, message, attempt = fields["error"], fields["message"], _count(fields["attempt"])
    if not (isinstance(error, str) and isinstance(message, str)) or attempt > MAX_ATTEMPT:
        raise ValueError(f"not a failure: {fields!s:.200}")
    for value in (error, message):
        value.encode()  # JSON may have half a surrogate pair
    return Failure(
        item=Item(id=fields["id"], uri=fields.get("uri"), text=fields.get("text")),
        error=error,
        message=message,
        attempt=attempt,
    )


def plain_name(name: str) -> str:
    """Return a part's name unchanged.

    Raises:
        ValueError: It is no part's name, and could name a path in another folder.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is no part's name")
    return name


def _rules_of(metadata: Mapping[bytes, bytes]) -> PictureRules:
    """Return the picture rules that a footer names."""
    keys = {field.name: _KEYS + field.name.encode() for field in fields(PictureRules)}
    found = {name: metadata[key].decode() for name, key in keys.items() if key in metadata}
    return PictureRules.from_stored(found)


def _count(number: int) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!s:.100} is no count")
    return number
