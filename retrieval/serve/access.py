"""Who may ask: the checks before each request, and the headers of each answer."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipfleet.hosts import canonical_host, is_address, split_port

_COOKIE = "clipfleet-token"
_LOOPBACK_NAME = "localhost"

HEADERS = {
    # Scripts, styles and pictures of this server alone; `blob:` shows the user's own picture.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site shows the pictures
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # The same row of another index, served at the same address later, is another picture.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """A layer of ASGI that lets a request through, or refuses it; every answer has HEADERS.

    `names` are the host names of this server besides addresses and localhost. With a `token`, a
    request must carry it, as the cookie that the printed URL sets.
    """

    app: ASGIApp
    names: frozenset[str] = frozenset()
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(Request(scope)) or self.app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            # A site may let its own name lead to this address, to read answers as its own.
            return _refuse(
                HTTPStatus.BAD_REQUEST,
                f"this server has no name {host!r}: open the URL that `clipfleet serve` printed, "
                "or start it with --host NAME",
            )
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _refuse(HTTPStatus.FORBIDDEN, f"a page of {origin!r} may not ask this server")
        if self.token is None:
            return None
        return self._check_token(request, self.token, f"{_COOKIE}-{split_port(host)[1]}")

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header is an address, which no site can claim, or a known name."""
        try:
            name = canonical_host(split_port(host)[0])
        except ValueError:
            return False
        return is_address(name) or name == _LOOPBACK_NAME or name in self.names

    def _check_token(self, request: Request, token: str, cookie: str) -> Response | None:
        """Return no answer for a request with the token; of the printed URL, make a cookie."""
        given = parse_qs(request.url.query).get("token", [""])[0]
        if _equal(given, token):
            answer = RedirectResponse(request.url.path, HTTPStatus.SEE_OTHER)
            # Lax: a link to the page works, and a request from another site has no cookie.
            answer.set_cookie(cookie, token, httponly=True, samesite="lax")
            return answer
        if _equal(request.cookies.get(cookie, ""), token):
            return None
        return _refuse(
            HTTPStatus.UNAUTHORIZED,
            "the token is missing or wrong: open the whole URL that `clipfleet serve` printed",
        )


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())  # as long for every wrong token


def _refuse(status: HTTPStatus, reason: str) -> Response:
    return PlainTextResponse(f"clipfleet: {reason}\n", status)
