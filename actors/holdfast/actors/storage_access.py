"""How a process reads and writes large values and code from where it is.

On the storage node the folder is used directly. Anywhere else nothing of the
folder can be seen: values travel through Ray's object store, and whoever is on
the storage node reads or writes the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.storage.blobs import BlobStore
from holdfast.storage.code import CodeStore
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob

INLINE_BYTES = 64 * 1024
"""Values up to this size travel and are stored inline."""


@dataclass(frozen=True, slots=True)
class StorageAddress:
    """Where the storage folder is.

    Attributes:
        path: Absolute, on the storage node.
        node_id: The storage node, hex.
        cluster: Random mark of this cluster, for keys of its objects.
        user: Whose the platform's processes are; -1 when that is not said.
    """

    path: str
    node_id: str
    cluster: str
    user: int = -1

    @property
    def of_this_user(self) -> bool:
        """Whether this process is of the platform's user, and so may use its folder and sockets."""
        return self.user in (-1, os.geteuid())

    @property
    def is_here(self) -> bool:
        """Whether this process is on the storage node, and may use what is there."""
        return self.of_this_user and bool(ray.get_runtime_context().get_node_id() == self.node_id)


def object_blob(group: str, key: str) -> str:
    """Key of the blob that holds a stored object of a workflow. Any key makes a valid name."""
    return f"{group}/{hashlib.blake2b(key.encode(), digest_size=20).hexdigest()}"


def portable(payload: Payload) -> Payload:
    """The payload in a form that Ray can carry: small parts as bytes, large ones out of band."""
    inband = payload.inband if isinstance(payload.inband, bytes) else bytes(payload.inband)
    buffers = tuple(
        view if (view := memoryview(buffer)).nbytes > INLINE_BYTES else bytes(buffer) for buffer in payload.buffers
    )
    return Payload(inband, buffers)


class StorageAccess:
    """The storage as seen from this process. Use `access` to get one."""

    def __init__(self, address: StorageAddress) -> None:
        self.address = address
        self.local = address.is_here and os.path.isdir(address.path)
        self._blobs = BlobStore(os.path.join(address.path, "blobs")) if self.local else None
        self._code = CodeStore(os.path.join(address.path, "code")) if self.local else None

    def read_blob(self, key: str) -> Payload:
        """A blob; by mmap on the storage node.

        Raises:
            StorageMissingError: No such blob.
        """
        if self._blobs is not None:
            return self._blobs.read(key)
        found: Payload = ray.get(self._there(_read_blob, key))
        return found

    def read_code(self, digest: str) -> bytes:
        """Code by its hash."""
        if self._code is not None:
            return self._code.get(digest)
        found: bytes = ray.get(self._there(_read_code, digest))
        return found

    def store_value(self, payload: Payload, group: str, *, durable: bool) -> Payload | Blob:
        """Put a large value into the blob store where that can be done from here; else leave it to travel."""
        nbytes = payload.nbytes
        if nbytes <= INLINE_BYTES or self._blobs is None:
            return portable(payload)
        return Blob(self._blobs.write(group, payload, durable=durable), nbytes)

    def store_objects(self, objects: Mapping[str, Payload], group: str) -> dict[str, Payload]:
        """Put objects into the blob store. Returns those that have to travel."""
        if self._blobs is None:
            return {key: portable(payload) for key, payload in objects.items()}
        for key, payload in objects.items():
            self._blobs.write(group, payload, name=object_blob(group, key).partition("/")[2])
        return {}

    def load_base(self, base: Payload | Blob) -> Payload:
        """The payload of a stored base."""
        return self.read_blob(base.key) if isinstance(base, Blob) else base

    def _there(self, function: Any, name: str) -> Any:
        where = NodeAffinitySchedulingStrategy(self.address.node_id, soft=False)
        return function.options(scheduling_strategy=where).remote(self.address.path, name)


@lru_cache(maxsize=8)
def access(address: StorageAddress) -> StorageAccess:
    """The storage at an address, as seen from this process."""
    return StorageAccess(address)


@ray.remote(num_cpus=0, max_retries=3)
def _read_blob(path: str, key: str) -> Payload:
    return portable(BlobStore(os.path.join(path, "blobs")).read(key))


@ray.remote(num_cpus=0, max_retries=3)
def _read_code(path: str, digest: str) -> bytes:
    return CodeStore(os.path.join(path, "code")).get(digest)


def object_keys(objects: Iterable[str]) -> tuple[str, ...]:
    """Keys as they are stored with the value that refers to them."""
    return tuple(sorted(objects))
