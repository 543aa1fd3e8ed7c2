"""What a worker has done of a bundle is known when it has died."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from holdfast.actors.bundle_box import LARGEST_NOTED, BundleBox, Done, clear_boxes, path_of_box, read_box
from holdfast.actors.bundling import MOST_TOGETHER
from holdfast.actors.running_calls import MOST_AHEAD


@pytest.fixture
def place() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    read_box("me", name)


def die_after(code: str, place: str) -> None:
    imports = "import os, sys, signal; from holdfast.actors.bundle_box import BundleBox"
    code = f"box = BundleBox('me', sys.argv[1]); {code}"
    died = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{code}\nos.kill(os.getpid(), signal.SIGKILL)", place], check=False
    )
    assert died.returncode == -9


@pytest.mark.parametrize(
    ("code", "done"),
    [
        ("", Done(replies=[], begun=0)),
        ("box.begin()", Done(replies=[], begun=1)),
        ("box.begin(); box.end(b'one'); box.begin()", Done(replies=[b"one"], begun=2)),
        ("box.begin(); box.end(b'one'); box.begin(); box.end(b'')", Done(replies=[b"one", b""], begun=2)),
    ],
    ids=["before the first", "in the first", "in the second", "after the second"],
)
def test_it_is_known_how_far_a_worker_came_that_was_killed(place: str, code: str, done: Done) -> None:
    die_after(code, place)
    assert read_box("me", place) == done
    # Told once.
    assert read_box("me", place) is None


def test_nothing_is_left_of_one_that_has_told_all(place: str) -> None:
    box = BundleBox("me", place)
    box.begin()
    box.remove()
    assert read_box("me", place) is None


def test_the_largest_notes_of_the_longest_bundle_find_room(place: str) -> None:
    box, reply = BundleBox("me", place), os.urandom(LARGEST_NOTED)
    longest = max(MOST_TOGETHER, MOST_AHEAD + 1)
    for _ in range(longest):
        box.begin()
        assert box.end(reply)
    assert read_box("me", place) == Done(replies=[reply] * longest, begun=longest)


def test_a_reply_that_finds_no_room_is_not_half_written(place: str) -> None:
    box = BundleBox("me", place)
    large = os.urandom(200_000)
    for reply in (large, large):
        box.begin()
        assert box.end(reply)
    box.begin()
    assert not box.end(large)
    assert box.end(b"small")
    assert read_box("me", place) == Done(replies=[large, large, b"small"], begun=3)


def test_one_that_died_while_it_made_the_file_had_begun_nothing(place: str) -> None:
    path_of_box("me", place).touch()
    assert read_box("me", place) == Done(replies=(), begun=0)


def test_a_name_that_is_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\.\./x"):
        read_box("me", "../x")


def test_what_was_left_for_one_is_removed_and_nothing_of_others(place: str) -> None:
    for owner in ("gone", "me"):
        BundleBox(owner, place).begin()
    clear_boxes("gone")
    assert read_box("gone", place) is None
    assert read_box("me", place) == Done(replies=[], begun=1)
