"""Signatures: workers take only messages that were signed with the fleet's key.

A signature is the HMAC-SHA256, in hexadecimal digits, of five lines: `clipfleet-1`, the task's
name, the message's id, the queue, and the body as it is sent (which may contain line ends).
docs/explanation/security.md shows it in ten lines of code.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

from clipfleet.errors import MessageError

SIGNATURE_HEADER = "clipfleet-signature"
_FORM = "clipfleet-1"
_ENCODING = "utf-8"  # of a body: in another encoding, the same bytes may mean something else


def signature(key: str, *, task: str, id_: str, queue: str, body: bytes) -> str:
    """Return a message's signature: 64 hexadecimal digits."""
    lines = "\n".join((_FORM, task, id_, queue, ""))
    # JSON can hold half a surrogate pair.
    signed = lines.encode(_ENCODING, errors="surrogatepass") + body
    return hmac.digest(key.encode(_ENCODING), signed, "sha256").hex()


def check_signature(message: Any, *, queue: str, keys: Sequence[str]) -> None:
    """Check that a kombu message was signed for a queue with one of the keys.

    Raises:
        MessageError: The message is unsigned, or its signature is wrong.
    """
    headers = message.headers
    given, task, id_ = (headers.get(name) for name in (SIGNATURE_HEADER, "task", "id"))
    body = message.body
    if isinstance(body, str):
        body = body.encode(_ENCODING, errors="surrogatepass")
    strings = all(isinstance(value, str) for value in (given, task, id_))
    if not strings or not isinstance(body, bytes):
        raise MessageError(
            "it is not signed: set CLIPFLEET_MESSAGE_KEY where it is queued, "
            "see docs/explanation/security.md"
        )
    if "\n" in task + id_ or message.content_encoding != _ENCODING:
        raise MessageError(f"its task or id has a line end, or its encoding is not {_ENCODING}")
    right = (signature(key, task=task, id_=id_, queue=queue, body=body).encode() for key in keys)
    received = given.encode(errors="replace")
    if not any(hmac.compare_digest(received, one) for one in right):
        raise MessageError(
            "its signature is wrong: it was made with another key, for another queue, or before "
            "the message was changed"
        )
