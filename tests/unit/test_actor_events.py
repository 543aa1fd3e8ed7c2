"""What `on_event` over a method takes and refuses; nothing is subscribed to."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from holdfast import workflow
from holdfast.actors.code import BOOK
from holdfast.actors.virtual.definition import definition_of
from holdfast.listeners import HTTPListener, KafkaListener, KafkaMessage


def double(value: bytes | None) -> str:
    return (value or b"").decode() * 2


def declared() -> Any:
    """Made in a function: it is pickled by its value, as a class of a script is."""

    @workflow.virtual_actor
    class Device(workflow.VirtualActor):
        def __init__(self, unit: str = "C") -> None:
            self.unit, self.read = unit, [""]

        @workflow.on_event(KafkaListener, topic="raw", deserializer=double, actor_id="d-{key}", name="texts")
        @workflow.on_event(
            KafkaListener,
            "readings",
            actor_id=lambda message: message.key,
            options={"max_retries": 2},
            metadata={"a": 1},
        )
        def measured(self, message: Any) -> int:
            self.read.append(message)
            return len(self.read)

        @workflow.virtual_actor.method
        @workflow.on_event(KafkaListener, topic="resets", actor_id="d-{key}", create=False)
        async def reset(self, message: KafkaMessage) -> None:
            self.read.clear()

    return Device


def message(value: bytes) -> KafkaMessage:
    return KafkaMessage(topic="t", partition=0, offset=0, key="k", raw_value=value, headers=(), timestamp=0.0)


def test_a_method_knows_the_events_that_call_it() -> None:
    methods = declared().definition.methods
    assert set(methods) == {"measured", "reset"}
    plain, converted = methods["measured"].rules
    assert (plain.source, plain.selector, plain.creates) == ("kafka/default/readings", "all", True)
    assert (dict(plain.options), plain.name) == ({"max_retries": 2, "metadata": {"a": 1}}, None)
    assert (converted.source, converted.id_template, converted.name) == ("kafka/default/raw", "d-{key}", "texts")
    (reset,) = methods["reset"].rules
    assert not reset.creates


def test_what_a_listener_makes_of_its_events_is_what_the_method_gets_also_where_the_class_is_stored() -> None:
    device = declared()
    digest, pickled = BOOK.encode(device.definition.cls)
    for cls in (device.definition.cls, pickle.loads(pickled)):
        definition = definition_of(cls)
        instance = cls()
        assert definition.method("measured@1").function(instance, message(b"ab")) == 2
        assert instance.read[-1] == "abab"
        assert definition.method("measured").function(instance, "as it is") == 3
        with pytest.raises(AttributeError, match="they have: measured, reset"):
            definition.method("measured@0")
    assert digest


def test_a_method_that_events_call_is_called_by_others_too() -> None:
    instance = declared().definition.cls()
    assert instance.measured("x") == 2
    declared().definition.check_call("measured", (1,), {})


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({}, TypeError, "needs start="),
        ({"create": False, "start": double}, TypeError, "create= and options="),
        ({"actor_id": "a", "start": double}, TypeError, "not both"),
        ({"actor_id": "a", "workflow_id": "b"}, TypeError, "not both"),
        ({"actor_id": 7}, TypeError, "actor_id= takes a template or a function of the event, not 7"),
        ({"actor_id": ""}, TypeError, "actor_id="),
        ({"actor_id": "a{"}, ValueError, "actor_id='a{' is no template"),
        ({"actor_id": "a", "create": 1}, TypeError, "create="),
        ({"actor_id": "a", "name": ""}, ValueError, "empty"),
        ({"actor_id": "a", "metadata": [1]}, ValueError, "metadata"),
        ({"actor_id": "a", "options": {"task_id": "x"}}, ValueError, "task_id"),
        ({"actor_id": "a", "options": {"max_retries": "x"}}, ValueError, "max_retries"),
        ({"actor_id": "a", "topic": "no such/topic"}, ValueError, "topic"),
    ],
)
def test_what_could_not_work_is_refused_where_it_is_said(given: dict[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        workflow.on_event(KafkaListener, **{"topic": "t", **given})


def test_a_listener_of_one_workflows_own_events_calls_no_actors() -> None:
    with pytest.raises(TypeError, match="HTTPListener"):
        workflow.on_event(HTTPListener, "key", actor_id="a")


@pytest.mark.parametrize("method", [lambda self: 1, lambda self, a, b: 1, lambda self, *, a: 1])
def test_a_method_that_does_not_take_an_event_is_refused(method: Any) -> None:
    with pytest.raises(TypeError, match="cannot be called by an event, which is its only argument"):
        workflow.on_event(KafkaListener, topic="t", actor_id="a")(method)


def test_a_method_that_only_reads_is_refused_whichever_stands_first() -> None:
    heard = workflow.on_event(KafkaListener, topic="t", actor_id="a")
    with pytest.raises(TypeError, match="read-only"):
        heard(workflow.virtual_actor.readonly(lambda self, message: 1))
    with pytest.raises(TypeError, match="read-only"):
        workflow.virtual_actor.readonly(heard(lambda self, message: 1))
    with pytest.raises(TypeError, match="plain function"):
        heard(len)


def test_a_class_whose_constructor_needs_more_is_not_made_by_events() -> None:
    def made_by(create: bool) -> Any:
        class Device:
            def __init__(self, unit: str) -> None:
                self.unit = unit

            @workflow.on_event(KafkaListener, topic="t", actor_id="a", create=create)
            def measured(self, message: Any) -> None: ...

        return workflow.virtual_actor(Device)

    with pytest.raises(ValueError, match=r"Device\.measured makes the actor.*'unit'.*create=False"):
        made_by(True)
    assert made_by(False).definition.methods["measured"].rules


def test_only_a_class_that_events_call_can_be_subscribed() -> None:
    with pytest.raises(TypeError, match="takes a class of virtual actors"):
        workflow.subscribe(dict)

    @workflow.virtual_actor
    class Deaf:
        def add(self) -> None: ...

    with pytest.raises(ValueError, match=r"no method of .*Deaf is called by events"):
        workflow.subscribe(Deaf)


def test_rules_of_one_name_are_refused() -> None:
    @workflow.virtual_actor
    class Twice:
        @workflow.on_event(KafkaListener, topic="t", actor_id="a")
        @workflow.on_event(KafkaListener, topic="t", actor_id="b")
        def heard(self, message: Any) -> None: ...

    with pytest.raises(ValueError, match=r"has two rules .*name="):
        workflow.subscribe(Twice)
