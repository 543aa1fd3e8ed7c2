"""The storage folder: what makes it ours, and its parts.

    FORMAT       the format's version and the folder's id; written last, so a folder that has it is complete
    meta.lmdb/   records        blobs/   large values        code/   functions by hash
    LOCK, LOCK.members          who has it open; see `platform_lock`

Nothing here knows what is kept in the parts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from pathlib import Path

import orjson

from holdfast.engine.errors import (
    StorageCorruptError,
    StorageFormatError,
    StorageNotWritableError,
)
from holdfast.storage import files, own_files
from holdfast.storage.blobs import BlobStore
from holdfast.storage.code import CodeStore
from holdfast.storage.lmdb import LmdbStore
from holdfast.storage.location import parse_location

log = logging.getLogger("holdfast")

FORMAT_VERSION = 1

_FORMAT, _RECORDS, _BLOBS, _CODE = "FORMAT", "meta.lmdb", "blobs", "code"
_OURS = frozenset({_FORMAT, _RECORDS, _BLOBS, _CODE, "LOCK", "LOCK.members"})


class StorageFolder:
    """An open storage folder. Make one by `open`.

    Attributes:
        path: Absolute.
        url: The same, as a `file://` URI.
        storage_id: Random, given when the folder was made, never changed.
        kv: Records.
        blobs: Large values.
        code: Functions and packages.
    """

    def __init__(self, path: Path, storage_id: str) -> None:
        self.path, self.url, self.storage_id = path, path.as_uri(), storage_id
        self.blobs = BlobStore(path / _BLOBS)
        self.code = CodeStore(path / _CODE)
        # Last, so that nothing is left open when another part is refused.
        self.kv = LmdbStore(path / _RECORDS, create=False)

    @classmethod
    def open(cls, location: str | os.PathLike[str] | None, *, create: bool = True) -> StorageFolder:
        """Open a folder, and make it when it is not there.

        Args:
            location: See `parse_location`.
            create: Make what is missing. Otherwise a folder that is not there is refused.

        Raises:
            ValueError: The location is not one.
            StorageNotWritableError: It is not a folder, cannot be written, or is not there.
            StorageFormatError: Written by a newer release, or not empty and not ours.
            StorageCorruptError: Its files are truncated, or not what they should be.
            StorageFullError: No space to make it.

        Semantics: safe to repeat, also by several processes at once, who then find the same `storage_id`. When
        making it was interrupted at any point, the next call completes it.
        """
        path = parse_location(location)
        url = path.as_uri()
        try:
            if create:
                _make_durable_folder(path)
            if not path.is_dir():
                raise StorageNotWritableError(url, "it is not there", "Check the path, or let it be made.")
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise StorageNotWritableError(
                    url,
                    f"it belongs to user {path.stat().st_uid}, and user {os.geteuid()} may not write it",
                    "Run this as that user, or join that user's cluster, or give another folder.",
                )
            storage_id = _read_format(path, url)
            if storage_id is None:
                if not create:
                    raise StorageFormatError(url, "it has no FORMAT file", "Give a folder made by Holdfast.")
                storage_id = _complete(path, url)
            _close_to_others(path)
        except OSError as error:
            raise files.file_error(error, url) from error
        return cls(path, storage_id)

    def close(self) -> None:
        """Let go of the records. Again: no effect."""
        self.kv.close()


def _make_durable_folder(path: Path) -> None:
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    own_files.make_folder(path)
    for parent in made:
        files.flush_folder(parent.parent)


def _close_to_others(path: Path) -> None:
    """Leave nobody but its owner in a folder that is complete; what is in it was once made for all to read."""
    owner, user = path.stat().st_uid, os.geteuid()
    if owner != user:
        log.warning("storage.other_owner path=%s owner=%d user=%d: it cannot read what is made", path, owner, user)
    own_files.close_to_others(path)
    # The last one to be closed: with it all has been.
    form = path / _FORMAT
    if not own_files.is_closed(form):
        left = own_files.close_all_to_others(path / part for part in sorted(_OURS - {_FORMAT}))
        own_files.close_to_others(form)
        log.info("storage.closed_to_others path=%s left=%d", path, left)


def _read_format(path: Path, url: str) -> str | None:
    """The storage id; None when the folder has not been completed."""
    try:
        content = (path / _FORMAT).read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError:
        fields = None
    version = fields.get("format") if isinstance(fields, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise StorageFormatError(
            url,
            f"it has format {version}, and this release reads formats up to {FORMAT_VERSION}",
            "Install the release that wrote it, or a later one.",
        )
    storage_id = fields.get("storage_id") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1 or not isinstance(storage_id, str) or not storage_id:
        raise StorageCorruptError(
            url, f"FORMAT is not readable: {content[:60]!r}", "Restore the file from a backup, or give another folder."
        )
    return storage_id


def _complete(path: Path, url: str) -> str:
    """Make what is missing in a folder without FORMAT, and FORMAT at the end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # One at a time: two that make the same folder must not give it two ids.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        storage_id = _read_format(path, url)
        if storage_id is not None:
            return storage_id
        files.clear_temporary(path)
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in _OURS)
        if foreign:
            raise StorageFormatError(
                url, f"it is not a Holdfast storage and not empty: it has {foreign[0]!r}", "Give a new or empty folder."
            )
        records = LmdbStore(path / _RECORDS)
        try:
            with records.read() as transaction:
                if next(transaction.scan(b""), None) is not None:
                    raise StorageCorruptError(
                        url, "FORMAT is missing from a folder with records", "Restore FORMAT from a backup."
                    )
        finally:
            records.close()
        BlobStore(path / _BLOBS)
        CodeStore(path / _CODE)
        files.flush_folder(path)
        storage_id = secrets.token_hex(16)
        content = orjson.dumps({"format": FORMAT_VERSION, "storage_id": storage_id})
        files.write_whole(path, _FORMAT, [content], durable=True, url=url)
        return storage_id
    finally:
        os.close(descriptor)
