"""Guards of user code: every kind of end, thrown at each that needs no cluster. `test_house` lists the guards."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import ray.cloudpickle

from holdfast import workflow
from holdfast.actors.code import CodeBook, dump_code
from holdfast.actors.error_values import dump_error, load_error, load_raised_error
from holdfast.actors.graph_builder import build
from holdfast.actors.load_context import load
from holdfast.actors.poll_loops import PollLoops
from holdfast.actors.sealed import unseal
from holdfast.actors.task_options import is_retryable
from holdfast.actors.threads import in_thread
from holdfast.actors.user_code import (
    EndedError,
    as_exception,
    cause_of,
    described,
    said_by,
    traceback_of,
    user_code,
    user_hooks,
)
from holdfast.actors.values import dump
from holdfast.actors.virtual.rooms import Attempt, Room
from holdfast.engine.errors import ResultNotLoadableError, ResultNotStoredError, UserCodeExitError
from tests.integration.endings import CAUGHT_KINDS, KINDS, NAMES, TEXT, end, tells

DEADLINE_S = 30.0
# A Ctrl-C in the main thread of a caller is the caller's: see below.
ELSEWHERE = [kind for kind in KINDS if kind != "interrupt"]

# asyncio and pytest print errors whose text ends what prints it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

kinds = pytest.mark.parametrize("kind", KINDS)
kinds_in_the_caller = pytest.mark.parametrize("kind", ELSEWHERE)


class Pickled:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        end(self.kind)


class Loaded:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, str]) -> None:
        end(state["kind"])


class Nameless:
    """Neither this key nor what lies under it can be pickled, and it has no text."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        end(self.kind)

    def __repr__(self) -> str:
        end(self.kind)
        return ""


def ended(kind: str) -> BaseException:
    """What ends code in this way, as a guard passes it on."""
    try:
        with user_code:
            end(kind)
    except Exception as error:
        return error
    raise AssertionError(kind)


# -- the guard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CAUGHT_KINDS)
def test_whatever_ends_a_guarded_block_is_an_error_that_keeps_it(kind: str) -> None:
    error = ended(kind)
    assert isinstance(error, Exception)
    stored = load_error(dump_error(error, traceback_of(error)))
    assert tells(stored, kind)
    assert isinstance(as_exception(error), Exception)
    assert isinstance(load_raised_error(dump_error(error, traceback_of(error))), Exception)


@kinds_in_the_caller
def test_an_error_that_does_not_tell_its_cause(kind: str) -> None:
    class Silent(Exception):
        @property  # type: ignore[override]
        def __cause__(self) -> None:
            end(kind)

        def __reduce__(self) -> Any:
            end(kind)

    error = Silent("text")
    error.__suppress_context__ = True
    assert cause_of(error) == (None, True)
    assert "Silent: text" in str(load_error(dump_error(error, traceback_of(error))))


def test_what_is_told_of_an_error_can_be_sent() -> None:
    class Text(str):
        __slots__ = ()

    class Odd(Exception):
        def __str__(self) -> str:
            return Text("\udcff.txt")

    error = Odd()
    assert type(said_by(error)) is str
    assert described(error).encode() == b"Odd: \\udcff.txt"
    assert b"\\udcff.txt" in traceback_of(error).encode()


def test_the_cause_is_what_the_error_says_it_is() -> None:
    class Wrapped(Exception):
        @property  # type: ignore[override]
        def __cause__(self) -> BaseException:
            return LookupError(TEXT)

    assert TEXT in str(load_error(dump_error(Wrapped("text"), "")).__cause__)


