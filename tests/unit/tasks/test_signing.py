"""Signed messages: who does not know the key can neither make one nor change one."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection

from clipfleet.errors import MessageError, SettingsError
from clipfleet.messages import EMBED_ITEMS_TASK
from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.signing import SIGNATURE_HEADER, check_signature, signature

KEY, OTHER = "k" * 32, "o" * 32
QUEUE = "clipfleet.txt"


def sent(*, key: str | None = KEY, old: str | None = None, **options: Any) -> Any:
    """Return a message of the fleet's own application, as kombu hands it to a worker."""
    app = make_app(load_settings(message_key=key, message_key_old=old))
    with Connection("memory://") as connection:
        app.send_task(
            EMBED_ITEMS_TASK,
            args=[[{"id": "é", "text": "词"}]],
            queue=QUEUE,
            producer=connection.Producer(),
            **options,
        )
        channel: Any = connection.default_channel
        return channel.basic_get(QUEUE)


def test_a_signature_is_hmac_sha256_over_five_lines() -> None:
    lines = b'clipfleet-1\nclipfleet.embed_items\nabc\nclipfleet.txt\n[[["\n"]], {}, {}]'
    made = signature(
        KEY,
        task="clipfleet.embed_items",
        id_="abc",
        queue="clipfleet.txt",
        body=b'[[["\n"]], {}, {}]',
    )
    assert made == hmac.new(KEY.encode(), lines, hashlib.sha256).hexdigest()


def test_what_the_fleet_sends_is_signed_for_its_queue() -> None:
    message = sent()
    check_signature(message, queue=QUEUE, keys=[KEY])
    check_signature(message, queue=QUEUE, keys=[OTHER, KEY])
    with pytest.raises(MessageError, match="its signature is wrong"):
        check_signature(message, queue="clipfleet.img", keys=[KEY])
    with pytest.raises(MessageError, match="its signature is wrong"):
        check_signature(message, queue=QUEUE, keys=[OTHER])


def test_without_a_key_nothing_is_signed() -> None:
    message = sent(key=None)
    assert SIGNATURE_HEADER not in message.headers
    with pytest.raises(MessageError, match="not signed: set CLIPFLEET_MESSAGE_KEY"):
        check_signature(message, queue=QUEUE, keys=[KEY])


def test_a_message_that_is_sent_again_with_its_headers_is_signed_anew() -> None:
    again = sent(headers={"id": "another", SIGNATURE_HEADER: "0" * 64})
    assert again.headers["id"] == "another"
    check_signature(again, queue=QUEUE, keys=[KEY])


def test_while_a_key_is_changed_the_old_one_is_taken_and_the_new_one_signs() -> None:
    settings = load_settings(message_key=KEY, message_key_old=OTHER)
    assert settings.message_keys == (KEY, OTHER)
    check_signature(sent(key=OTHER), queue=QUEUE, keys=settings.message_keys)
    check_signature(sent(old=OTHER), queue=QUEUE, keys=[KEY])


def test_with_a_key_there_is_no_remote_control() -> None:
    assert make_app(load_settings()).conf.worker_enable_remote_control is True
    conf = make_app(load_settings(message_key=KEY)).conf
    # Its commands are not signed.
    assert conf.worker_enable_remote_control is False


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"[[[]], {}, {}]"},
        {"body": ""},
        {"body": None},
        {"body": "\ud800"},
        {"content_encoding": "utf-7"},
        {"content_encoding": None},
        {"headers": {}},
    ],
    ids=str,
)
def test_a_message_that_was_changed_is_refused(change: dict[str, Any]) -> None:
    message = sent()
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(MessageError):
        check_signature(message, queue=QUEUE, keys=[KEY])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "another"),
        ("id", 5),
        ("id", "half\ud800"),
        ("task", "clipfleet.embed"),
        ("task", None),
        (SIGNATURE_HEADER, "0" * 64),
        (SIGNATURE_HEADER, ""),
        (SIGNATURE_HEADER, "é\ud800"),
        (SIGNATURE_HEADER, ["0"]),
    ],
)
def test_a_message_with_a_changed_header_is_refused(name: str, value: Any) -> None:
    message = sent()
    message.headers[name] = value
    with pytest.raises(MessageError):
        check_signature(message, queue=QUEUE, keys=[KEY])


def test_what_one_line_says_cannot_be_moved_into_another() -> None:
    body = b"\nclipfleet.txt\n[]"
    made = signature(KEY, task="t", id_="a", queue=QUEUE, body=body)
    same = signature(KEY, task="t", id_=f"a\n{QUEUE}\n", queue="clipfleet.txt", body=b"[]")
    assert made == same
    headers = {"task": "t", "id": f"a\n{QUEUE}\n", SIGNATURE_HEADER: made}
    moved = SimpleNamespace(headers=headers, body=b"[]", content_encoding="utf-8")
    with pytest.raises(MessageError, match="line end"):
        check_signature(moved, queue=QUEUE, keys=[KEY])


@pytest.mark.parametrize("key", ["hush", "", f" {KEY}", f"{KEY}\n"])
def test_a_weak_or_padded_key_is_refused_without_showing_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLEET_MESSAGE_KEY", key)
    with pytest.raises(SettingsError, match=r"message_key: .*32 bytes or more") as caught:
        load_settings()
    assert "hush" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_old_key_alone_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"message_key_old: .* needs a new one beside it"):
        load_settings(message_key_old=KEY)


def test_a_key_under_a_wrong_name_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clipfleet.toml").write_text(f'mesage_key = "{KEY}"\n')
    with pytest.raises(SettingsError, match="mesage_key") as caught:
        load_settings()
    assert KEY not in str(caught.value)


def test_settings_are_shown_without_their_keys() -> None:
    settings = load_settings(message_key=KEY, message_key_old=OTHER, redis_url="redis://:hush@host")
    assert KEY not in f"{settings!r}{settings}"
    assert "hush" not in f"{settings!r}{settings}"
    assert OTHER not in repr(settings)
