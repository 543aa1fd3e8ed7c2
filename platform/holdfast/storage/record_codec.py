"""Engine records to bytes and back.

A row is a frame: a JSON header, then the binary pieces that the header's
numbers point at. Structure is JSON, so that a person can read it; user values
are pickled bytes that nobody here opens.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from holdfast.engine.errors import HoldfastError, StorageCorruptError
from holdfast.engine.graph import NodeKind, NodeSpec, TaskIndex, TaskOptions
from holdfast.engine.records import GraphLogged
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.values import Split, Taken, Value
from holdfast.storage.payload import Payload, decode, encode

_LENGTH = struct.Struct("<I")

NODES_IN_A_PIECE = 256
"""A larger graph is stored in several rows, none of which makes LMDB look for a long run of free pages."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A value that lies in the blob store."""

    key: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Referring:
    """A value that refers to objects stored beside it.

    Attributes:
        base: The value itself.
        objects: Keys of all objects it refers to, and those they refer to.
    """

    base: Payload | Blob
    objects: tuple[str, ...]


UNREADABLE = (StorageCorruptError, LookupError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
"""What reading a damaged row raises: its frame or its JSON is not one, or what should be in it is not."""

Stored: TypeAlias = Payload | Blob | Referring | HoldfastError | Split | None
"""What a `Value.base` can be once it is stored."""


class Frame:
    """Collects the binary pieces of a row while its header is made."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, piece: bytes) -> int:
        """Number of a piece."""
        self._pieces.append(piece)
        return len(self._pieces) - 1

    def add_once(self, piece: bytes) -> int:
        """Number of a piece that many entries share."""
        number = self._known.get(piece)
        if number is None:
            number = self._known[piece] = self.add(piece)
        return number

    def close(self, header: dict[str, Any]) -> bytes:
        """The row."""
        raw = orjson.dumps([header, [len(piece) for piece in self._pieces]])
        return b"".join((_LENGTH.pack(len(raw)), raw, *self._pieces))


def open_frame(row: bytes) -> tuple[dict[str, Any], Sequence[bytes]]:
    """The header and the pieces of a row.

    Raises:
        StorageCorruptError: It is not a row.
    """
    try:
        (length,) = _LENGTH.unpack_from(row)
        header, sizes = orjson.loads(row[4 : 4 + length])
    except (struct.error, ValueError, TypeError) as error:
        raise StorageCorruptError("meta.lmdb", f"a row cannot be read ({error})", "Restore a backup") from error
    pieces, at = [], 4 + length
    for size in sizes:
        pieces.append(row[at : at + size])
        at += size
    return header, pieces


# -- values ------------------------------------------------------------------------------------------------------------


def _base_entry(base: Stored, frame: Frame) -> Any:
    match base:
        case None:
            return None
        case Payload():
            return {"p": frame.add(encode(base))}
        case Blob():
            return {"b": base.key, "n": base.nbytes}
        case Referring():
            return {**_base_entry(base.base, frame), "objects": base.objects}
        case HoldfastError():
            return {"x": frame.add(pickle.dumps(base)), "said": str(base)}
        case Split():
            entry: dict[str, Any] = {"ready": [at for at, _ in base.ready]}
            entry["remaining"] = [list(named) for named in base.remaining]
            if base.counted:
                entry["counted"] = True
            return entry
    raise TypeError(f"{type(base).__name__} is nothing that can be stored as a value")


def _read_base(entry: Any, pieces: Sequence[bytes]) -> Stored:
    if entry is None:
        return None
    if "objects" in entry:
        whole = Blob(entry["b"], entry["n"]) if "b" in entry else decode(pieces[entry["p"]])
        return Referring(whole, tuple(entry["objects"]))
    if "p" in entry:
        return decode(pieces[entry["p"]])
    if "b" in entry:
        return Blob(entry["b"], entry["n"])
    if "x" in entry:
        error: HoldfastError = pickle.loads(pieces[entry["x"]])
        return error
    # The values of a split stand in the rows of its inputs: whoever loads it puts them in.
    return Split(
        tuple((at, Value(None)) for at in entry["ready"]),
        tuple((at, name) for at, name in entry["remaining"]),
        counted=entry.get("counted", False),
    )


def value_entry(value: Value, frame: Frame, *, elsewhere: TaskIndex | None = None) -> dict[str, Any]:
    """Header entry of a value. With `elsewhere`, the base stands in that task's row."""
    entry: dict[str, Any] = {"in": elsewhere} if elsewhere is not None else {"base": _base_entry(value.base, frame)}
    if value.caught:
        entry["caught"] = True
    if value.wraps:
        entry["wraps"] = value.wraps
    if value.names:
        entry["names"] = value.names
    if value.taken is not None and elsewhere is None:
        (source, key), number, task = value.taken
        entry["taken"] = [source, key, number, task]
    return entry


def read_value(entry: dict[str, Any], pieces: Sequence[bytes]) -> tuple[Value, TaskIndex | None]:
    """A value, and the task in whose row its base stands when it is not this one."""
    elsewhere = entry.get("in")
    base = None if elsewhere is not None else _read_base(entry["base"], pieces)
    taken = None
    if "taken" in entry:
        source, key, number, task = entry["taken"]
        taken = Taken((source, key), number, task)
    names = tuple(entry.get("names", ()))
    return Value(base, entry.get("caught", False), entry.get("wraps", 0), names, taken), elsewhere


def error_entry(error: Stored, frame: Frame) -> Any:
    """Header entry of an error."""
    return _base_entry(error, frame)


def read_error(entry: Any, pieces: Sequence[bytes]) -> Stored:
    """The error of an entry."""
    return _read_base(entry, pieces)


# -- graphs ------------------------------------------------------------------------------------------------------------


def options_entry(options: TaskOptions, frame: Frame) -> dict[str, Any]:
    """Header entry of a task's options."""
    budget, retry = options.budget, options.retry
    entry: dict[str, Any] = {"budget": [budget.deaths, budget.errors, budget.shared]}
    if options.catch_exceptions:
        entry["catch"] = True
    if not options.checkpoint:
        entry["checkpoint"] = False
    if options.in_place:
        entry["in_place"] = True
    if retry is not None:
        entry["retry"] = [retry.max_attempts, retry.initial_s, retry.factor, retry.max_s, retry.jitter]
    if options.timeout_s is not None:
        entry["timeout_s"] = options.timeout_s
    if options.metadata:
        entry["metadata"] = options.metadata
    if options.ray_options:
        entry["ray"] = frame.add_once(options.ray_options)
    if options.exception_filter:
        entry["filter"] = frame.add_once(options.exception_filter)
    return entry


def read_options(entry: dict[str, Any], pieces: Sequence[bytes]) -> TaskOptions:
    """The options of an entry."""
    deaths, errors, shared = entry["budget"]
    retry = None
    if "retry" in entry:
        retry = RetryPolicy.stored(*entry["retry"])
    return TaskOptions(
        catch_exceptions=entry.get("catch", False),
        checkpoint=entry.get("checkpoint", True),
        in_place=entry.get("in_place", False),
        budget=RetryBudget(deaths=deaths, errors=errors, shared=shared),
        retry=retry,
        timeout_s=entry.get("timeout_s"),
        metadata=entry.get("metadata", {}),
        ray_options=pieces[entry["ray"]] if "ray" in entry else b"",
        exception_filter=pieces[entry["filter"]] if "filter" in entry else b"",
    )


def arguments_entry(arguments: Any, frame: Frame) -> Any:
    """Header entry of arguments: a payload, a blob or nothing."""
    if isinstance(arguments, Blob):
        return [arguments.key, arguments.nbytes]
    return frame.add(encode(arguments)) if arguments else None


def read_arguments(entry: Any, pieces: Sequence[bytes]) -> Payload | Blob | bytes:
    """The arguments of such an entry."""
    if entry is None:
        return b""
    return Blob(entry[0], entry[1]) if isinstance(entry, list) else decode(pieces[entry])


def _node_entry(node: NodeSpec, options: int, frame: Frame) -> list[Any]:
    arguments = node.arguments
    where: Any = None
    if isinstance(arguments, Blob):
        where = arguments.key
    elif arguments:
        where = frame.add(encode(arguments))
    extra: dict[str, Any] = {}
    if isinstance(arguments, Blob):
        extra["nbytes"] = arguments.nbytes
    if node.num_returns != 1:
        extra["num_returns"] = node.num_returns
    if node.duration_s is not None:
        extra["duration_s"] = node.duration_s
    if node.stream is not None:
        extra["stream"] = node.stream
    if node.due_unix_s is not None:
        extra["due"] = node.due_unix_s
    if node.acknowledge:
        extra["acknowledge"] = True
    return [node.task_id, node.kind.value, node.function, where, node.inputs, options, extra]


def encode_graph(graph: GraphLogged) -> Iterator[tuple[TaskIndex, bytes]]:
    """The pieces of a graph: index of the first task in it, and the row."""
    about = [graph.first, graph.sink, graph.parent, graph.group, graph.catcher, graph.scope]
    for start in range(0, len(graph.nodes), NODES_IN_A_PIECE):
        frame = Frame()
        numbers: dict[int, int] = {}
        options: list[dict[str, Any]] = []
        entries = []
        for node in graph.nodes[start : start + NODES_IN_A_PIECE]:
            number = numbers.get(id(node.options))
            if number is None:
                number = numbers[id(node.options)] = len(options)
                options.append(options_entry(node.options, frame))
            entries.append(_node_entry(node, number, frame))
        yield graph.first + start, frame.close({"about": about, "options": options, "nodes": entries})


def decode_graphs(rows: Iterator[bytes]) -> Iterator[GraphLogged]:
    """The graphs of a workflow from the rows of their pieces, in order."""
    about: list[Any] | None = None
    nodes: list[NodeSpec] = []
    for row in rows:
        header, pieces = open_frame(row)
        if about is not None and header["about"] != about:
            yield _graph(about, nodes)
            nodes = []
        about = header["about"]
        options = [read_options(entry, pieces) for entry in header["options"]]
        nodes.extend(_read_node(entry, options, pieces) for entry in header["nodes"])
    if about is not None:
        yield _graph(about, nodes)


def _graph(about: list[Any], nodes: list[NodeSpec]) -> GraphLogged:
    first, sink, parent, group, catcher, scope = about
    return GraphLogged(
        first=first, nodes=tuple(nodes), sink=sink, parent=parent, group=group, catcher=catcher, scope=scope
    )


def _read_node(entry: list[Any], options: Sequence[TaskOptions], pieces: Sequence[bytes]) -> NodeSpec:
    task_id, kind, function, where, inputs, number, extra = entry
    stream = extra.get("stream")
    return NodeSpec(
        task_id=task_id,
        kind=NodeKind(kind),
        function=function,
        arguments=_read_arguments(where, extra, pieces),
        inputs=tuple(inputs),
        options=options[number],
        num_returns=extra.get("num_returns", 1),
        duration_s=extra.get("duration_s"),
        stream=None if stream is None else (stream[0], stream[1]),
        due_unix_s=extra.get("due"),
        acknowledge=extra.get("acknowledge", False),
    )


def _read_arguments(where: Any, extra: dict[str, Any], pieces: Sequence[bytes]) -> Payload | Blob | bytes:
    if where is None:
        return b""
    return Blob(where, extra["nbytes"]) if isinstance(where, str) else decode(pieces[where])