class _Unnamed(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__"):
            end("exit")
        return super().__getattribute__(name)


@pytest.mark.parametrize("base", [Exception, BaseException])
def test_an_error_whose_class_keeps_its_name_to_itself_is_told_of(base: type[BaseException]) -> None:
    kind = _Unnamed("Unnamed", (base,), {})
    said, stored = "", None
    try:
        with user_code:
            raise kind(TEXT)
    except Exception as error:
        # Past what tells of errors here, which would ask for the name.
        said, stored = described(error), load_raised_error(dump_error(error, traceback_of(error)))
    assert said == f"Unnamed: {TEXT}"
    assert f"Unnamed: {TEXT}" in str(stored)


def test_an_ordinary_error_passes_as_it_is() -> None:
    with pytest.raises(LookupError), user_code:
        raise LookupError


def test_what_a_handler_of_a_signal_raises_is_meant_for_the_process() -> None:
    def leave(*_: Any) -> None:
        raise SystemExit("asked to")

    def is_interrupted() -> None:
        with user_code:
            os.kill(os.getpid(), signal.SIGUSR1)
            threading.Event().wait(DEADLINE_S)

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        with pytest.raises(SystemExit, match="asked to"):
            is_interrupted()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_in_the_main_thread_of_a_caller_is_the_callers() -> None:
    with pytest.raises(KeyboardInterrupt), user_hooks:
        raise KeyboardInterrupt
    with pytest.raises(EndedError), user_code:
        raise KeyboardInterrupt


@kinds
def test_an_error_without_text(kind: str) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            end(kind)
            return ""

    error = Odd()
    said = (
        f"{described(error)} {traceback_of(error)}" if kind != "interrupt" else _in_a_thread(lambda: described(error))
    )
    assert "Odd" in said
    assert NAMES[kind] in said


def _in_a_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(DEADLINE_S)
    return found[0]


# -- values and code ---------------------------------------------------------------------------------------------------


@kinds_in_the_caller
def test_a_value_that_ends_when_it_is_pickled(kind: str) -> None:
    with pytest.raises(ResultNotStoredError, match="Pickled") as refused:
        dump([Pickled(kind)], objects={})
    assert tells_type(refused.value.__cause__, kind)


@kinds_in_the_caller
def test_a_value_that_has_no_name(kind: str) -> None:
    with pytest.raises(ResultNotStoredError):
        dump({Nameless(kind): 1, "other": Pickled(kind)}, objects={})


@kinds_in_the_caller
def test_a_value_that_ends_when_it_is_loaded(kind: str) -> None:
    payload = dump(Loaded(kind), objects={})
    with pytest.raises(Exception) as failed:  # noqa: PT011 - an exception of whatever kind
        load(payload)
    assert tells_type(failed.value, kind)
    with pytest.raises(ResultNotLoadableError):
        unseal((payload.inband, ()), {}, False, 0, "a value")


@kinds_in_the_caller
def test_code_that_ends_when_it_is_pickled(kind: str) -> None:
    held = Pickled(kind)

    def function() -> Any:
        return held

    with pytest.raises(ResultNotStoredError, match="function") as refused:
        dump_code(function)
    assert tells_type(refused.value.__cause__, kind)


@kinds_in_the_caller
def test_code_that_ends_when_it_is_loaded(kind: str) -> None:
    held = Loaded(kind)

    def function() -> Any:
        return held

    with pytest.raises(Exception) as failed:  # noqa: PT011 - an exception of whatever kind
        CodeBook().decode("a hash", dump_code(function))
    assert tells_type(failed.value, kind)


@kinds_in_the_caller
def test_an_error_that_takes_no_cause(kind: str) -> None:
    class Stubborn(Exception):
        def __setattr__(self, name: str, value: Any) -> None:
            end(kind)

    assert type(load_error(dump_error(Stubborn("text"), "a traceback"))).__name__ == "Stubborn"


@kinds_in_the_caller
def test_a_filter_that_ends(kind: str) -> None:
    class Asked(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            end(kind)
            return False

    class Never(Exception, metaclass=Asked):
        pass

    assert not is_retryable(dump_code((None, (Never,))), ValueError())
    assert not is_retryable(dump_code(((ValueError,), ())), ended(kind))
    assert is_retryable(dump_code(((BaseException,), ())), ended(kind))


@kinds_in_the_caller
def test_a_subscription_in_the_caller(kind: str) -> None:
    class Asked(workflow.EventListener):
        @classmethod
        def subscription(cls) -> Any:
            end(kind)

        async def poll_for_event(self) -> Any:
            return None

    with pytest.raises(Exception) as failed:  # noqa: PT011 - an exception of whatever kind
        build(workflow.wait_for_event(Asked))
    assert tells_type(failed.value, kind)


def tells_type(error: BaseException | None, kind: str) -> bool:
    found = as_exception(error) if error is not None else error
    return isinstance(found, Exception) and NAMES[kind] in (type(found).__name__, getattr(found, "type_name", ""))


def run(coroutine: Any) -> Any:
    """Run a coroutine. `asyncio.run` would ask what its task gives for its text, and some have none."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, DEADLINE_S))
    finally:
        loop.close()


# -- threads and loops -------------------------------------------------------------------------------------------------


@kinds
def test_a_call_in_a_thread(kind: str) -> None:
    async def ask() -> Any:
        (found,) = await asyncio.wait_for(asyncio.gather(in_thread(end, kind), return_exceptions=True), DEADLINE_S)
        return found

    found = run(ask())
    assert isinstance(found, Exception)
    assert tells_type(found, kind)


@kinds
@pytest.mark.parametrize("beside", [False, True], ids=["itself", "in a task that it starts"])
def test_a_poll_that_ends(kind: str, beside: bool) -> None:
    loops = PollLoops(lambda number, key: None)

    async def ends() -> None:
        await asyncio.sleep(0)
        end(kind)

    async def polls() -> None:
        await (asyncio.create_task(ends()) if beside else ends())

    async def waits() -> str:
        await asyncio.sleep(0.05)
        return "waited"

    async def both() -> tuple[Any, Any]:
        innocent = asyncio.ensure_future(loops.run((1, 2, 0), waits))
        try:
            await loops.run((1, 1, 0), polls)
        except Exception as error:
            return error, await innocent
        raise AssertionError

    async def later() -> str:
        return await loops.run((1, 3, 0), waits)

    error, waited = run(both())
    assert NAMES[kind] in (type(getattr(error, "error", error)).__name__, type(error.__cause__).__name__)
    assert waited == "waited"
    assert run(later()) == "waited"


async def cancels_all_it_finds() -> str:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)
    return "found nobody"


def test_a_poll_that_cancels_all_tasks_of_its_loop_cancels_no_other_poll() -> None:
    loops, waiting, over = PollLoops(lambda number, key: None), threading.Event(), threading.Event()

    async def waits() -> str:
        waiting.set()
        while not over.is_set():
            await asyncio.sleep(0.01)
        return "waited"

    async def both() -> tuple[str, str]:
        innocent = asyncio.ensure_future(loops.run((1, 2, 0), waits))
        await asyncio.to_thread(waiting.wait, DEADLINE_S)
        found = await loops.run((1, 1, 0), cancels_all_it_finds)
        over.set()
        return found, await innocent

    assert run(both()) == ("found nobody", "waited")


def test_a_method_that_cancels_all_tasks_of_its_loop_cancels_no_other_call() -> None:
    room, waiting, over, ended = Room(), threading.Event(), threading.Event(), threading.Event()
    said: list[str] = []

    async def waits() -> None:
        waiting.set()
        while not over.is_set():
            await asyncio.sleep(0.01)
        said.append("waited")

    async def cancels() -> None:
        said.append(await cancels_all_it_finds())
        over.set()

    room.start(waits(), Attempt(Any, room), ended.set)  # type: ignore[arg-type]
    assert waiting.wait(DEADLINE_S)
    room.start(cancels(), Attempt(Any, room), lambda: None)  # type: ignore[arg-type]
    assert ended.wait(DEADLINE_S)
    assert said == ["found nobody", "waited"]


def test_a_loop_of_listeners_whose_thread_is_dead_is_left_for_a_fresh_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loops, begun = PollLoops(lambda number, key: None), threading.Event()
    dead = loops._lane

    async def waits() -> str:
        begun.set()
        while loops._lane is dead:
            await asyncio.sleep(0.01)
        return "on a fresh loop"

    async def ask() -> str:
        asked = asyncio.ensure_future(loops.run((1, 1, 0), waits))
        await asyncio.to_thread(begun.wait, DEADLINE_S)
        dead.loop.call_soon_threadsafe(dead.end)
        return await asked

    assert run(ask()) == "on a fresh loop"


@kinds
def test_a_loop_of_a_class_outlives_what_ends_in_it(kind: str) -> None:
    room, went_on = Room(), threading.Event()

    async def starts_what_ends() -> None:
        async def ends() -> None:
            end(kind)

        asyncio.get_running_loop().create_task(ends())
        asyncio.get_running_loop().call_soon(end, kind)
        asyncio.get_running_loop().stop()

    async def goes_on() -> None:
        went_on.set()

    room.start(starts_what_ends(), Attempt(Any, room), lambda: None)  # type: ignore[arg-type]
    room.start(goes_on(), Attempt(Any, room), lambda: None)  # type: ignore[arg-type]
    assert went_on.wait(DEADLINE_S)


def test_the_error_that_stands_for_an_end_survives_pickling() -> None:
    error = as_exception(ended("exit"))
    again = ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    assert isinstance(again, UserCodeExitError)
    assert isinstance(again.__cause__, SystemExit)
    assert TEXT in str(again)
