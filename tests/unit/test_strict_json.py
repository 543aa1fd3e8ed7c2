"""JSON by one rule: what is read is what the text says, and what is no JSON is refused by its place."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import inspect
import json
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from holdfast import workflow
from holdfast.actors.task_options import check_options
from holdfast.actors.virtual.definition import split_options
from holdfast.engine.errors import MetadataTooLargeError, NotJsonError
from holdfast.listeners import KafkaListener
from holdfast.storage.strict_json import MOST_METADATA_BYTES, check_metadata, parse, parse_accepted

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
STYLES = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, 1]),
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r\n:")]),
    }
)


def exact(text: str) -> Any:
    """What the standard library reads, strictly: the model of what is right."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key comes twice")
        return found

    def finite(number: str) -> float:
        found = float(number)
        if math.isinf(found):
            raise ValueError("more than a number can be")
        return found

    value = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    json.dumps(value, ensure_ascii=False).encode()
    if "NaN" in repr(value) or any(math.isnan(one) for one in floats(value)):
        raise ValueError("not a number")
    return value


def floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from floats(one)


def integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from integers(one)


def same(one: Any, other: Any) -> bool:
    """Equal, the types too."""
    return repr(one) == repr(other)


@given(VALUES, STYLES)
def test_what_was_written_is_read_exactly(value: Any, style: dict[str, Any]) -> None:
    text = json.dumps(value, **style)
    assert same(parse(text.encode()), value)
    assert same(parse_accepted(text.encode()), value)


# Small pieces, so that keys come twice and numbers are long often enough.
TOKENS = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ",", ":", '"a"', '"b"', '"\\u0061"', '"\\ud800"', '"\\ud83d\\ude00"', "1", "-0", "1.0",
         "1e5", "1e999", "NaN", "Infinity", "-Infinity", "18446744073709551616", "-9223372036854775809", "9" * 25,
         "9" * 25 + ".0", "true", "null", " ", "\n"]
    ),
    max_size=12,
)  # fmt: skip
MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(['"a"', '"b"', '"a b"', '"ab"', '"\\u0061"', '":"', '"\\u003a"', '""']),
        st.sampled_from(
            ["1", '"a"', '":"', '"\\u003A"', "18446744073709551615", "18446744073709551616", "1.8446744073709552e+19",
             "-9223372036854775808", "-9223372036854775809", "{}", '{"a": 1}', '{"a": 1, "a": 1}', "[1, 2]", "1e22"]
        ),
    ),
    max_size=5,
)  # fmt: skip


@given(TOKENS.map("".join) | MEMBERS.map(lambda m: "{" + ", ".join(f"{key}: {value}" for key, value in m) + "}"))
def test_any_text_is_read_as_the_standard_library_reads_it_strictly_or_refused(text: str) -> None:
    try:
        wanted = exact(text)
    except ValueError:
        with pytest.raises(NotJsonError):
            parse(text.encode())
    else:
        assert same(parse(text.encode()), wanted)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63), -(2**63) - 1, 10**300])
def test_integers_are_exact(number: int) -> None:
    for text in (f"{number}", f'{{"id": {number}}}', f'[{number},{{"a":{number}}}]'):
        assert same(parse(text.encode()), json.loads(text))
        assert same(parse_accepted(text.encode()), json.loads(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"NaN", "not JSON"),
        (b"[-Infinity]", "not JSON"),
        (b"1e999", "infinity"),
        (b"1" * 5000, "infinity"),
        (b'"\\ud800"', "surrogate"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' comes twice"),
        (b'{"a":1,"\\u0061":1}', "the key 'a' comes twice"),
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "deep|depth"),
        (b"[" * 1000 + b'{"a":1,"a":1}' + b"]" * 1000, "deep|twice"),
    ],
    ids=lambda given: repr(given)[:30],
)
def test_what_is_not_json_is_refused_and_says_why(text: bytes, said: str) -> None:
    with pytest.raises(NotJsonError, match=said) as caught:
        parse(text, "the value")
    assert str(caught.value).startswith("the value is not JSON")


def test_a_key_that_came_twice_in_an_older_version_reads_as_its_last() -> None:
    assert parse_accepted(b'{"a": 1, "a": 18446744073709551616}') == {"a": 2**64}


# -- metadata ----------------------------------------------------------------------------------------------------------

