"""Storage folders that earlier commits made: opened by this one, what was promised in them is kept.

See `make.py` for how they are made. What they run is installed as a package is, so they are good for each version of
Python; what they have of code by value is good for one.
"""

from __future__ import annotations

import ast
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.engine.errors import DeadLetterNotFoundError
from holdfast.storage import schedule_store
from holdfast.storage.folder import StorageFolder
from tests.integration.outside import Source
from tests.kept import by_value, contents
from tests.recovery.processes import until

KEPT = sorted(contents.FOLDERS.glob("*.tar.gz"))
ANSWER_S = 120.0
LOGGED_BEFORE = {"measure", "spread", "count_sevens", "issue", "add 5", "count_down 5", "count_down 4", "count_down 3"}


@pytest.fixture(scope="module")
def local_ray() -> None:
    """None of those that modules share: this one's workers are to find what is installed for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A kept folder with a platform on it.

    Attributes:
        storage: Where it is.
        made: What was so when it was made.
        code: The module that it runs.
        found: Status of each workflow when it was opened.
        opened_unix_s: When that was.
    """

    storage: Path
    made: contents.Made
    code: Any
    found: dict[str, workflow.WorkflowStatus]
    opened_unix_s: float

    def runs(self) -> Counter[str]:
        return Counter((self.storage.parent / "notes").read_text().split("\n")[:-1])


@pytest.fixture(scope="module", params=KEPT, ids=lambda packed: packed.name.removesuffix(".tar.gz"))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("kept")
    storage = contents.unpack(request.param, folder)
    # The gate is open: whatever waits for it goes through when it is run again.
    for name in ("notes", "gate"):
        (folder / name).touch()
    with contents.installed(folder) as (code, packages), pytest.MonkeyPatch.context() as patch:
        # For the workers of this Ray, which inherit them.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")])))
        patch.setenv(code.NOTES, str(folder / "notes"))
        patch.setenv(code.GATE, str(folder / "gate"))
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        try:
            opened_unix_s = time.time()
            workflow.init(str(storage))
            yield Opened(
                storage=storage,
                made=contents.Made.read(folder),
                code=code,
                found=dict(workflow.list_all()),
                opened_unix_s=opened_unix_s,
            )
            workflow.shutdown()
        finally:
            ray.shutdown()


