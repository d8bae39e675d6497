"""Which URLs may be fetched, and which addresses connected to, whatever a URL or a name says."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any

import pytest

from clipfleet.errors import ItemError, SettingsError
from clipfleet.settings import Settings, load_settings
from clipfleet.workers.http.policy import Target, UrlPolicy, named_host
from clipfleet.workers.http.resolve import addresses, is_public
from tests.web import resolver

POLICY = UrlPolicy.from_settings(
    Settings(
        url_hosts=("images.example", "*.cdn.example", "bücher.example", "api.example:8443"),
        url_private_hosts=("store.internal:9000", "127.0.0.1", "[fd00::1]"),
    )
)
ANY = UrlPolicy.from_settings(Settings(url_hosts=("*",), url_schemes=("https", "http")))


def refusal(url: str, policy: UrlPolicy = POLICY) -> ItemError:
    with pytest.raises(ItemError) as raised:
        policy.target(url)
    assert str(raised.value).isprintable()
    return raised.value


@pytest.mark.parametrize(
    ("url", "canonical", "private"),
    [
        ("https://images.example/a.jpg", "https://images.example/a.jpg", False),
        ("HTTPS://Images.EXAMPLE:443/A.jpg?x=1#part", "https://images.example/A.jpg?x=1", False),
        ("https://a.cdn.example", "https://a.cdn.example/", False),
        ("https://a.cdn.example?q", "https://a.cdn.example/?q", False),
        ("https://xn--bcher-kva.example/ü%20 .jpg", None, False),
        ("https://api.example:8443/", "https://api.example:8443/", False),
        ("https://store.internal:9000/b/k", "https://store.internal:9000/b/k", True),
        ("https://[FD00:0::1]/", "https://[fd00::1]/", True),
    ],
)
def test_a_url_of_an_allowed_host(url: str, canonical: str | None, private: bool) -> None:
    target = POLICY.target(url)
    assert target.url == (canonical or "https://xn--bcher-kva.example/%C3%BC%20%20.jpg")
    assert target.private is private


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://images.example/", "not among the schemes https"),
        ("ftp://images.example/", "not among the schemes"),
        ("https://evil.example/", "none of the hosts"),
        ("https://cdn.example/", "none of the hosts"),
        ("https://images.example.evil.example/", "none of the hosts"),
        ("https://images.example:8443/", "images.example:8443 is none of the hosts"),
        ("https://api.example/", "none of the hosts"),
        ("https://store.internal/", "none of the hosts"),
        ("https://user@images.example/", "user or password"),
        ("https://images.example@evil.example/", "user or password"),
        ("https://images.example\\@evil.example/", "user or password"),
        ("https://images.example\\.evil.example/", "not a host name"),
        ("https://images.example:https/", "no port"),
        ("https://images.example%2f.evil.example/", "not a host name"),
        ("https:///images.example/", "not a host name"),
        ("https:images.example/", "no URL"),
        ("https://images.example/\r\nHost: evil.example", "control character"),
        ("https://images.example/a\x00", "control character"),
        ("\thttps://images.example/", "control character"),
        ("https://2130706433/", "Expected 4 octets"),
        ("https://0x7f.1/", "octets"),
        ("https://0177.0.0.1/", "octet|characters"),
        ("https://[::ffff:127.0.0.1]/", "none of the hosts"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://127.0.0.1:22/", "none of the hosts"),
    ],
)
def test_other_urls_are_refused(url: str, reason: str) -> None:
    error = refusal(url)
    assert error.code == "not_allowed"
    assert re.search(rf"^'.*' may not be fetched: .*({reason})", str(error))


def test_without_hosts_no_url_is_fetched() -> None:
    error = refusal("https://images.example/", UrlPolicy.from_settings(Settings()))
    assert error.code == "not_allowed"
    assert "CLIPFLEET_URL_HOSTS" in str(error)


def test_an_address_is_no_name() -> None:
    for url in ("https://203.0.113.7/", "https://[2001:db8::1]/"):
        assert refusal(url, ANY).code == "not_allowed"


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/b.jpg", "https://images.example/b.jpg"),
        ("b.jpg?x", "https://images.example/f/b.jpg?x"),
        ("//a.cdn.example/b", "https://a.cdn.example/b"),
        ("https://a.cdn.example/b", "https://a.cdn.example/b"),
    ],
)
def test_a_redirection_to_an_allowed_host(location: str, leads_to: str) -> None:
    origin = POLICY.target("https://images.example/f/a.jpg")
    assert POLICY.redirected(origin, location).url == leads_to


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("https://evil.example/", "not_allowed"),
        ("//169.254.169.254/latest/meta-data", "not_allowed"),
        ("https://user:sesame@images.example/", "not_allowed"),
        ("https://images.example:22/", "not_allowed"),
        ("http://images.example/", "http_error"),
        ("file:///etc/passwd", "http_error"),
        ("gopher://images.example/", "http_error"),
    ],
)
def test_a_redirection_elsewhere_is_refused(location: str, code: str) -> None:
    origin = POLICY.target("https://images.example/f/a.jpg")
    with pytest.raises(ItemError) as raised:
        POLICY.redirected(origin, location)
    assert raised.value.code == code
    assert "sesame" not in str(raised.value)


def test_tls_is_not_left_though_http_is_allowed() -> None:
    origin = ANY.target("https://images.example/")
    with pytest.raises(ItemError, match="not https"):
        ANY.redirected(origin, "http://images.example/")
    assert ANY.redirected(ANY.target("http://images.example/"), "https://b.example/").port == 443


def target(host: str = "images.example", *, private: bool = False) -> Target:
    return Target(scheme="https", host=host, port=443, path="/", private=private)


NOT_PUBLIC = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",  # carriers' NAT
    "100.100.100.200",  # metadata of a cloud
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",  # Teredo
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",  # 6to4
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of a cloud
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    resolve, _ = resolver(address)
    with pytest.raises(ItemError, match=r"is not public: .*CLIPFLEET_URL_PRIVATE_HOSTS") as raised:
        addresses(target(), resolve)
    assert raised.value.code == "not_allowed"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111"])
def test_a_public_address_is_connected_to(address: str) -> None:
    resolve, asked = resolver(address)
    assert [found[0] for _, found in addresses(target(), resolve)] == [address]
    assert asked == ["images.example"]


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        found = ("8.8.8.8", "10.0.0.1", "1.1.1.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    with pytest.raises(ItemError, match=r"10\.0\.0\.1"):
        addresses(target(), resolve)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "100.64.0.1", "::1", "fd00::1", "8.8.8.8"]
)
def test_a_private_host_may_have_such_an_address(address: str) -> None:
    resolve, _ = resolver(address)
    assert addresses(target(private=True), resolve)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "::",
        "ff02::1",
        "::ffff:169.254.169.254",
    ],
)
def test_not_even_a_private_host_may_have_such_an_address(address: str) -> None:
    resolve, _ = resolver(address)
    with pytest.raises(ItemError, match="link-local, multicast or reserved"):
        addresses(target(private=True), resolve)


@pytest.mark.parametrize(
    ("number", "code"), [(socket.EAI_NONAME, "missing"), (socket.EAI_AGAIN, "fetch_failed")]
)
def test_a_name_that_is_not_resolved(number: int, code: str) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(number, "the resolver's reason")

    with pytest.raises(
        ItemError, match=r"images\.example was not resolved: the resolver's"
    ) as raised:
        addresses(target(), resolve)
    assert raised.value.code == code


def test_lists_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFLEET_URL_HOSTS", "a.example,*.b.example:8443")
    monkeypatch.setenv("CLIPFLEET_URL_SCHEMES", "https,http")
    settings = load_settings()
    assert settings.url_hosts == ("a.example", "*.b.example:8443")
    assert settings.url_schemes == ("https", "http")
    assert UrlPolicy.from_settings(settings).target("http://a.example/").port == 80
    monkeypatch.setenv("CLIPFLEET_URL_HOSTS", "")
    assert load_settings().url_hosts == ()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("URL_HOSTS", "a.example,", "'' names no host"),
        ("URL_HOSTS", "https://a.example", "names no host"),
        ("URL_PRIVATE_HOSTS", "*.a.example", "one by one"),
        ("URL_SCHEMES", "ftp", "url_schemes"),
        ("URL_HOST", "a.example", "did you mean CLIPFLEET_URL_HOSTS"),
    ],
)
def test_wrong_lists_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(f"CLIPFLEET_{name}", value)
    with pytest.raises(SettingsError, match=reason):
        load_settings()


@pytest.mark.parametrize("rest", ["", "/", "/a/b.jpg", "?a=b", "#c", "/?d"])
def test_a_hosts_troubles_are_its_own_however_a_url_goes_on(rest: str) -> None:
    assert named_host(f"HTTPS://A.example:8443{rest}") == "a.example:8443"


def test_a_string_that_is_no_url_names_no_host() -> None:
    assert named_host("a.example/b") == ""
