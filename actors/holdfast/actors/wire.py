"""Calls and replies as bytes, for the path that every task takes.

Pickling the classes themselves costs more than all the rest of a small task:
tuples of plain values do it several times faster, and Ray carries bytes without
pickling them again. What is large or rare travels as it is.
"""

from __future__ import annotations

import pickle
from typing import Any

from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.task_call import Reply, Returned, TaskCall
from holdfast.engine.graph import NodeKind, NodeSpec, TaskOptions
from holdfast.engine.values import Split, Value
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring


def pack_call(call: TaskCall) -> bytes:
    """A call as bytes. Of the node it holds what a worker needs."""
    node, options, storage = call.node, call.node.options, call.storage
    return pickle.dumps(
        (
            (call.workflow_id, call.seq, call.group, call.task, call.attempt, call.hold, call.executor),
            (storage.path, storage.node_id, storage.cluster, storage.user),
            (node.task_id, node.kind.value, node.function, _pack_base(node.arguments)),
            (options.checkpoint, options.in_place, options.timeout_s, options.exception_filter),
            [_pack_value(value) for value in call.values],
            None if call.event is None else _pack_value(call.event),
            (call.epoch, call.follows),
        ),
        5,
    )


def unpack_call(raw: bytes) -> TaskCall:
    """The call that `pack_call` made this of."""
    about, storage, node, options, values, event, (epoch, follows) = pickle.loads(raw)
    workflow_id, seq, group, task, attempt, hold, executor = about
    task_id, kind, function, arguments = node
    checkpoint, in_place, timeout_s, exception_filter = options
    return TaskCall(
        workflow_id=workflow_id,
        seq=seq,
        group=group,
        task=task,
        attempt=attempt,
        node=NodeSpec(
            task_id=task_id,
            kind=NodeKind(kind),
            function=function,
            arguments=_unpack_base(arguments),
            options=TaskOptions(
                checkpoint=checkpoint,
                in_place=in_place,
                timeout_s=timeout_s,
                exception_filter=exception_filter,
            ),
        ),
        values=tuple(_unpack_value(value) for value in values),
        hold=hold,
        executor=executor,
        storage=StorageAddress(*storage),
        event=None if event is None else _unpack_value(event),
        epoch=epoch,
        follows=follows,
    )


def pack_reply(reply: Reply | None) -> Reply | bytes | None:
    """A reply as bytes, when it is a small value; else as it is."""
    if not isinstance(reply, Returned) or reply.objects or reply.names or reply.kept or not _is_plain(reply.base):
        return reply
    about = (reply.seq, reply.task, reply.attempt, reply.started_unix_s, reply.ended_unix_s, reply.ran_s)
    return pickle.dumps((about, _pack_base(reply.base)), 5)


def unpack_reply(reply: Reply | bytes | None) -> Reply | None:
    """The reply that `pack_reply` made this of."""
    if not isinstance(reply, bytes):
        return reply
    (seq, task, attempt, started, ended, ran), base = pickle.loads(reply)
    return Returned(
        seq=seq,
        task=task,
        attempt=attempt,
        base=_unpack_base(base),
        started_unix_s=started,
        ended_unix_s=ended,
        ran_s=ran,
    )


def _is_plain(base: Any) -> bool:
    return base is None or isinstance(base, Blob) or (isinstance(base, Payload) and not base.buffers)


def _pack_value(value: Value) -> tuple[Any, bool, int]:
    return _pack_base(value.base), value.caught, value.wraps


def _unpack_value(packed: tuple[Any, bool, int]) -> Value:
    base, caught, wraps = packed
    return Value(_unpack_base(base), caught, wraps)


def _pack_base(base: Any) -> Any:
    match base:
        case Payload():
            inband = base.inband if isinstance(base.inband, bytes) else bytes(base.inband)
            # Inline values only: their buffers are small enough to be copied.
            return ("p", inband, [bytes(buffer) for buffer in base.buffers])
        case Blob():
            return ("b", base.key, base.nbytes)
        case Referring():
            return ("r", _pack_base(base.base), base.objects)
        case Split():
            return ("s", [(at, _pack_value(value)) for at, value in base.ready], base.remaining)
    # None, no arguments, or an error of ours.
    return base


def _unpack_base(packed: Any) -> Any:
    if not isinstance(packed, tuple):
        return packed
    match packed:
        case ("p", inband, buffers):
            return Payload(inband, tuple(buffers))
        case ("b", key, nbytes):
            return Blob(key, nbytes)
        case ("r", base, objects):
            return Referring(_unpack_base(base), tuple(objects))
        case ("s", ready, remaining):
            return Split(tuple((at, _unpack_value(value)) for at, value in ready), tuple(remaining))
    raise ValueError(f"a packed value cannot begin with {packed[0]!r}")
