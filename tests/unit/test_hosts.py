"""Hosts have one spelling; a host that a resolver may read differently is refused."""

from __future__ import annotations

import pytest

from clipfleet.hosts import allowed_host, canonical_host, is_address, split_port


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("Images.Example.COM", "images.example.com"),
        ("example.com.", "example.com"),
        ("my_bucket.store.example", "my_bucket.store.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2003 has strasse.example
        ("图片。example", "xn--wcsw84d.example"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("203.0.113.7", "203.0.113.7"),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
        ("localhost", "localhost"),
    ],
)
def test_a_host_has_one_spelling(given: str, host: str) -> None:
    assert canonical_host(given) == host
    assert canonical_host(host) == host


@pytest.mark.parametrize(
    "given",
    [
        "2130706433",  # 127.0.0.1, all of these
        "0x7f000001",
        "0x7F.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.0x1",
        "127.0.0.1..",
        "256.0.0.1",
        "example.0x",
        "example.1",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "[127.0.0.1]",
        "::1",
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b.example",
        "a%2eb.example",
        "exa\u00admple\u200b.\u0000",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "user@example.com",
        "example.com\\@evil.example",
    ],
)
def test_what_is_no_host_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_host(given)


def test_addresses_are_distinguished_from_names() -> None:
    assert [h for h in ("1.2.3.4", "[::1]", "a.example", "4.example") if is_address(h)] == [
        "1.2.3.4",
        "[::1]",
    ]


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("Example.com", ["example.com"], ["a.example.com", "example.com.evil.example"]),
        ("*.example.com", ["a.example.com", "b.a.example.com"], ["example.com", "notexample.com"]),
        ("*", ["example.com", "a.b.example"], ["203.0.113.7", "[2001:db8::1]"]),
        ("203.0.113.7", ["203.0.113.7"], ["203.0.113.70", "x.203.0.113.7"]),
        ("[2001:DB8::1]", ["[2001:db8::1]"], ["[2001:db8::2]"]),
    ],
)
def test_an_entry_allows(entry: str, allowed: list[str], refused: list[str]) -> None:
    host = allowed_host(entry, wildcards=True)
    assert [name for name in allowed + refused if host.allows(name, None)] == allowed
    assert not any(host.allows(name, 8443) for name in allowed)


@pytest.mark.parametrize("entry", ["example.com:8443", "*.example.com:8443", "[::1]:8443"])
def test_an_entry_with_a_port_allows_that_one_only(entry: str) -> None:
    host = allowed_host(entry, wildcards=True)
    name = {"example": "example.com", "*": "a.example.com", "[": "[::1]"}[
        entry.partition(".")[0].partition(":")[0]
    ]
    assert host.allows(name, 8443)
    assert not host.allows(name, None)
    assert not host.allows(name, 8444)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "https://example.com",
        "example.com/path",
        "exa*mple.com",
        "*.*.com",
        "a.example:0",
        "a.example:65536",
        "a.example:",
        "a.example:x",
        "*.127.0.0.1",
        "*:80",
        "[::1]x",
        "[::1]:",
    ],
)
def test_what_is_no_entry_is_refused_with_an_example(entry: str) -> None:
    with pytest.raises(ValueError, match=r"names no host: .*write example\.com"):
        allowed_host(entry, wildcards=True)


@pytest.mark.parametrize("entry", ["*", "*.example.com"])
def test_private_hosts_are_named_one_by_one(entry: str) -> None:
    with pytest.raises(ValueError, match="one by one"):
        allowed_host(entry, wildcards=False)


def test_ports_are_split_off() -> None:
    assert split_port("a.example") == ("a.example", None)
    assert split_port("a.example:80") == ("a.example", 80)
    assert split_port("[::1]") == ("[::1]", None)
    assert split_port("[::1]:80") == ("[::1]", 80)
