"""Another user of the machine: it neither answers on our local sockets nor asks there, and prepares no file for us."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from holdfast.actors import local_peers, local_service
from holdfast.actors.acknowledgements import AcknowledgementSocket, Acknowledger, acknowledgement_socket
from holdfast.actors.awaited_calls import AwaitedCaller
from holdfast.actors.black_box import BlackBox
from holdfast.actors.bundle_box import BundleBox, path_of_box, read_box
from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_calls import LocalCaller
from holdfast.actors.local_frames import AVAILABLE, HEAD, NotHereError, request_of
from holdfast.actors.storage_access import StorageAddress
from holdfast.storage import own_files
from tests.other_user import NOBODY, as_nobody, needs_root
from tests.unit.local_actor import LocalActor, actor, find

__all__ = ["actor"]

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="there are such sockets on Linux only")

SHORT_S, LONG_S = 0.2, 30.0


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder in which all users of the machine may make files, as in `/tmp`."""
    with tempfile.TemporaryDirectory(prefix="shared-", dir="/tmp") as made:
        Path(made).chmod(0o1777)
        yield Path(made)


@pytest.fixture
def temporary(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as what all processes of this test have for temporary files and for memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.setattr(own_files, "_MEMORY", shared)
    return shared


class Intruder:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.trace,)


