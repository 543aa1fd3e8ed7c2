"""Calls, replies and graphs arrive as they were sent."""

from __future__ import annotations

import pickle

import pytest

from holdfast.actors.requests import SubmitRequest
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.task_call import Raised, Returned, TaskCall
from holdfast.actors.wire import pack_call, pack_reply, unpack_call, unpack_reply
from holdfast.engine.errors import WorkerLostError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.values import Split, Value
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring

VALUES = [
    Value(None),
    Value(Payload(b"small")),
    Value(Payload(b"with buffers", (b"one", b"two"))),
    Value(Blob("aa/bb", 100_000), wraps=2),
    Value(Referring(Payload(b"refers"), ("key-1", "key-2"))),
    Value(Split(((1, Value(Payload(b"ready"))),), ((2, "later"),))),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value.base).__name__)
def test_a_call_arrives_with_its_inputs(value: Value) -> None:
    options = TaskOptions(checkpoint=False, in_place=True, timeout_s=2.5, exception_filter=b"filter")
    node = NodeSpec(task_id="t", kind=NodeKind.EVENT, function="f" * 32, arguments=Payload(b"args"), options=options)
    call = TaskCall(
        workflow_id="w",
        seq=7,
        group="ab",
        task=3,
        attempt=2,
        node=node,
        values=(value, Value(None)),
        hold=True,
        executor="e",
        storage=StorageAddress("/folder", "node", "cluster"),
        event=value,
    )
    assert unpack_call(pack_call(call)) == call


def test_an_error_that_became_a_value_arrives_with_a_call() -> None:
    node = NodeSpec(task_id="t", function="f" * 32, arguments=Payload(b"args"))
    call = TaskCall(
        workflow_id="w",
        seq=7,
        group="ab",
        task=3,
        attempt=2,
        node=node,
        values=(Value(WorkerLostError("t", "it was ended"), caught=True),),
        hold=False,
        executor="e",
        storage=StorageAddress("/folder", "node", "cluster"),
    )
    (value,) = unpack_call(pack_call(call)).values
    assert value.caught
    assert isinstance(value.base, WorkerLostError)
    assert value.base.reason == "it was ended"


@pytest.mark.parametrize(
    "base", [None, Payload(b"small"), Blob("aa/bb", 100_000)], ids=lambda base: type(base).__name__
)
def test_the_reply_of_a_small_value_travels_as_bytes(base: Payload | Blob | None) -> None:
    reply = Returned(seq=1, task=2, attempt=3, base=base, started_unix_s=4.5, ended_unix_s=5.5)
    packed = pack_reply(reply)
    assert isinstance(packed, bytes)
    assert unpack_reply(packed) == reply


def test_other_replies_travel_as_they_are() -> None:
    raised = Raised(seq=1, task=2, attempt=3, error=Payload(b"error"), retryable=False)
    with_objects = Returned(seq=1, task=2, attempt=3, base=None, objects={"key": Payload(b"object")})
    for reply in (raised, with_objects, None):
        assert pack_reply(reply) is reply
        assert unpack_reply(reply) is reply


def test_a_request_and_its_graph_survive_pickling() -> None:
    options = TaskOptions(
        catch_exceptions=True,
        budget=RetryBudget(deaths=1, errors=2, shared=False),
        retry=RetryPolicy(max_attempts=5),
        metadata={"a": 1},
        ray_options=b"ray",
    )
    nodes = (
        NodeSpec(task_id="a", arguments=Payload(b"a"), options=options),
        NodeSpec(task_id="b", kind=NodeKind.WAIT, inputs=(0,), num_returns=1, duration_s=1.5, stream=("s", "k")),
    )
    request = SubmitRequest(workflow_id="w", nonce="ab", graph=Graph(nodes=nodes, sink=1), code={"hash": b"code"})
    assert pickle.loads(pickle.dumps(request, 5)) == request
    assert hash(pickle.loads(pickle.dumps(options.budget, 5))) == hash(options.budget)
