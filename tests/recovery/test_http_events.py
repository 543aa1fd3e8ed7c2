"""An event that was answered 200 and that nobody has taken yet, and the death of what took it: real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray import serve

from holdfast import workflow
from holdfast.actors.operating_system import Process
from holdfast.serve import start_http_events
from tests.integration.serving import Answer, applications_pickle, call, free_port
from tests.recovery.http_driver import HTTPListener, then
from tests.recovery.processes import descendants, end, of_role, replaced, the_one, title, until

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
ANSWER_S = 60.0


def post(port: int, key: str, payload: object, idempotency_key: str) -> Answer:
    body = {"event_key": key, "event_payload": payload}
    return call(f"http://127.0.0.1:{port}/event/send_event/waits", body, idempotency_key=idempotency_key)


def post_until_taken(port: int, key: str, payload: object, idempotency_key: str) -> Answer:
    """As whoever posts has to, when no answer comes: again, with the same key."""

    def attempt() -> Answer | None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            answer = post(port, key, payload, idempotency_key)
            return answer if answer.status == 200 else None
        return None

    return until(attempt, "the event is taken", ANSWER_S)


@pytest.fixture(scope="module")
def port(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    workflow.init(str(tmp_path_factory.mktemp("platform") / "storage"))
    applications_pickle()
    port = free_port()
    start_http_events(port=port)
    yield port
    serve.shutdown()
    workflow.shutdown()


@pytest.fixture
def reference(port: int) -> Iterator[ray.ObjectRef]:
    first = workflow.wait_for_event(HTTPListener, event_key="go")
    yield workflow.run_async(then.bind(first), workflow_id="waits")
    workflow.delete("waits")


class TestProcesses:
    def test_the_death_of_the_management_actor_disturbs_no_post(self, port: int, reference: ray.ObjectRef) -> None:
        assert post(port, "early", 1, "a").status == 200
        management = the_one("management")
        management.kill()
        # Taken while it is being started again.
        assert post(port, "early", 2, "b").status == 200
        assert post(port, "early", 1, "a").body["repeated"] is True
        assert post(port, "go", 0, "c").status == 200
        assert ray.get(reference, timeout=ANSWER_S) == [("go", 0), ("early", 1)]
        replaced("management", [management])

    def test_the_death_of_an_executor_delays_a_post_and_no_more(self, port: int, reference: ray.ObjectRef) -> None:
        assert post(port, "early", 1, "a").status == 200
        end(of_role("executor"))
        assert post(port, "early", 1, "a").body["repeated"] is True
        assert post(port, "go", 0, "b").status == 200
        assert ray.get(reference, timeout=ANSWER_S) == [("go", 0), ("early", 1)]

    def test_the_death_of_every_process_of_serve_loses_nothing(self, port: int, reference: ray.ObjectRef) -> None:
        assert post(port, "early", 1, "a").status == 200
        of_serve = ("ray::Serve", "ray::Proxy")
        ended = [process for process in descendants(os.getpid()) if title(process).startswith(of_serve)]
        assert len(ended) >= 3
        end(ended)
        until(lambda: not any(process.alive for process in ended), "they end")
        assert post_until_taken(port, "early", 1, "a").body["repeated"] is True
        assert post_until_taken(port, "go", 0, "b").status == 200
        assert ray.get(reference, timeout=ANSWER_S) == [("go", 0), ("early", 1)]

    def test_another_port_than_that_of_the_serve_that_runs_is_refused(self, port: int) -> None:
        with pytest.raises(RuntimeError, match=r"serve\.shutdown"):
            start_http_events(port=free_port())

    def test_serve_may_be_shut_down_and_started_anew(self, port: int, reference: ray.ObjectRef) -> None:
        assert post(port, "early", 1, "a").status == 200
        serve.shutdown()
        again = free_port()
        assert start_http_events(port=again, route_prefix="/other/way") == f"http://127.0.0.1:{again}/other/way"
        body = {"event_key": "go", "event_payload": 0}
        assert call(f"http://127.0.0.1:{again}/other/way/send_event/waits", body).status == 200
        assert ray.get(reference, timeout=ANSWER_S) == [("go", 0), ("early", 1)]


class HTTPDriver:
    """`http_driver.py`, and everything below it."""

    def __init__(self, storage: Path, log: Path, port: int) -> None:
        self._log = log.open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.recovery.http_driver", str(storage), str(port)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def hear(self, word: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        self._log.seek(0)
        raise AssertionError(f"the driver ended before it said {word}:\n{self._log.read()[-4000:]}")

    def kill_all(self) -> None:
        below: list[Process] = descendants(self.process.pid)
        self.process.kill()
        end(sorted(below, key=lambda process: process.started))
        self.process.wait()
        until(lambda: not any(process.alive for process in below), "the driver's processes end")

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill_all()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], HTTPDriver]]:
    drivers: list[HTTPDriver] = []

    def started(port: int) -> HTTPDriver:
        drivers.append(HTTPDriver(tmp_path / "storage", tmp_path / "log", port))
        return drivers[-1]

    yield started
    for driver in drivers:
        driver.close()


def test_an_accepted_event_survives_the_kill_of_the_whole_cluster(start: Callable[[int], HTTPDriver]) -> None:
    port = free_port()
    first = start(port)
    first.hear("SERVES")
    assert post(port, "early", {"from": "the first cluster"}, "a").status == 200
    first.kill_all()

    port = free_port()
    second = start(port)
    second.hear("SERVES")
    # Whoever did not hear the answer posts it again.
    assert post(port, "early", {"from": "the second"}, "a").body["repeated"] is True
    assert post(port, "go", 0, "b").status == 200
    assert second.hear("VALUE") == str([("go", 0), ("early", {"from": "the first cluster"})])
