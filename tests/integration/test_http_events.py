"""Events over HTTP: what is answered, who gets them, and how often. Through real HTTP to Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from holdfast import workflow
from holdfast.serve.event_provider import EventProvider
from holdfast.workflow.common import HTTP_EVENT_PROVIDER_NAME
from holdfast.workflow.http_event_provider import HTTPEventProvider, HTTPListener
from tests.integration.serving import Answer, call, serving
from tests.integration.traces import in_memory, mark, marks, wait_for, wait_for_file

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def port(platform: Path) -> Iterator[int]:
    """Serve with the provider as it is when nothing more is said: one application, at the root."""
    with serving() as port:
        serve.run(HTTPEventProvider.bind())
        yield port


@pytest.fixture
def post(port: int) -> Callable[..., Answer]:
    """Posts an event: (workflow id, key, payload, headers)."""

    def send(workflow_id: str, key: str, payload: Any = None, *, below: str = "/event", **headers: str) -> Answer:
        body = {"event_key": key, "event_payload": payload}
        return call(url(port, workflow_id, below), body, **headers)

    return send


JSON = "Content-Type: application/json"


def started(port: int, sent: bytes) -> socket.socket:
    """A connection on which so much has been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(sent)
    return connection


def half_sent(port: int, workflow_id: str, below: str) -> socket.socket:
    """A connection on which a body has begun."""
    head = f"POST {below}/send_event/{workflow_id} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 100\r\n\r\n"
    return started(port, head.encode() + b'{"event_key": ')


def answered(connection: socket.socket) -> int:
    """The status that a request on a connection is answered with."""
    with connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


