"""Storage: remembers. The only room that knows keys, files and formats; it decides nothing."""

from holdfast.storage.blobs import BlobStore
from holdfast.storage.code import CodeStore
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore, ReadTransaction, WriteTransaction
from holdfast.storage.lmdb import LmdbStore
from holdfast.storage.location import parse_location
from holdfast.storage.memory import MemoryStore
from holdfast.storage.payload import Payload
from holdfast.storage.platform_lock import PlatformLock

__all__ = [
    "BlobStore",
    "CodeStore",
    "KeyValueStore",
    "LmdbStore",
    "MemoryStore",
    "Payload",
    "PlatformLock",
    "ReadTransaction",
    "StorageFolder",
    "WriteTransaction",
    "parse_location",
]
