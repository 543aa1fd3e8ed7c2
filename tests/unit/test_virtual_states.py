"""States of virtual actors as they are stored: JSON where it gives back the very same, else pickled."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import workflow
from holdfast.actors.virtual.definition import ActorDefinition
from holdfast.actors.virtual.state import encode_state, load_instance, restore, state_of
from holdfast.engine.errors import ResultNotStoredError
from holdfast.engine.virtual_actor_errors import VirtualActorStateError
from holdfast.storage.payload import Payload


class Text(str):
    pass


class _Thing:
    """A virtual actor whose state is whatever it is given."""

    def __init__(self) -> None:
        self.state: Any = None

    def __getstate__(self) -> Any:
        return self.state

    def __setstate__(self, state: Any) -> None:
        self.state = state


Thing = workflow.virtual_actor(_Thing)


def encoded(state: Any) -> tuple[Payload, bool]:
    return encode_state(state, objects={}, where="the state")


def loaded(definition: ActorDefinition, stored: tuple[Payload, bool], version: int = 1) -> Any:
    payload, json = stored
    return load_instance(definition, "actor-9", payload, json=json, version=version)


def back(stored: tuple[Payload, bool]) -> Any:
    return loaded(Thing.definition, stored).state  # type: ignore[attr-defined]


_TWICE: list[int] = [1]
_ROUND: list[Any] = []
_ROUND.append(_ROUND)


@pytest.mark.parametrize(
    "state",
    [{}, {"a": [1, 2.5, None, True, "ö"]}, {"deep": {"er": [[], {}]}}, {"n": 2**62}, {"z": -0.0}, [], "x", 3],
    ids=repr,
)
def test_what_json_gives_back_is_stored_as_json(state: Any) -> None:
    payload, json = encoded(state)
    assert json
    assert orjson.loads(payload.inband) == state
    assert repr(back((payload, json))) == repr(state)


@pytest.mark.parametrize(
    "state",
    [
        {"a": (1, 2)},
        {1: "one"},
        {"a": {1, 2}},
        {"a": math.inf},
        {"a": math.nan},
        {"a": 2**64},
        {"a": b"bytes"},
        {"a": Text("x")},
        {Text("a"): 1},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": _TWICE, "b": _TWICE},
        {"a": _ROUND},
    ],
    ids=str,
)
def test_everything_else_is_pickled(state: Any) -> None:
    payload, json = encoded(state)
    assert not json
    came = back((payload, json))
    assert repr(came) == repr(state)
    assert {type(key) for key in came} == {type(key) for key in state}


def test_one_list_under_two_names_stays_one_list() -> None:
    came = back(encoded({"a": _TWICE, "b": _TWICE}))
    assert came["a"] is came["b"]


def test_a_state_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(ResultNotStoredError, match="generator"):
        encoded({"a": (number for number in range(3))})


_JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=12,
)


@given(_JSON_LIKE)
@settings(max_examples=300, deadline=None)
def test_any_state_comes_back_as_it_was(state: Any) -> None:
    assert repr(back(encoded(state))) == repr(state)


@workflow.virtual_actor(version=3)
class Grown:
    def __init__(self) -> None:
        self.c = 3

    @workflow.migrate(from_version=1)
    @staticmethod
    def one(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "b": 2}

    @workflow.migrate(from_version=2)
    @staticmethod
    def two(state: dict[str, Any]) -> dict[str, Any]:
        if state.get("a") == "bad":
            raise LookupError("no such a")
        return {**state, "c": 3}


@workflow.virtual_actor
class Own:
    def __init__(self, n: int) -> None:
        self.n = n

    def __getstate__(self) -> int:
        return self.n

    def __setstate__(self, state: int) -> None:
        if state < 0:
            raise ValueError("below 0")
        self.n = state


class TestLoading:
    def test_a_state_of_dict(self) -> None:
        definition = Grown.definition
        instance = definition.cls()
        assert state_of(definition, instance) == {"c": 3}
        assert loaded(definition, encoded({"c": 4}), 3).c == 4

    def test_a_state_of_its_own(self) -> None:
        definition = Own.definition
        assert state_of(definition, restore(definition, 5)) == 5
        assert loaded(definition, encoded(6)).n == 6

    @pytest.mark.parametrize(
        ("version", "expected"), [(1, {"a": 1, "b": 2, "c": 3}), (2, {"a": 1, "c": 3}), (3, {"a": 1})]
    )
    def test_an_old_state_is_carried_forward(self, version: int, expected: dict[str, int]) -> None:
        assert vars(loaded(Grown.definition, encoded({"a": 1}), version)) == expected

    @pytest.mark.parametrize(
        ("version", "state", "said"),
        [
            (0, {"a": 1}, r"from_version=0"),
            (4, {"a": 1}, r"has version 3"),
            (2, {"a": "bad"}, r"migration from 2 raised LookupError: no such a"),
        ],
    )
    def test_what_cannot_be_carried_forward_says_why(self, version: int, state: Any, said: str) -> None:
        with pytest.raises(VirtualActorStateError, match=said) as raised:
            loaded(Grown.definition, encoded(state), version)
        assert "actor-9" in str(raised.value)
        assert "Grown" in str(raised.value)

    def test_a_state_that_its_class_refuses_says_why(self) -> None:
        with pytest.raises(VirtualActorStateError, match="restoring it raised ValueError: below 0"):
            loaded(Own.definition, encoded(-1))

    def test_a_state_whose_class_is_gone_says_so(self) -> None:
        gone = Payload(b"\x80\x05c" + b"no_such_module_here\nThing\n.")
        with pytest.raises(VirtualActorStateError, match="cannot be unpickled"):
            loaded(Grown.definition, (gone, False), 3)
