"""The settings of images at URLs: which are fetched, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from clipfleet.hosts import allowed_host


class UrlSettings(BaseModel):
    """URLs."""

    url_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts from which images are fetched, separated by `,` in the environment: a name, a name with
    a port, `*.example.com` for all names below it, `*` for all names. Unset: none. Their addresses
    must be public; `url_private_hosts` are the exceptions."""

    url_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts at private addresses, such as your own object store, by exact name or address. They
    need no entry in `url_hosts`."""

    url_schemes: Annotated[tuple[Literal["https", "http"], ...], NoDecode] = ("https",)
    """Schemes of URLs that are fetched. With `http`, everybody on the network path can read
    and change the images."""

    url_connect_timeout_s: PositiveFloat = 5.0
    """Seconds for a connection to each address of a host. Larger values accept slower networks."""

    url_read_timeout_s: PositiveFloat = 10.0
    """Seconds without a byte of the answer before an attempt ends. Larger values accept slower
    servers."""

    url_timeout_s: PositiveFloat = 30.0
    """Seconds for a whole attempt, redirects included. Larger values accept slower servers."""

    url_threads: int = Field(default=64, ge=1, le=1024)
    """Maximum of concurrent fetches of each worker. Larger values hide slower servers and load them
    more."""

    url_ahead_bytes: PositiveInt = 256 << 20
    """Maximum of bytes that are fetched and not decoded yet. Larger values hide slow servers and
    take more memory."""

    @field_validator("url_hosts", "url_private_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for host in hosts:
            allowed_host(host, wildcards=info.field_name == "url_hosts")
        return hosts

    @field_validator("url_schemes")
    @classmethod
    def _check_schemes(cls, schemes: tuple[str, ...]) -> tuple[str, ...]:
        if not schemes:
            raise ValueError("no scheme: name https, or https,http")
        return schemes