def bare_post(port: int, workflow_id: str, *headers: str, payload: Any = 1, below: str = "/event") -> int:
    """The status of a POST with no other headers than these."""
    body = json.dumps({"event_key": "k", "event_payload": payload}).encode()
    lines = (f"POST {below}/send_event/{workflow_id} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "", "")
    with started(port, "\r\n".join(lines).encode() + body) as connection:
        return answered(connection)


def url(port: int, workflow_id: str, below: str = "/event") -> str:
    return f"http://127.0.0.1:{port}{below}/send_event/{urllib.parse.quote(workflow_id, safe='')}"


@ray.remote(num_cpus=0)
def give(*values):
    return list(values)


def event(key, listener=HTTPListener):
    return workflow.wait_for_event(listener, event_key=key)


@ray.remote(num_cpus=0)
def poll(split, rounds, seen):
    """Wait half a second for news, over and over, until there were four."""
    mark(rounds)
    seen = seen + [news[1] for news in split[0]]
    if len(seen) == 4:
        return seen
    return workflow.continuation(poll.bind(workflow.wait([event("news")], timeout=0.5), rounds, seen))


class Reporting(HTTPListener):
    """Does with an event what its payload says."""

    async def event_checkpointed(self, event):
        key, says = event
        if says == "raise":
            raise ValueError("cannot take it")
        if says == "wait":
            await asyncio.sleep(600)
        if says != "silent":
            await self.handle.report_checkpointed.remote(workflow.workflow_context.get_current_workflow_id(), key, says)


class TestDelivery:
    def test_a_posted_event_reaches_the_task_that_waits(self, post, wid) -> None:
        reference = workflow.run_async(give.bind(event("k"), "other"), workflow_id=wid)
        answer = post(wid, "k", {"paid": [1, 2.5, None, "ü"]})
        assert (answer.status, answer.body) == (200, {"workflow_id": wid, "event_key": "k", "repeated": False})
        assert ray.get(reference, timeout=30) == [("k", {"paid": [1, 2.5, None, "ü"]}), "other"]

    def test_an_event_that_comes_before_its_waiter_is_kept_and_answered_200(self, post, wid, tmp_path) -> None:
        gate = tmp_path / "gate"

        @ray.remote(num_cpus=0)
        def begin():
            wait_for_file(gate)
            return workflow.continuation(give.bind(event("k"), event("k")))

        reference = workflow.run_async(begin.bind(), workflow_id=wid)
        assert [post(wid, "k", number).status for number in (1, 2)] == [200, 200]
        gate.touch()
        assert sorted(ray.get(reference, timeout=30)) == [("k", 1), ("k", 2)]

    def test_any_workflow_id_can_be_posted_to(self, post, wid) -> None:
        odd = f"{wid}/with a blank/ünd ? # %2F"
        reference = workflow.run_async(event("k"), workflow_id=odd)
        assert post(odd, "k", 1).status == 200
        assert ray.get(reference, timeout=30) == ("k", 1)

    def test_the_old_way_of_deploying_it_works(self, port, post, wid) -> None:
        serve.run(HTTPEventProvider.bind(), name=HTTP_EVENT_PROVIDER_NAME, route_prefix="/event")
        try:
            reference = workflow.run_async(event("k"), workflow_id=wid)
            assert post(wid, "k", 1).status == 200
            assert ray.get(reference, timeout=30) == ("k", 1)
        finally:
            serve.delete(HTTP_EVENT_PROVIDER_NAME)

    def test_forty_posts_at_once_are_all_taken(self, post, wid) -> None:
        reference = workflow.run_async(give.bind(*(event("k") for _ in range(40))), workflow_id=wid)
        with ThreadPoolExecutor(40) as threads:
            statuses = list(threads.map(lambda number: post(wid, "k", number).status, range(40)))
        assert statuses == [200] * 40
        assert sorted(number for _, number in ray.get(reference, timeout=60)) == list(range(40))


class TestIdempotencyKey:
    def test_the_same_event_sent_twice_is_taken_once_and_answered_200_twice(self, post, wid) -> None:
        reference = workflow.run_async(give.bind(event("k"), event("k")), workflow_id=wid)
        answers = [post(wid, "k", number, idempotency_key=key) for number, key in ((1, "a"), (1, "a"), (2, "b"))]
        assert [(answer.status, answer.body["repeated"]) for answer in answers] == [
            (200, False),
            (200, True),
            (200, False),
        ]
        assert sorted(ray.get(reference, timeout=30)) == [("k", 1), ("k", 2)]
        # Whoever repeats it was not told that it was taken: also when all is over by now.
        assert post(wid, "k", 1, idempotency_key="a").status == 200
        assert post(wid, "k", 3, idempotency_key="c").status == 409

    def test_sent_twenty_times_at_once_it_is_taken_once(self, post, wid) -> None:
        reference = workflow.run_async(give.bind(event("k"), event("k")), workflow_id=wid)
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _: post(wid, "k", 1, idempotency_key="a"), range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert sorted(answer.body["repeated"] for answer in answers) == [False] + [True] * 19
        post(wid, "k", 2)
        assert sorted(ray.get(reference, timeout=30)) == [("k", 1), ("k", 2)]

    def test_without_one_every_post_is_an_event(self, post, wid) -> None:
        reference = workflow.run_async(give.bind(event("k"), event("k")), workflow_id=wid)
        assert [post(wid, "k", 1).body["repeated"] for _ in range(2)] == [False, False]
        assert ray.get(reference, timeout=30) == [("k", 1), ("k", 1)]


class TestRefusals:
    def test_an_unknown_workflow_is_404_and_leaves_no_trace(self, post) -> None:
        answer = post("nobody", "k", 1)
        assert answer.status == 404
        assert "nobody" in answer.body["detail"]
        assert "nobody" not in dict(workflow.list_all())
        assert post("x" * 1025, "k", 1).status == 404

    def test_a_workflow_that_has_ended_is_409(self, post, wid) -> None:
        workflow.run(give.bind(1), workflow_id=wid)
        answer = post(wid, "k", 1)
        assert answer.status == 409
        assert "SUCCESSFUL" in answer.body["detail"]

    @pytest.mark.parametrize(
        ("body", "where"),
        [
            (b"{", ["body"]),
            (b"\xff\xfe", ["body"]),
            (b"", ["body"]),
            (b"[" * 100_000, ["body"]),
            (b'{"event_key": "k", "event_payload": NaN}', ["body"]),
            (b'{"event_key": "k", "event_payload": -Infinity}', ["body"]),
            (b'{"event_key": "k", "event_payload": 1e999}', ["body"]),
            (b'{"event_key": "k", "event_payload": {"a": ["\\udc00"]}}', ["body", "event_payload"]),
            (b'{"event_key": "k", "event_payload": {"a": 1, "b": 2, "a": 1}}', ["body"]),
            (b'{"event_key": "k", "event_payload": 1, "event_key": "l"}', ["body"]),
            (b"[1]", ["body"]),
            (b'{"event_payload": 1}', ["body", "event_key"]),
            (b'{"event_key": "k"}', ["body", "event_payload"]),
            (b'{"event_key": 3, "event_payload": 1}', ["body", "event_key"]),
            (b'{"event_key": "\\ud800", "event_payload": 1}', ["body", "event_key"]),
        ],
        ids=lambda given: repr(given)[:40],
    )
    def test_a_bad_body_is_422_and_names_the_field(self, port, wid, body, where) -> None:
        answer = call(url(port, wid), body)
        assert answer.status == 422
        assert [problem["loc"] for problem in answer.body["detail"]] == [where]

    def test_an_empty_idempotency_key_is_422(self, post, wid) -> None:
        answer = post(wid, "k", 1, idempotency_key=" ")
        assert answer.status == 422
        assert answer.body["detail"][0]["loc"] == ["header", "Idempotency-Key"]

    def test_a_body_that_is_not_said_to_be_json_is_415(self, port, wid) -> None:
        body = b'{"event_key": "k", "event_payload": 1}'
        assert call(url(port, wid), body, content_type="text/plain").status == 415
        assert call(url(port, wid), body, content_type="application/x-www-form-urlencoded").status == 415
        for accepted in ("application/json; charset=utf-8", "application/cloudevents+json"):
            assert call(url(port, "nobody"), body, content_type=accepted).status == 404

    def test_a_body_without_a_content_type_is_415_as_a_web_page_can_send_it(self, port, wid) -> None:
        assert bare_post(port, wid, "Host: localhost") == 415
        assert bare_post(port, wid, "Host: localhost", "Content-Type: text/plain;application/json") == 415
        assert bare_post(port, wid, "Host: localhost", "Content-Type: text/plain", JSON) == 415
        assert bare_post(port, "nobody", "Host: localhost", JSON) == 404

    def test_a_foreign_host_or_origin_is_403_and_leaves_no_event(self, port, wid) -> None:
        reference = workflow.run_async(event("k"), workflow_id=wid)
        own = f"Host: 127.0.0.1:{port}"
        assert bare_post(port, wid, "Host: evil.example", JSON) == 403
        assert bare_post(port, wid, f"Host: evil.example:{port}", JSON, f"Origin: http://evil.example:{port}") == 403
        assert bare_post(port, wid, own, JSON, "Origin: https://evil.example") == 403
        assert bare_post(port, wid, own, JSON, "Origin: null") == 403
        assert bare_post(port, wid, own, JSON, f"Origin: http://127.0.0.1:{port}", payload=7) == 200
        assert ray.get(reference, timeout=30) == ("k", 7)

    def test_hosts_and_origins_that_are_given_may_post(self, port, wid) -> None:
        given = {"allowed_hosts": ["events.example"], "allowed_origins": ["https://shop.example"]}
        serve.run(HTTPEventProvider.bind(**given), name="known", route_prefix="/known")
        try:
            headers = ("Host: events.example", JSON, "Origin: https://shop.example")
            assert bare_post(port, "nobody", *headers, below="/known") == 404
            assert bare_post(port, "nobody", "Host: other.example", JSON, below="/known") == 403
            asked = call(
                url(port, wid, "/known"),
                method="OPTIONS",
                origin="https://shop.example",
                access_control_request_method="POST",
            )
            assert asked.status == 204
            assert asked.headers["Access-Control-Allow-Origin"] == "https://shop.example"
            assert "content-type" in asked.headers["Access-Control-Allow-Headers"]
            assert call(url(port, wid), method="OPTIONS", origin="https://shop.example").status == 403
        finally:
            serve.delete("known")

    def test_half_sent_bodies_are_408_and_hold_up_nobody(self, port, post, wid) -> None:
        serve.run(HTTPEventProvider.bind(body_within_s=2.0), name="hasty", route_prefix="/hasty")
        try:
            with contextlib.ExitStack() as sockets:
                slow = [sockets.enter_context(half_sent(port, wid, "/hasty")) for _ in range(1100)]
                assert post("nobody", "k", 1, below="/hasty").status == 404
                assert {answered(one) for one in slow} == {408}
            assert post("nobody", "k", 1, below="/hasty").status == 404
        finally:
            serve.delete("hasty")

    def test_half_sent_heads_hold_up_nobody(self, port, post) -> None:
        with contextlib.ExitStack() as sockets:
            for _ in range(1100):
                sockets.enter_context(started(port, b"POST /event/send_event/x HTTP/1.1\r\nHost: localh"))
            assert post("nobody", "k", 1).status == 404

    def test_a_body_above_the_limit_is_413_however_it_is_sent(self, port, post, wid) -> None:
        reference = workflow.run_async(event("k"), workflow_id=wid)
        assert post(wid, "k", "x" * MIB).status == 413
        pieces = (b" " * 65536 for _ in range(17))
        assert call(url(port, wid), pieces).status == 413
        assert post(wid, "k", "x" * (MIB - 100)).status == 200
        assert len(ray.get(reference, timeout=30)[1]) == MIB - 100

    def test_other_methods_are_405(self, port, wid) -> None:
        assert call(url(port, wid)).status == 405
        assert call(url(port, wid), {}, method="PUT").status == 405

    def test_a_payload_is_never_500_however_deep_it_is(self, post, port, wid) -> None:
        workflow.run_async(event("end"), workflow_id=wid)
        statuses = set()
        for depth in range(50, 1000, 50):
            body = b'{"event_key": "k", "event_payload": ' + b"[" * depth + b"]" * depth + b"}"
            statuses.add(call(url(port, wid), body).status)
        assert statuses <= {200, 422}
        assert 200 in statuses
        assert post(wid, "end").status == 200


class TestReports:
    """The listener has an `event_checkpointed` of its own, and waits when the event comes."""

    @pytest.mark.parametrize(("says", "status"), [(True, 200), (False, 500), ("silent", 200)])
    def test_the_poster_is_answered_as_the_listener_reports(self, post, wid, says, status) -> None:
        reference = workflow.run_async(give.bind(event("k", Reporting)), workflow_id=wid)
        assert post(wid, "k", says).status == status
        # The event is the workflow's in any case.
        assert ray.get(reference, timeout=30) == [("k", says)]

    def test_a_listener_that_raises_is_500_and_fails_its_workflow(self, post, wid) -> None:
        workflow.run_async(give.bind(event("k", Reporting)), workflow_id=wid)
        assert post(wid, "k", "raise").status == 500
        assert workflow.get_status(wid) == workflow.FAILED

    def test_a_listener_that_raises_where_it_is_caught_is_500(self, post, wid, tmp_path) -> None:
        audit = tmp_path / "audit"

        @ray.remote(num_cpus=0)
        def around():
            mark(audit)
            return workflow.continuation(give.bind(event("k", Reporting), workflow.sleep(600)))

        options = workflow.options(catch_exceptions=True)
        reference = workflow.run_async(give.bind(around.options(**options).bind(), event("end")), workflow_id=wid)
        # An event that came before its listener would not be answered by it.
        wait_for(lambda: marks(audit) and in_memory() == 0, "the workflow waiting for what is inside too")
        assert post(wid, "k", "raise").status == 500
        assert post(wid, "end").status == 200
        (value, error), _ = ray.get(reference, timeout=30)
        assert value is None
        assert isinstance(error, ValueError)

    def test_an_early_event_is_answered_without_waiting_for_a_listener(self, post, wid, tmp_path) -> None:
        gate = tmp_path / "gate"

        @ray.remote(num_cpus=0)
        def begin():
            wait_for_file(gate)
            return workflow.continuation(give.bind(event("k", Reporting)))

        reference = workflow.run_async(begin.bind(), workflow_id=wid)
        assert post(wid, "k", False).status == 200
        gate.touch()
        # It reports to nobody, and goes on.
        assert ray.get(reference, timeout=30) == [("k", False)]

    def test_a_repetition_is_200_whatever_was_reported(self, post, wid) -> None:
        reference = workflow.run_async(give.bind(event("k", Reporting)), workflow_id=wid)
        assert [post(wid, "k", False, idempotency_key="a").status for _ in range(2)] == [500, 200]
        assert ray.get(reference, timeout=30) == [("k", False)]

    def test_without_http_a_report_goes_nowhere(self, platform, wid) -> None:
        reference = workflow.run_async(give.bind(event("k", Reporting)), workflow_id=wid)
        assert workflow.send_event(wid, "k", False)
        assert ray.get(reference, timeout=30) == [("k", False)]

    def test_a_listener_that_takes_too_long_is_504_and_the_event_is_kept(self, port, post, wid) -> None:
        serve.run(HTTPEventProvider.bind(handled_within_s=1.0), name="impatient", route_prefix="/impatient")
        try:
            workflow.run_async(give.bind(event("k", Reporting)), workflow_id=wid)
            assert post(wid, "k", "wait", below="/impatient", idempotency_key="a").status == 504
            assert post(wid, "k", "wait", below="/impatient", idempotency_key="a").body["repeated"] is True
        finally:
            workflow.cancel(wid)
            serve.delete("impatient")

    @pytest.mark.slow
    def test_reports_find_the_poster_among_several_replicas(self, port, post, wid) -> None:
        application = HTTPEventProvider.options(num_replicas=2).bind()
        serve.run(application, name="several", route_prefix="/several")
        try:
            says = [True, False, True, False, True, False]
            for number in range(len(says)):
                workflow.run_async(give.bind(event("k", Reporting)), workflow_id=f"{wid}-{number}")
            with ThreadPoolExecutor(len(says)) as threads:
                posted = threads.map(lambda at: post(f"{wid}-{at}", "k", says[at], below="/several"), range(len(says)))
                assert [answer.status for answer in posted] == [200 if ok else 500 for ok in says]
        finally:
            serve.delete("several")


class TestToken:
    def test_whoever_does_not_bear_the_token_is_401(self, port, post, wid) -> None:
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {"HOLDFAST_HTTP_TOKEN": "s3cret"}}}
        application = HTTPEventProvider.options(ray_actor_options=options).bind(token_required=True)
        serve.run(application, name="closed", route_prefix="/closed")
        try:
            reference = workflow.run_async(event("k"), workflow_id=wid)
            for wrong in ("", "Bearer", "Bearer wrong", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer ü"):
                given = {} if not wrong else {"authorization": wrong.encode("utf-8").decode("latin-1")}
                answer = post(wid, "k", 1, below="/closed", **given)
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            # Nothing is said of what is there to those who do not bear it.
            assert post("nobody", "k", 1, below="/closed").status == 401
            assert post(wid, "k", 2, below="/closed", authorization="Bearer s3cret").status == 200
            assert ray.get(reference, timeout=30) == ("k", 2)
        finally:
            serve.delete("closed")

    def test_an_empty_token_and_a_missing_one_are_refused_at_the_start(self, monkeypatch) -> None:
        monkeypatch.delenv("HOLDFAST_HTTP_TOKEN", raising=False)
        with pytest.raises(RuntimeError, match="HOLDFAST_HTTP_TOKEN"):
            EventProvider(token_required=True)
        monkeypatch.setenv("HOLDFAST_HTTP_TOKEN", " ")
        with pytest.raises(ValueError, match="empty"):
            EventProvider()


def test_a_loop_that_waits_with_a_time_limit_gets_every_event_in_order(post, wid, tmp_path: Path) -> None:
    rounds = tmp_path / "rounds"
    reference = workflow.run_async(poll.bind(workflow.wait([event("news")], timeout=0.5), rounds, []), workflow_id=wid)
    for number in range(4):
        before = len(marks(rounds))
        wait_for(lambda before=before: len(marks(rounds)) > before + 1)
        assert post(wid, "news", number).status == 200
    assert ray.get(reference, timeout=60) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"most_bytes": 0},
        {"most_bytes": True},
        {"handled_within_s": 0.0},
        {"handled_within_s": float("inf")},
        {"body_within_s": float("nan")},
        {"bodies_at_once": 1000},
        {"allowed_hosts": "localhost"},
    ],
)
def test_limits_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EventProvider(**wrong)


