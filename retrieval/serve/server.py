"""The server of the page: it listens, prints its URL, and runs until a signal."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from clipfleet.errors import UsageError
from clipfleet.retrieval.serve.access import Access

_TOKEN_BYTES = 32
_CONNECTIONS = 32  # at once; each may hold an upload
_GRACE_S = 1  # for answers that are under way when the server ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """A socket that listens, and who may use it: beyond loopback, only who has the token."""

    socket: socket.socket
    url: str
    names: frozenset[str]
    token: str | None


def listen(host: str, port: int) -> Listener:
    """Listen on an address or a name of this machine; port 0 is a free port.

    Raises:
        UsageError: The address is not of this machine, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another --host or --port"
        ) from error
    address, port = listening.getsockname()[:2]
    names = {host.lower(), socket.gethostname().lower()}
    shown = _shown_host(host, address)
    if ipaddress.ip_address(address).is_loopback:
        url, token = f"http://{shown}:{port}/", None
    else:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        url = f"http://{shown}:{port}/?token={token}"
    return Listener(socket=listening, url=url, names=frozenset(names), token=token)


def make_server(app: ASGIApp, listener: Listener) -> uvicorn.Server:
    """Return a server whose `run(sockets=[listener.socket])` answers until a signal."""
    guarded = Access(app=app, names=listener.names, token=listener.token)
    return uvicorn.Server(
        uvicorn.Config(
            guarded,
            access_log=False,
            http="h11",
            lifespan="off",
            limit_concurrency=_CONNECTIONS,
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            ws="none",
        )
    )


def _shown_host(host: str, address: str) -> str:
    """Return the host of the URL; of all addresses at once, the machine's name."""
    if ipaddress.ip_address(address).is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