@pytest.fixture
def answering_nobody(shared: Path) -> Iterator[str]:
    """The address of a socket on which another user answers whatever is asked, with what runs code where it is read."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address, reply = str(shared / "answers"), pickle.dumps((True, Intruder(shared / "trace")))
    ready, is_ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        listening.bind(address)
        os.chmod(address, 0o777)
        listening.listen()
        os.write(is_ready, b".")
        while True:
            connection, _ = listening.accept()
            with suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(HEAD.pack(len(reply), 0) + reply)
    assert os.read(ready, 1) == b"."
    yield address
    os.kill(child, 9)
    os.waitpid(child, 0)
    for descriptor in (ready, is_ready):
        os.close(descriptor)
    listening.close()


@needs_root
def test_what_another_user_answers_to_a_thread_is_not_read(answering_nobody: str, shared: Path) -> None:
    caller = LocalCaller(lambda _: answering_nobody, LocalAddresses())
    with pytest.raises(NotHereError):
        caller.call("actor", "echo", 1)
    assert not (shared / "trace").exists()


@needs_root
def test_what_another_user_answers_to_an_event_loop_is_not_read(answering_nobody: str, shared: Path) -> None:
    async def ask() -> None:
        async def there(_: Any) -> str:
            return answering_nobody

        await AwaitedCaller(there, LocalAddresses()).call("actor", "echo", 1)

    with pytest.raises(NotHereError):
        asyncio.run(asyncio.wait_for(ask(), LONG_S))
    assert not (shared / "trace").exists()


@needs_root
def test_another_user_cannot_connect_to_a_service_or_take_its_name(actor: LocalActor) -> None:
    address = find(actor)

    def connect() -> None:
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(address)

    def take() -> None:
        os.unlink(address)

    def prepare() -> None:
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).bind(f"{address}-next")

    for attempt in (connect, take, prepare):
        assert isinstance(as_nobody(attempt), PermissionError), attempt.__name__


@needs_root
def test_a_service_reads_nothing_of_another_user_that_gets_through_to_it(
    actor: LocalActor, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(shared / "open")
    actor.service.address = address
    assert find(actor) == address
    os.chmod(address, 0o777)
    request = request_of("echo", (Intruder(shared / "trace"),))

    def ask() -> bytes:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(LONG_S)
        connection.connect(address)
        with suppress(BrokenPipeError):
            connection.sendall(HEAD.pack(len(request), 0) + request)
        return connection.recv(1)

    said = as_nobody(ask)
    assert said == b"" or isinstance(said, ConnectionResetError)
    assert not (shared / "trace").exists()
    # Nor does it take the place of one who may ask.
    monkeypatch.setattr(local_service, "MOST_CONNECTIONS", 1)
    assert LocalCaller(find, LocalAddresses()).call(actor, "echo", 1) == (1,)


@needs_root
def test_an_acknowledgement_of_another_user_is_not_believed(temporary: Path) -> None:
    heard = AcknowledgementSocket()

    def lie(address: str) -> bool:
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"+mark", address)
        return True

    assert isinstance(as_nobody(lambda: lie(heard.address)), PermissionError)
    # Even if it gets through.
    own_files.own_folder(temporary).chmod(0o755)
    os.chmod(heard.address, 0o777)
    assert as_nobody(lambda: lie(heard.address)) is True
    assert not heard.wait("mark", SHORT_S)
    own_files.own_folder(temporary)
    Acknowledger().say(heard.address, "mark", accepted=True)
    assert heard.wait("mark", LONG_S)
    heard.close()


@needs_root
def test_nothing_is_acknowledged_to_another_user(shared: Path) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    folder = shared / "of-nobody"
    assert as_nobody(lambda: folder.mkdir(0o777)) is None
    listening.bind(str(folder / "ear"))
    listening.setblocking(False)
    Acknowledger().say(str(folder / "ear"), "mark", accepted=True)
    with pytest.raises(BlockingIOError):
        listening.recv(100)
    listening.close()


@needs_root
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_that_another_user_has_prepared_is_passed_by(temporary: Path, kind: str) -> None:
    taken = temporary / f"holdfast-{os.geteuid()}"
    elsewhere = temporary / "elsewhere"

    def prepare() -> None:
        elsewhere.mkdir(0o777)
        if kind == "folder":
            taken.mkdir(0o777)
            taken.chmod(0o777)
        else:
            taken.symlink_to(elsewhere)

    assert as_nobody(prepare) is None
    with pytest.raises(PermissionError, match=f"{taken} is not a folder of user 0, but belongs to user {NOBODY}"):
        own_files.own_folder(temporary)
    # Sockets have their names elsewhere, bundles are reported task by task, and nobody is blamed.
    heard = AcknowledgementSocket()
    assert not heard.address.startswith(str(temporary))
    heard.close()
    with pytest.raises(PermissionError):
        BundleBox("me", "place")
    assert read_box("me", "place") is None
    box = BlackBox("box")
    box.note(0, (1, 2, 3))
    assert not BlackBox("box").explains
    assert list(elsewhere.iterdir()) == []


@needs_root
def test_a_file_that_another_user_has_left_for_a_dead_worker_is_not_read(temporary: Path) -> None:
    path = path_of_box("me", "place")
    path.write_bytes(b"x")
    os.chown(path, NOBODY, NOBODY)
    assert read_box("me", "place") is None
    path.unlink()
    os.mkfifo(path)
    assert read_box("me", "place") is None


def test_a_name_in_a_folder_with_a_long_path_is_elsewhere(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = LocalActor()
    try:
        address = find(made)
        assert not address.startswith(str(long))
        assert LocalCaller(find, LocalAddresses()).call(made, "echo", 1) == (1,)
    finally:
        made.close()


def test_a_name_is_elsewhere_when_the_file_system_knows_no_sockets(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = local_peers.bind

    def refuse(unbound: socket.socket, address: str, *, listen: bool = False) -> None:
        if address.startswith(str(temporary)):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), address)
        bind(unbound, address, listen=listen)

    monkeypatch.setattr(local_peers, "bind", refuse)
    heard = AcknowledgementSocket()
    assert not heard.address.startswith(str(temporary))
    Acknowledger().say(heard.address, "mark", accepted=True)
    assert heard.wait("mark", LONG_S)
    heard.close()


def test_where_there_can_be_no_name_the_actor_is_asked_through_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_peers, "_LONGEST_ADDRESS", 10)
    local_peers._try.cache_clear()
    made = LocalActor()
    try:
        assert find(made) == ""
    finally:
        made.close()
    heard: list[Any] = []
    # In a thread that has no socket yet.
    thread = threading.Thread(target=lambda: heard.append(acknowledgement_socket()))
    thread.start()
    thread.join()
    assert heard == [None]


def test_names_of_processes_that_died_are_removed_and_those_of_living_ones_stay(temporary: Path) -> None:
    folder = own_files.own_folder(temporary)
    dead = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    for number, one in enumerate(dead):
        one.bind(str(folder / f"dead-{number}"))
        one.close()
    (folder / "file").touch()
    heard, first = AcknowledgementSocket(), LocalActor()
    try:
        kept = {"file", Path(heard.address).name, Path(find(first)).name}
        assert {path.name for path in folder.iterdir()} == kept
        assert LocalCaller(find, LocalAddresses()).call(first, "echo", 1) == (1,)
        Acknowledger().say(heard.address, "mark", accepted=True)
        assert heard.wait("mark", LONG_S)
    finally:
        heard.close()
        first.close()
    assert {path.name for path in folder.iterdir()} == {"file"}


def test_a_service_whose_name_was_cleared_away_takes_it_again(actor: LocalActor) -> None:
    caller = LocalCaller(find, LocalAddresses())
    assert caller.call(actor, "echo", 1) == (1,)
    os.unlink(find(actor))
    assert find(actor) == actor.service.address
    assert LocalCaller(find, LocalAddresses()).call(actor, "echo", 2) == (2,)


def test_names_are_in_a_folder_of_this_user_alone(actor: LocalActor) -> None:
    folder = Path(find(actor)).parent
    assert own_files.is_own_folder(folder)
    folder.chmod(0o755)
    assert not own_files.is_own_folder(folder)
    # Ours, it is closed again.
    assert own_files.own_folder(folder.parent) == folder
    assert own_files.is_own_folder(folder)


def test_a_forked_process_leaves_the_names_of_its_parent() -> None:
    heard = AcknowledgementSocket()
    child = os.fork()
    if child == 0:
        heard.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert Path(heard.address).exists()
    heard.close()
    assert not Path(heard.address).exists()


def test_the_folder_and_the_sockets_of_another_user_are_not_for_this_one() -> None:
    assert StorageAddress("/folder", "node", "cluster", os.geteuid()).of_this_user
    assert StorageAddress("/folder", "node", "cluster").of_this_user
    assert not StorageAddress("/folder", "node", "cluster", os.geteuid() + 1).of_this_user
