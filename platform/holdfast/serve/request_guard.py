"""Refuses requests that a foreign web page has a browser make, and accepts those meant for this service.

A browser sends a page's requests wherever the page says, a loopback port among others, and names the page in `Origin`.
A page whose name is made to stand for this machine (DNS rebinding) gives itself away in `Host`. A token no page knows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from holdfast.serve.refusing import RefusedError

ANY = "*"

_USUAL_PORTS = {"http": ":80", "https": ":443"}


class RequestGuard:
    """Checks `Host` and `Origin` of requests.

    Args:
        allowed_hosts: Names and addresses under which the service is asked, beside loopback ones and the address that a
            request came to; `*.example.com` for all below one, `*` for any.
        allowed_origins: Origins of pages that may post, beside those of the service's own host; `*` for any.
        token_required: Whether every request must bear a token. Then `Host` is checked only when hosts are given.

    Raises:
        ValueError: A host or an origin is none; names it.
    """

    def __init__(self, allowed_hosts: Iterable[str], allowed_origins: Iterable[str], *, token_required: bool) -> None:
        self._hosts = frozenset(_checked_host(host) for host in _listed("allowed_hosts", allowed_hosts))
        self._origins = frozenset(_checked_origin(one) for one in _listed("allowed_origins", allowed_origins))
        self._any_host = ANY in self._hosts or (token_required and not self._hosts)

    def check(self, request: Request) -> None:
        """Refuse a request that is not meant for this service.

        Raises:
            RefusedError: 403.
        """
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        host = _host_of(hosts[0]) if len(hosts) == 1 else ""
        if not self._any_host and not (host and self._is_ours(host, request)):
            said = ", ".join(hosts)
            raise RefusedError(
                403,
                f"the Host {said!r:.200} is not a name of this service: "
                "give it in allowed_hosts= of start_http_events, or use a token (HOLDFAST_HTTP_TOKEN)",
            )
        for origin in origins:
            if not self.allows_origin(origin, hosts[0] if hosts else ""):
                raise RefusedError(
                    403,
                    f"pages of the origin {origin!r:.200} may not post here: "
                    "give it in allowed_origins= of start_http_events",
                )

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether pages of an origin may post to a host: its own may."""
        origin = origin.strip().lower().rstrip("/")
        if ANY in self._origins or origin in self._origins:
            return True
        try:
            return bool(host) and urlsplit(origin).netloc == host.strip().lower()
        except ValueError:
            return False

    def answer_headers(self, headers: Headers) -> dict[str, str]:
        """Give the headers by which a browser shows the answer to a page that may post; none for others."""
        origin = headers.get("origin")
        if origin is None or not self._origins or not self.allows_origin(origin, headers.get("host", "")):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def _is_ours(self, host: str, request: Request) -> bool:
        if host in self._hosts or host == "localhost" or host.endswith(".localhost"):
            return True
        _, _, below = host.partition(".")
        while below:
            if f"*.{below}" in self._hosts:
                return True
            _, _, below = below.partition(".")
        address = _address(host)
        server: Any = request.scope.get("server")
        return address is not None and (
            address.is_loopback or (server is not None and address == _address(str(server[0])))
        )


def _listed(name: str, given: Any) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f'{name} must be a list, as ["events.example.com"], not {given!r}')
    listed = list(given)
    for one in listed:
        if not isinstance(one, str) or not one.strip():
            raise ValueError(f"{name} holds {one!r}, which is not a text")
    return listed


def _checked_host(given: str) -> str:
    host = given.strip().lower().rstrip(".")
    if _address(host.strip("[]")) is not None:
        return host.strip("[]")
    if any(character in host for character in "/:@ ,") or ("*" in host.removeprefix("*.") and host != ANY):
        raise ValueError(f'allowed_hosts holds {given!r}, which is not a name as "events.example.com", without a port')
    return host


def _checked_origin(given: str) -> str:
    origin = given.strip().lower().rstrip("/")
    if origin == ANY:
        return origin
    parts = urlsplit(origin)
    named = parts.scheme and parts.netloc and not any(character in parts.netloc for character in "*@ ,")
    if not named or parts.path or parts.query or parts.fragment:
        raise ValueError(f'allowed_origins holds {given!r}, which is not an origin as "https://shop.example.com"')
    # As browsers say it: without the port that goes without saying.
    return origin.removesuffix(_USUAL_PORTS.get(parts.scheme, ""))


def _host_of(header: str) -> str:
    """The name or address of a `Host` header, without its port; empty for what is none."""
    text = header.strip().lower()
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else port and "x"
        if not closed:
            return ""
    else:
        host, _, port = text.partition(":")
    if (port and not port.isdecimal()) or not host or any(character in host for character in "/@ ,\\"):
        return ""
    return host.rstrip(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
