"""The options of a URL of Redis: how each is read, and why others are refused.

The names and meanings are redis-py's; `virtual_host` is kombu's.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable
from typing import Any

from redis.connection import URL_QUERY_ARGUMENT_PARSERS

SECRET_OPTIONS = {"password", "ssl_password"}
TLS_PREFIX = "ssl_"


def _text(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError
    return value


def _name(value: str) -> str:
    if not re.fullmatch("[!-~]+", value):  # as CLIENT SETNAME demands
        raise ValueError
    return value


def _natural(value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value, re.ASCII):
        raise ValueError
    return int(value)


def _positive(value: str) -> int:
    if not (number := _natural(value)):
        raise ValueError
    return number


def _seconds(value: str) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError
    return seconds


def _switch(value: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
        value.lower()
    ]


def _protocol(value: str) -> int:
    return {"2": 2, "3": 3}[value]


def _certificate(value: str) -> ssl.VerifyMode:
    return {
        "none": ssl.CERT_NONE,
        "optional": ssl.CERT_OPTIONAL,
        "required": ssl.CERT_REQUIRED,
    }[value.lower().removeprefix("cert_")]


def _tls_version(value: str) -> ssl.TLSVersion:
    return ssl.TLSVersion(int(value))


def _verify_flags(value: str) -> Any:
    parse: Any = URL_QUERY_ARGUMENT_PARSERS["ssl_include_verify_flags"]
    return parse(_text(value))


Parser = Callable[[str], Any]
_FILE, _SWITCH, _TIME = (_text, "a path"), (_switch, "true or false"), (_seconds, "seconds above 0")
_FLAGS = (_verify_flags, "names as [VERIFY_X509_STRICT]")
OPTIONS: dict[str, tuple[Parser, str]] = {
    "db": (_natural, "a number"),
    "virtual_host": (_natural, "a number"),  # kombu's name of a socket's database
    "username": (_text, "a text"),
    "password": (_text, "a text"),
    "protocol": (_protocol, "2 or 3"),
    "client_name": (_name, "ASCII characters without a space"),
    "socket_timeout": _TIME,
    "socket_connect_timeout": _TIME,
    "socket_keepalive": _SWITCH,
    "socket_read_size": (_positive, "bytes above 0"),
    "health_check_interval": (_natural, "whole seconds"),
    "ssl_cert_reqs": (_certificate, "required, optional or none"),
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": _FILE,
    "ssl_ca_data": (str, "a certificate in PEM"),
    "ssl_certfile": _FILE,
    "ssl_keyfile": _FILE,
    "ssl_password": (_text, "a text"),
    "ssl_check_hostname": _SWITCH,
    "ssl_ciphers": (_text, "OpenSSL's names of ciphers"),
    "ssl_min_version": (_tls_version, "771 for TLS 1.2 or 772 for TLS 1.3"),
    "ssl_include_verify_flags": _FLAGS,
    "ssl_exclude_verify_flags": _FLAGS,
}

_NO_POOL = "clipfleet opens as many connections as it needs"
_NO_RETRY = "clipfleet repeats only the commands that lose no message when they run twice"
_BYTES = "clipfleet reads the bytes of messages itself"
_NO_OCSP = "clipfleet does not ask for the state of a certificate by OCSP"
_BEFORE = "write it before the question mark, as in redis://HOST:PORT/DB"
REFUSED = {
    "max_connections": _NO_POOL,
    "timeout": _NO_POOL,
    "retry_on_timeout": _NO_RETRY,
    "retry_on_error": _NO_RETRY,
    "decode_responses": _BYTES,
    "encoding": _BYTES,
    "encoding_errors": _BYTES,
    "legacy_responses": _BYTES,
    "ssl_validate_ocsp": _NO_OCSP,
    "ssl_validate_ocsp_stapled": _NO_OCSP,
    "ssl_ocsp_context": _NO_OCSP,
    "ssl_ocsp_expected_cert": _NO_OCSP,
    "host": _BEFORE,
    "port": _BEFORE,
    "path": _BEFORE,
}
