"""Variables of a runtime environment that are stored as they are: which they are, and what is said of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import ray
from ray.runtime_env import RuntimeEnv

from holdfast.actors import environment, plain_variables
from holdfast.actors.task_options import resolve
from holdfast.actors.virtual.hosting import describe_hosting

SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(plain_variables, "_warned_of", set())
    plain_variables.warn_of_serialized.cache_clear()
    caplog.set_level(logging.WARNING, "holdfast")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (SECRET, True),
        ("${API_KEY}", False),
        ("$API_KEY", False),
        ("${API_KEY}:${OTHER}", False),
        (f"https://user:{SECRET}@${{HOST}}", True),
        ("$", False),
        ("${API_KEY", True),
        ("32", False),
        ("", False),
    ],
)
def test_a_value_is_plain_unless_it_refers_to_a_variable(value: str, plain: bool) -> None:
    assert plain_variables.plain_variables({"env_vars": {"NAME": value}}) == (["NAME"] if plain else [])


@pytest.mark.parametrize("given", [{}, {"env_vars": None}, {"env_vars": {}}, {"pip": ["x"]}])
def test_an_environment_without_variables_has_none(given: dict[str, Any]) -> None:
    assert plain_variables.plain_variables(given) == []


def job(given: dict[str, Any]) -> None:
    class Context:
        def get_runtime_env_string(self) -> str:
            return orjson.dumps(given).decode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get_runtime_context", Context)
        environment.capture_environment()


def task(given: dict[str, Any]) -> None:
    resolve({}, {"runtime_env": given})


def task_with_its_class(given: dict[str, Any]) -> None:
    resolve({}, {"runtime_env": RuntimeEnv(**given)})


def virtual_actor(given: dict[str, Any]) -> None:
    describe_hosting({}, given, b"")


DOORS = [job, task, task_with_its_class, virtual_actor]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_every_way_in_warns_of_names_once_and_repeats_no_value(
    door: Callable[[dict[str, Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    given = {"env_vars": {"TOKEN": SECRET, "API_KEY": SECRET, "FROM_ELSEWHERE": "${FROM_ELSEWHERE}"}}
    door(given)
    door(given)
    door({"env_vars": {**given["env_vars"], "ANOTHER": SECRET}})
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in said] == [
        "storage.plain_env_vars names=API_KEY,TOKEN",
        "storage.plain_env_vars names=ANOTHER",
    ]
    assert '{"env_vars": {"API_KEY": "${API_KEY}"}}' in said[0]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_no_way_in_says_anything_of_references(
    door: Callable[[dict[str, Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    door({"env_vars": {"API_KEY": "${API_KEY}"}})
    assert caplog.records == []
