"""Finds whether a schedule's graph is the stored one although its hash differs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from holdfast.actors.same_code import form_of
from holdfast.actors.storage_access import object_blob
from holdfast.engine.errors import StorageError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob


def say_the_same(folder: StorageFolder, one: tuple[Graph, str], other: tuple[Graph, str]) -> bool:
    """Whether two graphs run the same: code and arguments are compared by what they say.

    Args:
        folder: Where their code and large values are.
        one: A graph, and the group of its blobs.
        other: Another one.

    Semantics: loads nothing of the user's. What cannot be read is not the same.
    """
    try:
        return _form(folder, *one) == _form(folder, *other)
    except (StorageError, pickle.UnpicklingError, ValueError, RecursionError):
        return False


def _form(folder: StorageFolder, graph: Graph, group: str) -> tuple[Any, ...]:
    def read(key: str) -> tuple[bytes | memoryview, tuple[Any, ...]]:
        payload = folder.blobs.read(object_blob(group, key))
        return payload.inband, payload.buffers

    return tuple(_form_of_node(folder, node, read) for node in graph.nodes), graph.sink


def _form_of_node(folder: StorageFolder, node: NodeSpec, read: Callable[[str], Any]) -> tuple[Any, ...]:
    options = node.options
    arguments = folder.blobs.read(node.arguments.key) if isinstance(node.arguments, Blob) else node.arguments
    return (
        replace(node, function="", arguments=b"", options=replace(options, ray_options=b"", exception_filter=b"")),
        form_of(folder.code.get(node.function)) if node.function else None,
        form_of(options.ray_options) if options.ray_options else None,
        form_of(options.exception_filter) if options.exception_filter else None,
        form_of(arguments.inband, arguments.buffers, read) if isinstance(arguments, Payload) else arguments,
    )
