"""The short way back from an executor to a caller on its own machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from holdfast.actors.acknowledgements import AcknowledgementSocket, Acknowledger, acknowledgement_socket
from holdfast.actors.local_frames import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the short way is there on Linux only")

LONG_S, SHORT_S = 30.0, 0.05


@pytest.fixture
def heard() -> Iterator[AcknowledgementSocket]:
    socket = AcknowledgementSocket()
    yield socket
    socket.close()


def test_an_acknowledgement_is_heard(heard: AcknowledgementSocket) -> None:
    Acknowledger().say(heard.address, "mark", accepted=True)
    assert heard.wait("mark", LONG_S)


def test_a_refusal_is_heard_at_once(heard: AcknowledgementSocket) -> None:
    Acknowledger().say(heard.address, "mark", accepted=False)
    assert not heard.wait("mark", LONG_S)


def test_what_is_said_of_another_request_is_passed_over(heard: AcknowledgementSocket) -> None:
    speaker = Acknowledger()
    for mark, accepted in (("earlier", True), ("mark2", False), ("mark", True)):
        speaker.say(heard.address, mark, accepted=accepted)
    assert heard.wait("mark", LONG_S)


def test_silence_ends_after_the_time_given(heard: AcknowledgementSocket) -> None:
    Acknowledger().say(heard.address, "another", accepted=True)
    assert not heard.wait("mark", SHORT_S)


def test_speaking_to_nobody_is_harmless() -> None:
    socket = AcknowledgementSocket()
    socket.close()
    Acknowledger().say(socket.address, "mark", accepted=True)


def test_a_full_ear_does_not_stop_the_speaker(heard: AcknowledgementSocket) -> None:
    speaker = Acknowledger()
    for at in range(10_000):
        speaker.say(heard.address, f"mark-{at}", accepted=True)
    assert heard.wait("mark-0", LONG_S)


def test_each_thread_has_its_own_socket() -> None:
    addresses = [acknowledgement_socket().address]
    thread = threading.Thread(target=lambda: addresses.append(acknowledgement_socket().address))
    thread.start()
    thread.join()
    assert len(set(addresses)) == 2
    assert acknowledgement_socket().address == addresses[0]
