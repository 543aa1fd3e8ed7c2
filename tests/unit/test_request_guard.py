"""Which requests are meant for the service, and which a web page has a browser make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.requests import Request

from holdfast.serve.body_reading import BodyReader
from holdfast.serve.refusing import RefusedError
from holdfast.serve.request_guard import RequestGuard


def request(*headers: tuple[str, str], server: tuple[str, int] = ("127.0.0.1", 8000), receive: Any = None) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw, "server": server, "query_string": b""}
    return Request(scope, receive) if receive is not None else Request(scope)


def guard(hosts: Sequence[str] = (), origins: Sequence[str] = (), *, token: bool = False) -> RequestGuard:
    return RequestGuard(hosts, origins, token_required=token)


def status(checked: RequestGuard, *headers: tuple[str, str], server: tuple[str, int] = ("127.0.0.1", 8000)) -> int:
    try:
        checked.check(request(*headers, server=server))
    except RefusedError as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "app.localhost:1"],
)
def test_loopback_names_are_good(host: str) -> None:
    assert status(guard(), ("host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "",
        "10.0.0.7", "0.0.0.0:8000", "[fe80::1]", "evil.example@localhost", "localhost/evil", "localhost:8000@evil",
        "[::1", "localhost:port", "[::1]evil.example", "169.254.169.254",
    ],
)  # fmt: skip
def test_all_other_names_are_403(host: str) -> None:
    assert status(guard(), ("host", host)) == 403


def test_no_host_and_two_are_403() -> None:
    assert status(guard()) == 403
    assert status(guard(), ("host", "localhost"), ("host", "evil.example")) == 403


def test_the_address_that_a_request_came_to_is_good() -> None:
    assert status(guard(), ("host", "10.0.0.7:8000"), server=("10.0.0.7", 8000)) == 200
    assert status(guard(), ("host", "10.0.0.8:8000"), server=("10.0.0.7", 8000)) == 403


def test_names_that_are_given_are_good_and_no_others() -> None:
    checked = guard(["Events.example.com", "*.inner.example", "10.0.0.9", "[fd00::1]"])
    for host in ("events.example.com:443", "a.b.inner.example", "10.0.0.9:80", "[fd00::1]:80", "localhost"):
        assert status(checked, ("host", host)) == 200, host
    for host in ("example.com", "x.events.example.com", "inner.example", "evilinner.example"):
        assert status(checked, ("host", host)) == 403, host
    assert status(guard(["*"]), ("host", "anything.example")) == 200


def test_with_a_token_any_host_is_good_unless_some_are_given() -> None:
    assert status(guard(token=True), ("host", "proxy.example")) == 200
    assert status(guard(["events.example"], token=True), ("host", "proxy.example")) == 403
    assert status(guard(token=True), ("host", "proxy.example"), ("origin", "https://evil.example")) == 403


@pytest.mark.parametrize(
    ("origin", "answered"),
    [
        ("http://localhost:8000", 200),
        ("HTTP://LOCALHOST:8000", 200),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost:8000.evil.example", 403),
        ("http://[", 403),
    ],
)
def test_pages_of_another_origin_are_403(origin: str, answered: int) -> None:
    assert status(guard(), ("host", "localhost:8000"), ("origin", origin)) == answered


def test_pages_of_origins_that_are_given_may_post_and_are_answered() -> None:
    checked = guard(origins=["https://Shop.example/"])
    headers = (("host", "localhost:8000"), ("origin", "https://shop.example"))
    assert status(checked, *headers) == 200
    assert checked.answer_headers(request(*headers).headers)["Access-Control-Allow-Origin"] == "https://shop.example"
    assert status(checked, ("host", "localhost:8000"), ("origin", "https://evil.example")) == 403
    assert checked.answer_headers(request(("host", "localhost")).headers) == {}


@pytest.mark.parametrize(
    ("given", "sent"),
    [("https://shop.example:443", "https://shop.example"), ("http://shop.example:80/", "http://shop.example"),
     ("http://shop.example:443", "http://shop.example:443"), ("https://[fd00::1]:443", "https://[fd00::1]")],
)  # fmt: skip
def test_an_origin_is_given_with_or_without_the_usual_port(given: str, sent: str) -> None:
    assert status(guard(origins=[given]), ("host", "localhost"), ("origin", sent)) == 200


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [
        ("events.example", ()), (["http://events.example"], ()), (["events.example:80"], ()), ([7], ()), ([""], ()),
        (["a*.example"], ()), (None, ()), ((), "https://a.example"), ((), ["a.example"]), ((), ["https://a.example/x"]),
        ((), ["https://*.a.example"]), ((), ["https://user@a.example"]), ((), ["null"]),
    ],
)  # fmt: skip
def test_what_is_no_host_or_origin_is_refused_by_name(hosts: Any, origins: Any) -> None:
    with pytest.raises(ValueError, match="allowed_hosts" if not origins else "allowed_origins"):
        RequestGuard(hosts, origins, token_required=False)


# -- bodies ------------------------------------------------------------------------------------------------------------


def sending(*pieces: bytes, ends: bool = True) -> Callable[[], Any]:
    """What gives a request these pieces, and then nothing more unless it ends."""
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        if not left and not ends:
            await asyncio.Event().wait()
        more = len(left) > 1 or not ends
        return {"type": "http.request", "body": left.pop(0) if left else b"", "more_body": more}

    return receive


def read(reader: BodyReader, receive: Any) -> Any:
    return reader.read(request(("content-type", "application/json"), receive=receive))


def test_a_body_that_does_not_come_to_its_end_is_408() -> None:
    async def check() -> None:
        reader = BodyReader(most_bytes=100, within_s=0.05, at_once=4)
        with pytest.raises(RefusedError, match=r"within 0\.05 s") as caught:
            await read(reader, sending(b"half", ends=False))
        assert caught.value.status == 408
        assert await read(reader, sending(b"who", b"le")) == b"whole"

    asyncio.run(check())


def test_half_sent_bodies_give_their_places_to_those_that_come() -> None:
    async def check() -> None:
        reader = BodyReader(most_bytes=100, within_s=600.0, at_once=8)
        slow = [asyncio.ensure_future(read(reader, sending(b"half", ends=False))) for _ in range(40)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(read(reader, sending(b"whole")), 60) == b"whole"
        done, waiting = await asyncio.wait(slow, timeout=60, return_when=asyncio.FIRST_EXCEPTION)
        assert {task.exception().status for task in done} == {408}  # type: ignore[union-attr]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        # No place is lost by those that were given up.
        assert await asyncio.gather(*(read(reader, sending(b"x")) for _ in range(20))) == [b"x"] * 20

    asyncio.run(check())


def test_no_more_bodies_are_read_at_once_than_is_said() -> None:
    async def check() -> None:
        reader, now, most = BodyReader(most_bytes=100, within_s=600.0, at_once=3), 0, 0

        async def receive() -> dict[str, Any]:
            nonlocal now, most
            now += 1
            most = max(most, now)
            for _ in range(5):
                await asyncio.sleep(0)
            now -= 1
            return {"type": "http.request", "body": b"x", "more_body": False}

        assert await asyncio.gather(*(read(reader, receive) for _ in range(30))) == [b"x"] * 30
        assert most == 3

    asyncio.run(check())


def test_a_client_that_leaves_within_its_body_costs_no_place() -> None:
    async def check() -> None:
        reader = BodyReader(most_bytes=100, within_s=600.0, at_once=1)

        async def leave() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        with pytest.raises(RefusedError, match="ended before"):
            await read(reader, leave)
        assert await read(reader, sending(b"x")) == b"x"

    asyncio.run(check())


@pytest.mark.parametrize("said", ["101", "1" * 5000])
def test_a_body_that_is_said_to_be_too_long_is_413_unread(said: str) -> None:
    async def check() -> None:
        reader = BodyReader(most_bytes=100, within_s=600.0, at_once=1)
        with pytest.raises(RefusedError) as caught:
            await reader.read(request(("content-length", said), receive=sending(ends=False)))
        assert caught.value.status == 413

    asyncio.run(check())