@pytest.fixture(params=KEPT, ids=lambda packed: packed.name.removesuffix(".tar.gz"))
def unpacked(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return contents.unpack(request.param, tmp_path)


@pytest.fixture
def own_code(opened: Opened) -> Any:
    """The module that the folder has by value."""
    if opened.made.python != contents.python_version():
        pytest.skip(f"code by value is of Python {opened.made.python}, and this is {contents.python_version()}")
    return by_value.load()


def resumed(workflow_id: str) -> Any:
    return ray.get(workflow.resume_async(workflow_id), timeout=ANSWER_S)


def due_times(storage: Path) -> dict[str, float | None]:
    folder = StorageFolder.open(storage, create=False)
    try:
        with folder.kv.read() as txn:
            return {row.schedule.name: row.schedule.next_due_unix_s for row in schedule_store.list_all(txn)}
    finally:
        folder.close()


class TestFolder:
    def test_one_is_kept(self) -> None:
        assert KEPT

    def test_it_opens_and_its_schedules_are_due_when_they_were(self, unpacked: Path) -> None:
        assert due_times(unpacked) == contents.Made.read(unpacked.parent).schedules

    def test_it_is_closed_to_other_users_when_it_is_opened(self, unpacked: Path) -> None:
        assert unpacked.stat().st_mode & 0o777 == 0o755
        StorageFolder.open(unpacked, create=False).close()
        assert open_to_others(unpacked) == []

    def test_it_stays_closed_to_other_users_while_a_platform_is_on_it(self, opened: Opened) -> None:
        assert open_to_others(opened.storage) == []


def open_to_others(storage: Path) -> list[str]:
    return [
        f"{path.relative_to(storage.parent)} {path.stat().st_mode & 0o777:o}"
        for path in (storage, *storage.rglob("*"))
        if path.stat().st_mode & 0o777 != (0o700 if path.is_dir() else 0o600)
    ]


class TestWorkflows:
    def test_each_has_the_status_it_had(self, opened: Opened) -> None:
        of_schedules = ("nightly-", "hourly-")
        found = {wid: status for wid, status in opened.found.items() if not wid.startswith(of_schedules)}
        assert found == {
            "done": workflow.SUCCESSFUL,
            "failed": workflow.FAILED,
            "cancelled": workflow.CANCELED,
            **dict.fromkeys(("sleeper", "waiter", "half-heard", "backing-off"), workflow.RESUMABLE),
            **dict.fromkeys(("half-done", "half-down", "own-code-half-done"), workflow.RESUMABLE),
            # Virtual actors are listed too, and go on by themselves.
            "account": found["account"],
            "chest": workflow.SUCCESSFUL,
        }

    def test_a_half_done_one_goes_on_and_runs_nothing_that_was_logged(self, opened: Opened) -> None:
        assert resumed("half-done") == len(contents.LARGE) + 20_000 + (1 << 17)
        runs = opened.runs()
        assert (runs["at_gate"], runs["sum_up"]) == (1, 1)
        assert runs.keys() & LOGGED_BEFORE == set()
        assert workflow.get_output("half-done", task_id="kept_code.spread") == bytes(range(256)) * 512

    def test_a_chain_of_continuations_goes_on_where_it_was(self, opened: Opened) -> None:
        assert resumed("half-down") == "down"
        assert [opened.runs()[f"count_down {number}"] for number in (5, 4, 3, 2, 1, 0)] == [0, 0, 0, 1, 1, 1]

    def test_code_by_value_goes_on_with_the_values_and_modules_of_its_own(self, opened: Opened, own_code: Any) -> None:
        value = workflow.resume_async("own-code-half-done")
        workflow.send_event("own-code-half-done", "receipt", "it is there")
        assert ray.get(value, timeout=ANSWER_S) == "42 paid"
        assert (opened.runs()["issue"], opened.runs()["check"]) == (0, 1)

    def test_a_sleeper_wakes(self, opened: Opened) -> None:
        assert resumed("sleeper") == (None,)

    def test_a_waiter_gets_its_event(self, opened: Opened) -> None:
        value = workflow.resume_async("waiter")
        workflow.send_event("waiter", "paid", {"amount": 7})
        assert ray.get(value, timeout=ANSWER_S) == (("paid", {"amount": 7}),)

    def test_an_event_that_came_before_the_loss_is_not_lost(self, opened: Opened) -> None:
        value = workflow.resume_async("half-heard")
        workflow.send_event("half-heard", "late", "from now")
        assert ray.get(value, timeout=ANSWER_S) == (("early", "from before"), ("late", "from now"))

    def test_one_in_back_off_tries_again(self, opened: Opened) -> None:
        assert resumed("backing-off") == "open"

    def test_a_large_value_of_a_finished_one_is_read(self, opened: Opened) -> None:
        assert workflow.get_output("done") == bytes(range(256)) * (1 << 13)

    def test_the_error_of_a_failed_one_is_read(self, opened: Opened) -> None:
        with pytest.raises(ValueError, match="failed") as caught:
            workflow.get_output("failed")
        assert "ValueError: as it should" in "".join(traceback.format_exception(caught.value))


class TestSchedules:
    def test_what_is_not_due_yet_is_due_when_it_was(self, opened: Opened) -> None:
        found = due_times(opened.storage)
        for name in (*contents.NOT_DUE, "own-code"):
            assert found[name] == opened.made.schedules[name]

    def test_the_same_again_has_no_effect(self, opened: Opened) -> None:
        for name in contents.SCHEDULES:
            contents.schedule(opened.code, name)
        found = due_times(opened.storage)
        for name in contents.NOT_DUE:
            assert found[name] == opened.made.schedules[name]
        assert [one["name"] for one in workflow.list_schedules() if one["paused"]] == ["paused"]

    def test_the_same_again_has_no_effect_where_code_is_by_value(self, opened: Opened, own_code: Any) -> None:
        if opened.made.ray != ray.__version__:
            pytest.skip(f"Ray {opened.made.ray} pickles code in its own way, and this is {ray.__version__}")
        workflow.schedule("own-code", ray.remote(own_code.plain).bind(), at=contents.PARTY)

    @pytest.mark.parametrize("name", ["nightly", "hourly"])
    def test_of_all_times_that_came_due_meanwhile_the_last_one_is_run(self, opened: Opened, name: str) -> None:
        def due_before_it_opened() -> list[float]:
            runs = [run["due"].timestamp() for run in workflow.describe_schedule(name)["last_runs"]]
            return [due for due in runs if due <= opened.opened_unix_s]

        first_unix_s = opened.made.schedules[name]
        if first_unix_s > opened.opened_unix_s:
            assert due_before_it_opened() == []
            return
        (due_unix_s,) = until(due_before_it_opened, "the run has started", ANSWER_S)
        assert first_unix_s <= due_unix_s
        # Of the nightly one two may be less than a day ago, where clocks were changed.
        assert opened.opened_unix_s - due_unix_s <= {"nightly": 90_000.0, "hourly": 3_600.0}[name]


class TestActors:
    def test_the_calls_in_a_mailbox_are_made_in_their_order_once_each(self, opened: Opened) -> None:
        until(lambda: workflow.get_status("account") == workflow.SUCCESSFUL, "the mailbox is empty", ANSWER_S)
        account = workflow.get_actor("account")
        assert account.history.run() == (121, [5, 10, 1, 2, 3])
        assert account.add.run(-21) == 100
        assert [opened.runs()[f"add {amount}"] for amount in (5, 10, 1, 2, 3)] == [0, 1, 1, 1, 1]

    def test_a_large_state_is_read_and_changed(self, opened: Opened) -> None:
        chest = workflow.get_actor("chest")
        assert chest.look.run() == (100_000, 2 + 3j)

    def test_a_reminder_is_as_it_was(self, opened: Opened) -> None:
        (found,) = workflow.list_reminders(workflow.get_actor("account"))
        (made,) = ast.literal_eval(opened.made.reminder)
        # What came since has its default.
        since = {"overlap": "skip", "catch_up_s": None, "skipped": 0, "missed_until_unix_s": None}
        assert found == since | made


class TestDeadLetters:
    def test_one_is_read_and_replayed(self, opened: Opened) -> None:
        letter = workflow.show_dead_letter(opened.made.letter)
        assert (letter.source, letter.reason) == ("test/here/orders", "start-failed")
        assert "the gate is closed" in letter.error
        assert [each.id for each in workflow.dead_letters()] == [letter.id]
        workflow.replay_dead_letter(letter.id)
        folder = StorageFolder.open(opened.storage, create=False)
        try:
            assert Source(folder).start_all()
        finally:
            folder.close()
        assert workflow.get_output("order-of-the-letter") == "taken"
        with pytest.raises(DeadLetterNotFoundError):
            workflow.show_dead_letter(letter.id)
