"""Every number that comes in is checked, by the name of its parameter."""

from __future__ import annotations

import asyncio
import inspect
import math
import pickle
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

import holdfast.listeners
import holdfast.serve
from holdfast import workflow
from holdfast.actors import host_guard
from holdfast.actors.memory_limit import memory_limit_bytes
from holdfast.actors.task_options import ACCEPTED, check_options
from holdfast.actors.virtual import host
from holdfast.engine.errors import InvalidNumberError, NotANumberError
from holdfast.engine.given_numbers import FARTHEST_UNIX_S, check_limit, check_number, check_unbounded, check_whole
from holdfast.engine.selectors import parse_selector
from holdfast.listeners import KafkaListener, PointInTime, TimerListener, kafka_settings
from holdfast.listeners.kafka_settings import parse_connections
from holdfast.serve.event_provider import EventProvider
from holdfast.workflow.http_event_provider import HTTPListener
from tests.unit.test_virtual_classes import Counter, handle_of


@ray.remote(num_cpus=0)
def task() -> None:
    pass


def remind(**about: Any) -> None:
    workflow.remind(handle_of(Counter), "add", 1, **about)


def awaited(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: asyncio.run(call(*args, **kwargs))


def init(name: str) -> Callable[[Any], Any]:
    return lambda value: workflow.init("/nowhere", **{name: value})


aio = workflow.aio
SECONDS = {
    "workflow.sleep(seconds)": workflow.sleep,
    "workflow.wait(timeout)": lambda value: workflow.wait([task.bind()], timeout=value),
    "workflow.wait_for_event(timeout_s)": lambda value: workflow.wait_for_event(
        HTTPListener, event_key="k", timeout_s=value
    ),
    "workflow.Retry(initial_s)": lambda value: workflow.Retry(initial_s=value),
    "workflow.Retry(factor)": lambda value: workflow.Retry(factor=value),
    "workflow.Retry(max_s)": lambda value: workflow.Retry(max_s=value),
    "workflow.Retry(jitter)": lambda value: workflow.Retry(jitter=value),
    "workflow.init(lease_s)": init("lease_s"),
    "workflow.init(keep_finished_s)": init("keep_finished_s"),
    "workflow.schedule(every_s)": lambda value: workflow.schedule("s", task.bind(), every_s=value),
    "workflow.schedule(at)": lambda value: workflow.schedule("s", task.bind(), at=value),
    "workflow.schedule(catch_up_s)": lambda value: workflow.schedule("s", task.bind(), every_s=1, catch_up_s=value),
    "workflow.remind(after_s)": lambda value: remind(after_s=value),
    "workflow.remind(every_s)": lambda value: remind(every_s=value),
    "workflow.remind(at)": lambda value: remind(at=value),
    "workflow.remind(catch_up_s)": lambda value: remind(every_s=1, catch_up_s=value),
    "aio.remind(catch_up_s)": lambda value: awaited(aio.remind)(
        handle_of(Counter), "add", 1, every_s=1, catch_up_s=value
    ),
    "aio.init(lease_s)": lambda value: awaited(aio.init)("/nowhere", lease_s=value),
    "aio.init(keep_finished_s)": lambda value: awaited(aio.init)("/nowhere", keep_finished_s=value),
    "aio.schedule(every_s)": lambda value: awaited(aio.schedule)("s", task.bind(), every_s=value),
    "aio.schedule(at)": lambda value: awaited(aio.schedule)("s", task.bind(), at=value),
    "aio.schedule(catch_up_s)": lambda value: awaited(aio.schedule)("s", task.bind(), every_s=1, catch_up_s=value),
    "aio.remind(after_s)": lambda value: awaited(aio.remind)(handle_of(Counter), "add", 1, after_s=value),
    "aio.remind(every_s)": lambda value: awaited(aio.remind)(handle_of(Counter), "add", 1, every_s=value),
    "aio.remind(at)": lambda value: awaited(aio.remind)(handle_of(Counter), "add", 1, at=value),
    "serve.start_http_events(handled_within_s)": lambda value: holdfast.serve.start_http_events(handled_within_s=value),
    "serve.start_http_events(body_within_s)": lambda value: holdfast.serve.start_http_events(body_within_s=value),
    "serve.EventProvider(handled_within_s)": lambda value: EventProvider(handled_within_s=value),
    "serve.EventProvider(body_within_s)": lambda value: EventProvider(body_within_s=value),
    "listeners.PointInTime(due_unix_s)": PointInTime,
    "listeners.TimerListener.subscription(timestamp)": TimerListener.subscription,
    "listeners.TimerListener.poll_for_event(timestamp)": awaited(TimerListener().poll_for_event),
    "options(timeout_s)": lambda value: workflow.options(timeout_s=value),
    "kafka(retention_s)": lambda value: connect(retention_s=value),
    "kafka(request_timeout_s)": lambda value: connect(request_timeout_s=value),
    "kafka(stall_s)": lambda value: connect(stall_s=value),
}
WHOLE = {
    "workflow.wait(num_returns)": lambda value: workflow.wait([task.bind()], num_returns=value),
    "workflow.Retry(max_attempts)": lambda value: workflow.Retry(max_attempts=value),
    "workflow.init(executors)": init("executors"),
    "workflow.init(keep_finished)": init("keep_finished"),
    "workflow.init(max_running_workflows)": init("max_running_workflows"),
    "workflow.init(max_pending_workflows)": init("max_pending_workflows"),
    "workflow.list_actors(limit)": lambda value: workflow.list_actors(limit=value),
    "workflow.migrate(from_version)": lambda value: workflow.migrate(from_version=value),
    "workflow.virtual_actor(version)": lambda value: workflow.virtual_actor(version=value),
    "workflow.virtual_actor(mailbox_limit)": lambda value: workflow.virtual_actor(mailbox_limit=value),
    "workflow.show_dead_letter(id)": workflow.show_dead_letter,
    "workflow.replay_dead_letter(id)": workflow.replay_dead_letter,
    "workflow.delete_dead_letter(id)": workflow.delete_dead_letter,
    "workflow.reset_actor(expected_version)": lambda value: workflow.reset_actor("a", expected_version=value),
    "aio.reset_actor(expected_version)": lambda value: awaited(aio.reset_actor)("a", expected_version=value),
    "aio.init(executors)": lambda value: awaited(aio.init)("/nowhere", executors=value),
    "aio.init(keep_finished)": lambda value: awaited(aio.init)("/nowhere", keep_finished=value),
    "aio.init(max_running_workflows)": lambda value: awaited(aio.init)("/nowhere", max_running_workflows=value),
    "aio.init(max_pending_workflows)": lambda value: awaited(aio.init)("/nowhere", max_pending_workflows=value),
    "aio.list_actors(limit)": lambda value: awaited(aio.list_actors)(limit=value),
    "aio.show_dead_letter(id)": awaited(aio.show_dead_letter),
    "aio.replay_dead_letter(id)": awaited(aio.replay_dead_letter),
    "aio.delete_dead_letter(id)": awaited(aio.delete_dead_letter),
    "serve.start_http_events(port)": lambda value: holdfast.serve.start_http_events(port=value),
    "serve.start_http_events(most_bytes)": lambda value: holdfast.serve.start_http_events(most_bytes=value),
    "serve.EventProvider(most_bytes)": lambda value: EventProvider(most_bytes=value),
    "serve.EventProvider(bodies_at_once)": lambda value: EventProvider(bodies_at_once=value),
    "options(max_retries)": lambda value: workflow.options(max_retries=value),
    "kafka(max_message_bytes)": lambda value: connect(max_message_bytes=value),
    "kafka(retention_bytes)": lambda value: connect(retention_bytes=value),
}

# These take infinity: no bound, or to wait without end.
UNBOUNDED = {
    "workflow.sleep(seconds)",
    "workflow.wait(timeout)",
    "workflow.wait_for_event(timeout_s)",
    "workflow.Retry(max_s)",
    "listeners.PointInTime(due_unix_s)",
    "listeners.TimerListener.subscription(timestamp)",
    "options(timeout_s)",
}
# To poll in the process that calls until it comes: not tried here.
_POLLS = "listeners.TimerListener.poll_for_event(timestamp)"

# What users are given, and never give; what is Ray's.
GIVEN_BACK = {"KafkaMessage", "DeadLetter", "EventSource", "EventSubscription", "HTTPEventProvider"}

_NUMERIC = re.compile(r"\b(int|float)\b")


def connect(**settings: Any) -> None:
    parse_connections({"default": {"bootstrap_servers": "a:9092", **settings}})


def numeric_parameters(rooms: Iterable[tuple[str, Any]]) -> set[str]:
    """The parameters of public calls that are numbers by their annotation."""
    found = set()
    for room, package in rooms:
        for name in package.__all__:
            public = getattr(package, name)
            if name in GIVEN_BACK or isinstance(public, ModuleType):
                continue
            calls = {f"{room}.{name}": public}
            if inspect.isclass(public):
                for method, function in vars(public).items():
                    plain = getattr(function, "__func__", function)
                    if inspect.isfunction(plain) and not method.startswith("_"):
                        calls[f"{room}.{name}.{method}"] = plain
            for said, call in calls.items():
                try:
                    parameters = inspect.signature(call).parameters.values()
                except (ValueError, TypeError):
                    continue
                found |= {f"{said}({one.name})" for one in parameters if _NUMERIC.search(str(one.annotation))}
    return found


ROOMS = (
    ("workflow", workflow),
    ("aio", workflow.aio),
    ("serve", holdfast.serve),
    ("serve", SimpleNamespace(__all__=["EventProvider"], EventProvider=EventProvider)),
    ("listeners", holdfast.listeners),
)


def test_every_numeric_parameter_of_a_public_call_is_tried_here() -> None:
    tried = {name for name in {**SECONDS, **WHOLE} if not name.startswith(("options(", "kafka("))}
    assert numeric_parameters(ROOMS) == tried


def test_a_numeric_parameter_that_is_new_is_found() -> None:
    def planted(name: str, wait_s: float | None = None, *, limit: int = 3, flag: bool = False) -> None:
        pass

    room = SimpleNamespace(__all__=["planted"], planted=planted)
    assert numeric_parameters([("planted", room)]) == {"planted.planted(wait_s)", "planted.planted(limit)"}


def test_every_option_and_setting_refuses_what_is_no_number_by_its_name() -> None:
    """All of them, numeric or not: so those that are numbers are found by no list."""
    for option in ACCEPTED:
        with pytest.raises(ValueError, match=option):
            check_options({option: math.nan})
    for setting in kafka_settings._CHECKS:
        with pytest.raises(ValueError, match=setting):
            connect(**{setting: math.nan})


WRONG = [
    math.nan, "1", True, b"1", 1j, Decimal(30), Fraction(61, 2), np.bool_(True), np.float64("nan"), object(), [1],
    np.array([1.0]), np.datetime64(1, "s"),
]  # fmt: skip


@pytest.mark.parametrize("door", [*SECONDS, *WHOLE])
# An object without a repr of its own would have another name in each process of tests.
@pytest.mark.parametrize("value", WRONG, ids=[re.sub(" at 0x.*", "", repr(value)) for value in WRONG])
def test_what_is_no_number_is_refused_at_the_call_by_the_name_of_the_parameter(door: str, value: Any) -> None:
    call = {**SECONDS, **WHOLE}[door]
    with pytest.raises(InvalidNumberError) as caught:
        call(value)
    assert_names(door, caught.value)


OUT_OF_RANGE = [-(10**400), -(10**5000), -math.inf, -2, 10**400, 10**5000]


def assert_names(door: str, error: InvalidNumberError) -> None:
    parameter = door.partition("(")[2].rstrip(")")
    assert parameter in error.parameter
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("door", [*SECONDS, *WHOLE])
@pytest.mark.parametrize("value", OUT_OF_RANGE, ids=["-1e400", "-1e5000", "-inf", "-2", "1e400", "1e5000"])
def test_what_is_out_of_range_is_refused_by_the_name_of_the_parameter(door: str, value: Any) -> None:
    if (value > 0 and door in UNBOUNDED) or door == _POLLS or (value == -2 and "listeners." in door):
        pytest.skip("in range here")
    with pytest.raises(InvalidNumberError) as caught:
        {**SECONDS, **WHOLE}[door](value)
    assert_names(door, caught.value)


@pytest.mark.parametrize("door", [door for door in SECONDS if door != _POLLS])
def test_infinity_is_taken_where_it_has_a_meaning_and_refused_by_name_elsewhere(door: str) -> None:
    if door in UNBOUNDED:
        SECONDS[door](math.inf)
        SECONDS[door](np.float64("inf"))
        return
    with pytest.raises(InvalidNumberError) as caught:
        SECONDS[door](math.inf)
    assert_names(door, caught.value)


@pytest.mark.parametrize("door", WHOLE)
@pytest.mark.parametrize("value", [math.inf, 1.0, np.float32(1)], ids=repr)
def test_a_count_is_no_float(door: str, value: Any) -> None:
    with pytest.raises(NotANumberError) as caught:
        WHOLE[door](value)
    assert_names(door, caught.value)
    assert isinstance(caught.value, TypeError)


def test_infinity_is_no_bound_and_to_wait_without_end() -> None:
    assert workflow.sleep(math.inf).duration_s == FARTHEST_UNIX_S
    assert workflow.sleep(1e300).duration_s == FARTHEST_UNIX_S
    assert workflow.sleep(10**400).duration_s == FARTHEST_UNIX_S
    assert workflow.wait([task.bind()], timeout=math.inf).timeout_s is None
    assert workflow.options(timeout_s=math.inf).given == {"timeout_s": None}
    assert TimerListener.subscription(math.inf) == PointInTime(FARTHEST_UNIX_S)
    assert math.isfinite(workflow.Retry(max_s=math.inf).policy().max_s)


@given(st.integers(1, 2**31) | st.floats(1.0, 1e9))
def test_numbers_of_numpy_are_taken_as_what_they_are(number: float) -> None:
    if isinstance(number, int):
        assert type(check_whole("n", np.int64(number), least=1)) is int
        assert check_whole("n", np.int64(number), least=1) == number
    for kind in (np.float64, np.float32, np.int64) if isinstance(number, int) else (np.float64, np.float32):
        for check in (check_number, check_unbounded, check_limit):
            taken = check("n", kind(number))
            assert type(taken) is float
            assert taken == float(kind(number))


def test_numbers_of_numpy_reach_their_node_as_plain_ones() -> None:
    assert type(workflow.sleep(np.float64(2.5)).duration_s) is float
    node = workflow.wait([task.bind()], num_returns=np.int64(1), timeout=np.int32(3))
    assert (type(node.num_returns), type(node.timeout_s)) == (int, float)
    policy = workflow.Retry(max_attempts=np.int64(4), initial_s=np.float32(0.5), factor=np.int8(3)).policy()
    assert [type(value) for value in (policy.max_attempts, policy.initial_s, policy.factor)] == [int, float, float]


@pytest.mark.parametrize("variable", [host_guard.MEMORY_VARIABLE, host.MEMORY_VARIABLE])
@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "nan", "inf", "1e3", "9" * 5000, "٣", "1_000"])
def test_a_variable_of_the_environment_is_refused_by_its_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidNumberError, match=variable):
        memory_limit_bytes(variable)
    monkeypatch.setenv(variable, "64")
    assert memory_limit_bytes(variable) == 64 << 20