def test_without_an_open_platform_it_is_503_and_the_next_platform_is_found(port, post, platform, wid) -> None:
    reference_id = f"{wid}-kept"
    workflow.run_async(event("k"), workflow_id=reference_id)
    assert post(reference_id, "other").status == 200
    workflow.shutdown()
    try:
        answer = post(reference_id, "k", 1)
        assert answer.status == 503
        assert "workflow.init" in answer.body["detail"]
    finally:
        workflow.init(str(platform))
    assert post(reference_id, "k", 2).status == 200
    assert workflow.resume(reference_id) == ("k", 2)


def test_a_listener_knows_for_which_workflow_it_runs(platform, tmp_path, wid) -> None:
    class Knows(workflow.EventListener):
        async def poll_for_event(self, folder):
            await asyncio.sleep(0)
            return folder

        async def event_checkpointed(self, event):
            await asyncio.sleep(0)
            found = workflow.workflow_context
            Path(event).joinpath("who").write_text(
                f"{found.get_current_workflow_id()}\n{found.get_current_task_id().rpartition('.')[2]}\n"
            )

    workflow.run(workflow.wait_for_event(Knows, str(tmp_path)), workflow_id=wid)
    assert marks(tmp_path / "who") == [wid, "Knows"]


def test_without_ray_serve_the_error_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from holdfast import workflow\n"
        "from holdfast.workflow.http_event_provider import HTTPListener\n"
        "try:\n    from holdfast.workflow.http_event_provider import HTTPEventProvider\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.startswith("ExtraNotInstalledError")
    assert 'pip install "holdfast[serve]"' in said.stdout
