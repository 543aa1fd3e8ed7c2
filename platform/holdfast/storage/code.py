"""Functions, classes and packages, as bytes named by their hash.

What a workflow needs to run again is found here by a name that says what it
must be. Nothing is loaded, executed or deleted here.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from holdfast.engine.errors import StorageCorruptError, StorageMissingError
from holdfast.storage import files, own_files

_HASH = re.compile(r"[0-9a-f]{32}\Z")


def hash_of(content: bytes) -> str:
    """The name of some content: BLAKE2b of 128 bits, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class CodeStore:
    """Content by hash under one folder, which is made when it is not there. Any thread and process may use it.

    Raises:
        StorageNotWritableError: The folder cannot be made.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self.url = self.root.as_uri()
        self._durable: set[str] = set()
        try:
            own_files.make_folder(self.root)
        except OSError as error:
            raise files.file_error(error, self.url) from error

    def put(self, content: bytes) -> str:
        """Store content, once however often it is given. Durable on return.

        Returns:
            Its hash.

        Raises:
            StorageFullError: No space; nothing was written.
        """
        name = hash_of(content)
        if name in self._durable:
            return name
        path = self._path(name)
        url = f"{self.url}/{name}"
        try:
            own_files.make_folder(path.parent)
            if path.is_file() and hash_of(path.read_bytes()) == name:
                # It may have been written by a process that died before it flushed the folder.
                files.flush(path)
                files.flush_folder(path.parent)
            else:
                files.write_whole(path.parent, name, [content], durable=True, url=url)
            files.flush_folder(self.root)
        except OSError as error:
            raise files.file_error(error, url) from error
        self._durable.add(name)
        return name

    def get(self, name: str) -> bytes:
        """The content with this hash.

        Raises:
            StorageMissingError: It was never stored.
            StorageCorruptError: What is stored has another hash.
        """
        url = f"{self.url}/{name}"
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError:
            raise StorageMissingError(
                url, "no such code", "Restore the folder from a backup, or submit the workflow again."
            ) from None
        except OSError as error:
            raise files.file_error(error, url) from error
        if hash_of(content) != name:
            raise StorageCorruptError(
                url, f"its {len(content)} bytes have another hash", "Restore the folder from a backup."
            )
        return content

    def has(self, name: str) -> bool:
        """Whether content with this hash was stored."""
        return self._path(name).is_file()

    def collect_garbage(self) -> int:
        """Remove the temporary files of writers that died. Returns how many. Disturbs nobody."""
        return sum(files.clear_temporary(shelf) for shelf in self.root.iterdir() if shelf.is_dir())

    def _path(self, name: str) -> Path:
        if not _HASH.match(name):
            raise ValueError(f"{name[:100]!r} is not the hash of code: it has 32 of '0-9a-f'")
        return self.root / name[:2] / name