def test_fields_of_messages_are_compared_with_plain_numbers_only() -> None:
    for wrong in (np.int64(1), Decimal(1), Fraction(1, 2), math.nan, math.inf):
        with pytest.raises(ValueError, match="id"):
            KafkaListener.subscription("t", where={"id": wrong})
    assert str(2**64) in KafkaListener.subscription("t", where={"id": 2**64}).key


@pytest.mark.parametrize(
    "huge", [10**5000, -(10**5000), 10**309, Fraction(10**5000, 3), [10**5000], {1: 10**5000}], ids=type
)
def test_what_holds_more_digits_than_python_writes_is_refused_by_its_name(huge: Any) -> None:
    for call in (
        lambda: check_whole("count", huge, least=1),
        lambda: check_number("count", huge),
        lambda: KafkaListener.subscription("t", where={"count": huge}),
        lambda: check_options({"metadata": huge}),
    ):
        with pytest.raises((ValueError, TypeError), match=r"count|metadata") as caught:
            call()
        assert "Exceeds the limit" not in str(caught.value)


def test_fields_and_keys_that_no_message_has_are_refused_by_name() -> None:
    for where in ({"id": "\ud800"}, {"\udfff": 1}):
        with pytest.raises(ValueError, match=r"where= .*surrogate"):
            KafkaListener.subscription("t", where=where)
    with pytest.raises(ValueError, match=r"key .*ud800.* KafkaListener"):
        KafkaListener.subscription("t", key="\ud800")
    with pytest.raises(TypeError, match="where must be a dict"):
        KafkaListener.subscription("t", where=[10**5000])
    assert parse_selector('where {"id":"\\ud800"}').where == {"id": "\ud800"}
