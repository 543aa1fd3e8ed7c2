"""The ways in which user code ends that is not to go on, each by the name that a test has for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys

from holdfast.actors.user_code import cause_of


class Panic(BaseException):
    """What an extension raises."""


class NotPicklable(Exception):
    def __reduce__(self):
        sys.exit("no pickling")


class Speechless(Exception):
    def __str__(self):  # noqa: PLE0307 - it gives none
        sys.exit("no words")

    __repr__ = __str__


class Disloyal(Exception):
    """It pickles, and cannot be loaded."""

    def __init__(self, text):
        super().__init__(text)

    def __setstate__(self, state):
        sys.exit("no loading")

    def __reduce__(self):
        return Disloyal, self.args, {"some": "state"}


class Reserved(Exception):
    """Nobody is to look at it: what tells of errors must not ask it."""

    def __getattribute__(self, name):
        if name in ("__cause__", "__traceback__", "__suppress_context__", "__class__", "__reduce_ex__"):
            sys.exit("no looking")
        return super().__getattribute__(name)


class Unencodable(Exception):
    """Its text has what no text has that is sent or stored: the name of a file may."""

    def __str__(self):
        return f"{TEXT}: \udcff.txt"


KINDS = (
    "exit",
    "interrupt",
    "generator exit",
    "cancelled",
    "future cancelled",
    "panic",
    "stop iteration",
    "not picklable",
    "speechless",
    "disloyal",
    "unencodable",
)
CAUGHT_KINDS = (*KINDS, "reserved")
"""Also what the test's own machinery cannot look at: it has to be caught far from there."""

TEXT = "the config file is missing"


def end(kind):
    """End, in this way."""
    match kind:
        case "exit":
            sys.exit(TEXT)
        case "interrupt":
            raise KeyboardInterrupt(TEXT)
        case "generator exit":
            raise GeneratorExit(TEXT)
        case "cancelled":
            raise asyncio.CancelledError(TEXT)
        case "future cancelled":
            raise concurrent.futures.CancelledError(TEXT)
        case "panic":
            raise Panic(TEXT)
        case "stop iteration":
            raise StopIteration(TEXT)
        case "not picklable":
            raise NotPicklable(TEXT)
        case "speechless":
            raise Speechless(TEXT)
        case "disloyal":
            raise Disloyal(TEXT)
        case "unencodable":
            raise Unencodable(TEXT)
        case "reserved":
            raise Reserved(TEXT)
    raise AssertionError(kind)


NAMES = {
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "generator exit": "GeneratorExit",
    "cancelled": "CancelledError",
    "future cancelled": "CancelledError",
    "panic": "Panic",
    "stop iteration": "StopIteration",
    "not picklable": "NotPicklable",
    "speechless": "Speechless",
    "disloyal": "Disloyal",
    "unencodable": "Unencodable",
    "reserved": "Reserved",
}


def told_by(error: BaseException) -> str:
    """All that an error and its causes say: types, texts, tracebacks."""
    said = []
    at: BaseException | None = error
    while at is not None:
        said += [type(at).__name__, *getattr(at, "__notes__", ()), getattr(at, "type_name", "")]
        try:
            said.append(str(at))
        except BaseException as inner:
            said.append(f"no text: {inner!r}")
        at = cause_of(at)[0]
    return "\n".join(said)


def tells(error: BaseException, kind: str) -> bool:
    """Whether an error says of which type the end was, its text, and where in the user's code it was."""
    said = told_by(error)
    return NAMES[kind] in said and (TEXT in said or kind == "speechless") and "in end" in said


THROWN_AT = {
    "actors/code.py:CodeBook.decode": "tests/unit/test_user_code.py::test_code_that_ends_when_it_is_loaded",
    "actors/code.py:_dump_once": "tests/unit/test_user_code.py::test_code_that_ends_when_it_is_pickled",
    "actors/error_values.py:load_error": "tests/unit/test_user_code.py::test_an_error_that_takes_no_cause",
    "actors/graph_builder.py:_Builder._event": "tests/unit/test_user_code.py::test_a_subscription_in_the_caller",
    "actors/listener_host.py:ListenerHost._acknowledge": "tests/integration/test_user_code_ends.py::"
    "test_a_listener_fails_and_the_others_wait_on",
    "actors/listener_host.py:ListenerHost._poll": "tests/integration/test_user_code_ends.py::"
    "test_a_listener_fails_and_the_others_wait_on",
    "actors/listener_host.py:ListenerHost.ids_of.name_all": "tests/integration/test_user_code_ends.py::"
    "test_an_id_function_that_cannot_be_loaded_makes_dead_letters",
    "actors/listener_host.py:_named": "tests/integration/test_user_code_ends.py::"
    "test_an_id_function_that_ends_makes_dead_letters",
    "actors/load_context.py:load": "tests/unit/test_user_code.py::test_a_value_that_ends_when_it_is_loaded",
    "actors/poll_loops.py:PollLoops._follow": "tests/unit/test_user_code.py::test_a_poll_that_ends",
    "actors/task_options.py:is_retryable": "tests/unit/test_user_code.py::test_a_filter_that_ends",
    "actors/task_runner.py:_run_one": "tests/integration/test_user_code_ends.py::"
    "test_a_task_fails_and_says_what_ended_it",
    "actors/threads.py:_call": "tests/unit/test_user_code.py::test_a_call_in_a_thread",
    "actors/user_code.py:cause_of": "tests/unit/test_user_code.py::test_an_error_that_does_not_tell_its_cause",
    "actors/user_code.py:said_by": "tests/unit/test_user_code.py::test_an_error_without_text",
    "actors/user_code.py:traceback_of": "tests/unit/test_user_code.py::test_an_error_without_text",
    "actors/values.py:_culprit": "tests/unit/test_user_code.py::test_a_value_that_has_no_name",
    "actors/values.py:_dump_one": "tests/unit/test_user_code.py::test_a_value_that_ends_when_it_is_pickled",
    "actors/values.py:_fails": "tests/unit/test_user_code.py::test_a_value_that_ends_when_it_is_pickled",
    "actors/virtual/runner.py:Runner._awaited": "tests/integration/test_user_code_ends.py::"
    "test_a_method_fails_and_its_actor_and_the_others_go_on",
    "actors/virtual/runner.py:Runner._run": "tests/integration/test_user_code_ends.py::"
    "test_a_method_fails_and_its_actor_and_the_others_go_on",
    "actors/virtual/state.py:_asked": "tests/integration/test_user_code_ends.py::"
    "test_a_state_that_is_not_taken_fails_the_calls_that_need_it",
}
"""Where each guard is -> the test that throws every kind of end at it."""
