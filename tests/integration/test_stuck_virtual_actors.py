"""A virtual actor that is stuck has a way out through the public API, and what it was stuck in is without effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors.virtual.host import MOST_LEFT_BEHIND
from holdfast.engine.virtual_actor_errors import (
    CallCancelledError,
    CallNotFoundError,
    VirtualActorNotCancellableError,
    VirtualActorVersionError,
)

pytestmark = pytest.mark.usefixtures("platform")


@workflow.virtual_actor
class Stuck:
    def __init__(self) -> None:
        self.n = 0

    def hang(self, folder: str) -> int:
        """Until there is a file, then a late change, a late request and a late result."""
        self.n += 100
        Path(folder, "hangs").touch()
        while not Path(folder, "let go").exists():
            time.sleep(0.02)
        self.n += 100
        asks = Path(folder, "asks")
        if asks.exists():
            try:
                workflow.get_actor(asks.read_text()).ok.run_async()
            except workflow.exceptions.AttemptAbandonedError as error:
                Path(folder, "refused").write_text(str(error))
        Path(folder, "over").touch()
        return self.n

    async def hang_awaited(self, folder: str) -> int:
        self.n += 100
        Path(folder, "hangs").touch()
        try:
            await asyncio.sleep(3600)
        finally:
            Path(folder, "over").touch()
        return self.n

    def ok(self) -> int:
        self.n += 1
        return self.n

    def go_on(self, folder: str) -> Any:
        self.n += 10
        return hang_in_a_step.step(folder)

    @workflow.virtual_actor.readonly
    def get(self) -> int:
        return self.n


@workflow.virtual_actor(on_error="suspend")
class Careful:
    def __init__(self) -> None:
        self.n = 0

    def fail(self) -> None:
        raise LookupError("no such thing")

    def ok(self) -> int:
        self.n += 1
        return self.n

    def go_on(self, folder: str) -> Any:
        return hang_in_a_step.step(folder)


@workflow.step  # type: ignore[untyped-decorator]
def hang_in_a_step(folder: str) -> None:
    Path(folder, "hangs").touch()
    while not Path(folder, "let go").exists():
        time.sleep(0.02)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def hanging(reference: Callable[[], Any], folder: Path) -> Any:
    found = reference()
    wait_for((folder / "hangs").exists, "it does not hang")
    return found


def cancelled(reference: Any) -> CallCancelledError:
    with pytest.raises(workflow.WorkflowCancellationError) as raised:
        ray.get(reference)
    assert isinstance(raised.value, CallCancelledError)
    return raised.value


@pytest.mark.parametrize("method", ["hang", "hang_awaited"])
def test_a_call_that_hangs_is_ended_and_the_mailbox_goes_on(method: str, wid: str, tmp_path: Path) -> None:
    stuck = Stuck.get_or_create(wid)
    reference = hanging(lambda: getattr(stuck, method).run_async(str(tmp_path)), tmp_path)
    behind = stuck.ok.run_async()
    assert workflow.describe(wid).current_call == method
    workflow.cancel(f"{wid}/{method}")
    assert cancelled(reference).call == method
    assert ray.get(behind) == 1
    if method == "hang":
        assert not (tmp_path / "over").exists()
        (tmp_path / "let go").touch()
    wait_for((tmp_path / "over").exists, "it is not over")
    assert stuck.ok.run() == 2
    assert stuck.get.run() == 2
    found = workflow.describe(wid)
    assert (found.state_version, found.mailbox_length, found.current_call) == (3, 0, "")
    # Ended twice, or when it is over, changes nothing.
    workflow.cancel(f"{wid}/{method}")


def test_what_was_left_behind_asks_for_nothing_any_more(wid: str, tmp_path: Path) -> None:
    stuck = Stuck.get_or_create(wid)
    reference = hanging(lambda: stuck.hang.run_async(str(tmp_path)), tmp_path)
    (tmp_path / "asks").write_text(wid)
    workflow.cancel(f"{wid}/hang")
    cancelled(reference)
    (tmp_path / "let go").touch()
    wait_for((tmp_path / "over").exists, "it is not over")
    assert "not done" in (tmp_path / "refused").read_text()
    assert stuck.ok.run() == 1


def test_a_caller_that_waits_by_run_hears_of_it(wid: str, tmp_path: Path) -> None:
    async def both() -> BaseException | int:
        stuck = Stuck.get_or_create(wid)
        waiter = asyncio.ensure_future(stuck.hang_awaited.aio.run(str(tmp_path)))
        while not (tmp_path / "hangs").exists():
            await asyncio.sleep(0.02)
        await workflow.aio.cancel(f"{wid}/hang_awaited")
        (found,) = await asyncio.gather(waiter, return_exceptions=True)
        return found

    assert isinstance(asyncio.run(both()), CallCancelledError)


def test_a_call_that_waits_behind_another_one_is_taken_out(wid: str, tmp_path: Path) -> None:
    stuck = Stuck.get_or_create(wid)
    first = hanging(lambda: stuck.hang.run_async(str(tmp_path)), tmp_path)
    behind = [stuck.ok.options(name=name).run_async() for name in ("one", "two/three")]
    workflow.cancel(f"{wid}/two/three")
    assert cancelled(behind[1]).call == "two/three"
    (tmp_path / "let go").touch()
    assert ray.get([first, behind[0]]) == [200, 201]


def test_a_call_that_has_gone_on_is_ended_with_its_workflow(wid: str, tmp_path: Path) -> None:
    stuck = Stuck.get_or_create(wid)
    reference = hanging(lambda: stuck.go_on.run_async(str(tmp_path)), tmp_path)
    workflow.cancel(f"{wid}/go_on")
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference)
    assert workflow.get_status(f"{wid}/go_on") == workflow.CANCELED
    # What it did before it went on had been committed.
    assert stuck.ok.run() == 11


def test_a_workflow_that_is_cancelled_does_not_hold_up_a_careful_actor(wid: str, tmp_path: Path) -> None:
    careful = Careful.get_or_create(wid)
    reference = hanging(lambda: careful.go_on.run_async(str(tmp_path)), tmp_path)
    workflow.cancel(f"{wid}/go_on")
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference)
    assert careful.ok.run() == 1


def test_a_call_that_holds_the_mailbox_is_given_up(wid: str) -> None:
    careful = Careful.get_or_create(wid)
    with pytest.raises(LookupError, match="no such thing"):
        careful.fail.run()
    behind = careful.ok.run_async()
    assert workflow.get_status(wid) == workflow.RESUMABLE
    workflow.cancel(f"{wid}/fail")
    assert ray.get(behind) == 1


def test_an_id_with_a_slash_is_an_actors_or_a_workflows_own_first(wid: str, tmp_path: Path) -> None:
    stuck, slashed = Stuck.get_or_create(wid), Stuck.get_or_create(f"{wid}/hang")
    hanging(lambda: stuck.hang.run_async(str(tmp_path)), tmp_path)
    with pytest.raises(VirtualActorNotCancellableError, match=f"'{wid}/hang' is a virtual actor"):
        workflow.cancel(slashed.actor_id)
    workflow.delete(slashed.actor_id)
    other = tmp_path / "other"
    other.mkdir()
    hang_in_a_step.step(str(other)).run_async(f"{wid}/hang")
    wait_for((other / "hangs").exists, "it does not run")
    workflow.cancel(f"{wid}/hang")
    assert workflow.get_status(f"{wid}/hang") == workflow.CANCELED
    assert workflow.describe(wid).current_call == "hang"
    workflow.delete(f"{wid}/hang")
    workflow.cancel(f"{wid}/hang")
    assert workflow.describe(wid).current_call == ""
    (tmp_path / "let go").touch()


def test_what_cannot_be_cancelled_is_said(wid: str) -> None:
    Stuck.get_or_create(wid).ok.run()
    with pytest.raises(CallNotFoundError, match="no call 'never'"):
        workflow.cancel(f"{wid}/never")
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.cancel(f"{wid}-never/call")
    with pytest.raises(VirtualActorNotCancellableError, match="no call that is not over"):
        workflow.cancel(wid)


def test_an_actor_is_reset_to_a_state_and_the_calls_behind_go_on_from_it(wid: str, tmp_path: Path) -> None:
    stuck = Stuck.get_or_create(wid)
    stuck.ok.run()
    reference = hanging(lambda: stuck.hang.run_async(str(tmp_path)), tmp_path)
    behind = stuck.ok.run_async()
    version = workflow.describe(wid).state_version
    with pytest.raises(VirtualActorVersionError, match=f"version {version}, and not {version - 1}"):
        workflow.reset_actor(wid, state={"n": 50}, expected_version=version - 1)
    workflow.reset_actor(wid, state={"n": 50}, expected_version=version)
    cancelled(reference)
    assert ray.get(behind) == 51
    (tmp_path / "let go").touch()
    wait_for((tmp_path / "over").exists, "it is not over")
    assert stuck.get.run() == 51


def test_an_actor_is_reset_without_a_state_and_by_async_code(wid: str, tmp_path: Path) -> None:
    stuck = Stuck.get_or_create(wid)
    assert stuck.ok.run() == 1
    reference = hanging(lambda: stuck.go_on.run_async(str(tmp_path)), tmp_path)
    asyncio.run(workflow.aio.reset_actor(wid))
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference)
    assert workflow.get_status(f"{wid}/go_on") == workflow.CANCELED
    assert stuck.ok.run() == 12


def test_a_suspended_actor_is_reset(wid: str) -> None:
    careful = Careful.get_or_create(wid)
    with pytest.raises(LookupError, match="no such thing"):
        careful.fail.run()
    workflow.reset_actor(wid, state={"n": 7})
    assert workflow.get_status(wid) == workflow.SUCCESSFUL
    assert careful.ok.run() == 8


def test_a_state_that_is_large_is_kept(wid: str) -> None:
    stuck = Stuck.get_or_create(wid)
    stuck.ok.run()
    workflow.reset_actor(wid, state={"n": 7, "much": "x" * 300_000})
    assert stuck.ok.run() == 8


@pytest.mark.parametrize("state", [7, ["n"], {1: 2}, "n"])
def test_a_state_that_is_not_one_of_the_class_is_refused(state: Any, wid: str) -> None:
    stuck = Stuck.get_or_create(wid)
    with pytest.raises(TypeError, match="dict of its attributes"):
        workflow.reset_actor(wid, state=state)
    assert stuck.ok.run() == 1


def test_a_reset_of_nobody_is_refused(wid: str) -> None:
    for state in (None, {"n": 1}):
        with pytest.raises(workflow.exceptions.VirtualActorNotFoundError):
            workflow.reset_actor(wid, state=state)
    with pytest.raises(TypeError, match="whole number"):
        workflow.reset_actor(wid, expected_version="1")  # type: ignore[arg-type]


def test_a_host_in_which_many_were_left_behind_is_made_anew(wid: str, tmp_path: Path) -> None:
    """And nobody is to blame: neither those that were left behind, nor who ran beside them."""
    innocent = Stuck.get_or_create(f"{wid}-innocent")
    innocent.ok.run()
    host = workflow.describe(innocent.actor_id).host
    before = ray.get(ray.get_actor(host, namespace="holdfast").ping.remote())
    left, number = 0, 0
    while left < MOST_LEFT_BEHIND:
        number += 1
        stuck = Stuck.get_or_create(f"{wid}-{number}")
        ray.get(stuck.ready())
        if workflow.describe(stuck.actor_id).host != host:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        hanging(lambda stuck=stuck, folder=folder: stuck.hang.run_async(str(folder)), folder)  # type: ignore[misc]
        workflow.cancel(f"{stuck.actor_id}/hang")
        left += 1

    def is_new() -> bool:
        try:
            return bool(ray.get(ray.get_actor(host, namespace="holdfast").ping.remote(), timeout=5) != before)
        except (ray.exceptions.RayError, ValueError):
            return False

    wait_for(is_new, "the host is as it was")
    assert innocent.ok.run() == 2
    assert stuck.ok.run() == 1
    assert [workflow.describe(one.actor_id).deaths for one in (innocent, stuck)] == [0, 0]