WRONG = [
    (math.nan, "nan"), (-math.inf, "-inf"), (2**64, "65 bits"), (-(2**63) - 1, "65 bits"), ({10**5000}, "of type set"),
    (10**5000, "bits"), ("\ud800", "not valid text"), (np.int64(3), "int64"), (np.float64(3), "float"),
    (decimal.Decimal(1), "Decimal"), (datetime.datetime(2026, 1, 1), "datetime"), (object(), "object"), (b"x", "bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "said"), WRONG, ids=lambda given: repr(type(given)))
def test_metadata_that_json_does_not_hold_is_refused_by_its_place(value: Any, said: str) -> None:
    for door in (check_metadata, lambda metadata: check_options({"metadata": metadata})):
        with pytest.raises(ValueError, match=said) as caught:
            door({"a": [1, {"b": value}]})
        assert isinstance(caught.value, NotJsonError)
        assert "metadata['a'][1]['b']" in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {None: 1}}, {"\ud800": 1}], ids=repr)
def test_keys_of_metadata_are_texts(value: Any) -> None:
    with pytest.raises(NotJsonError, match=r"metadata must be JSON.*key"):
        check_metadata(value)


def test_metadata_within_itself_is_refused() -> None:
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    with pytest.raises(NotJsonError, match="deep"):
        check_metadata(ring)


@given(st.dictionaries(st.text(), VALUES))
def test_metadata_is_given_back_as_it_was_or_refused(value: dict[str, Any]) -> None:
    try:
        kept = check_metadata(value)
    except NotJsonError:
        assert any(not -(2**63) <= number < 2**64 for number in integers(value))
    else:
        assert same(kept, value)


def test_metadata_up_to_the_limit_is_taken_and_more_is_refused_with_size_and_limit() -> None:
    frame = len('{"k":""}')
    assert check_metadata({"k": "x" * (MOST_METADATA_BYTES - frame)})
    with pytest.raises(MetadataTooLargeError, match=r"metadata has 65,537 bytes as JSON, and 65,536 are taken"):
        check_metadata({"k": "x" * (MOST_METADATA_BYTES - frame + 1)})


@ray.remote(num_cpus=0)
def task() -> None:
    pass


@workflow.step
def step() -> None:
    pass


LARGE = {"k": "x" * 50_000_000}


# Every public call that takes metadata, and how it is called with it.
DOORS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "run": lambda metadata: workflow.run(task.bind(), metadata=metadata),
    "run_async": lambda metadata: workflow.run_async(task.bind(), metadata=metadata),
    "submit": lambda metadata: workflow.submit(task.bind(), metadata=metadata),
    "schedule": lambda metadata: workflow.schedule("s", task.bind(), every_s=60, metadata=metadata),
    "on_event": lambda metadata: workflow.on_event(KafkaListener, "t", start=task, metadata=metadata),
    "aio.run": lambda metadata: asyncio.run(workflow.aio.run(task.bind(), metadata=metadata)),
    "aio.run_async": lambda metadata: asyncio.run(workflow.aio.run_async(task.bind(), metadata=metadata)),
    "aio.submit": lambda metadata: asyncio.run(workflow.aio.submit(task.bind(), metadata=metadata)),
    "aio.schedule": lambda metadata: asyncio.run(
        workflow.aio.schedule("s", task.bind(), every_s=60, metadata=metadata)
    ),
    "aio.on_event": lambda metadata: asyncio.run(
        workflow.aio.on_event(KafkaListener, "t", start=task, metadata=metadata)
    ),
}
# And those that have it among their options, or are methods of what they return.
OPTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "options": lambda metadata: workflow.options(metadata=metadata),
    "step": lambda metadata: workflow.step(metadata=metadata),
    "a step's options": lambda metadata: step.options(metadata=metadata),
    "a step's run": lambda metadata: step.step().run(metadata=metadata),
    "a step's run_async": lambda metadata: step.step().run_async(metadata=metadata),
    "create": lambda metadata: workflow.create(task.bind()).run(metadata=metadata),
    "create, async": lambda metadata: workflow.create(task.bind()).run_async(metadata=metadata),
    "a node's run": lambda metadata: task.bind().run(metadata=metadata),
    "a virtual actor's method": lambda metadata: split_options({"metadata": metadata}),
    "a method that events call": lambda metadata: workflow.on_event(
        KafkaListener, "t", actor_id="{key}", metadata=metadata
    ),
}


def test_every_public_call_with_metadata_is_among_the_doors() -> None:
    found = {
        prefix + name
        for prefix, module in (("", workflow), ("aio.", workflow.aio))
        for name in module.__all__
        if inspect.isroutine(call := getattr(module, name)) and "metadata" in inspect.signature(call).parameters
    }
    assert found == set(DOORS)


@pytest.mark.parametrize("door", [*DOORS, *OPTIONS])
def test_large_metadata_is_refused_at_the_call_before_anything_is_started(door: str) -> None:
    call = {**DOORS, **OPTIONS}[door]
    assert not ray.is_initialized()
    with pytest.raises(MetadataTooLargeError, match="50,000,008"):
        call(LARGE)
    with pytest.raises(NotJsonError, match="nan"):
        call({"k": math.nan})
    assert not ray.is_initialized()
