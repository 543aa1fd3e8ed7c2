"""Functions, classes and packages, as bytes named by their hash.

What a workflow needs to run again is found here by a name that says what it
must be. Nothing is loaded or executed here, and deleted only by who knows that
nothing names it (`code_garbage.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from holdfast.engine.errors import StorageCorruptError, StorageMissingError
from holdfast.storage import files, own_files

_ASIDE = ".going"
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
            if not self._wants_again(path, name):
                files.write_whole(path.parent, name, [content], durable=True, url=url)
            files.flush_folder(self.root)
        except OSError as error:
            raise files.file_error(error, url) from error
        self._durable.add(name)
        return name

    @staticmethod
    def _wants_again(path: Path, name: str) -> bool:
        """Whether some content is there already; it is durable then."""
        try:
            if not path.is_file() or hash_of(path.read_bytes()) != name:
                return False
            # Its time says that it is wanted again: it may be named by no row yet.
            os.utime(path)
            # It may have been written by a process that died before it flushed the folder.
            files.flush(path)
        except FileNotFoundError:
            return False
        files.flush_folder(path.parent)
        return True

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

    def size(self, name: str) -> int:
        """How many bytes the content with a hash has; 0 when it is not there."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def has(self, name: str) -> bool:
        """Whether content with this hash was stored."""
        return self._path(name).is_file()

    def names_before(self, unix_s: float) -> list[str]:
        """Find the hashes of content that was not stored, or stored again, since a time, in seconds since the epoch."""
        return [
            entry.name
            for shelf in self.root.iterdir()
            if shelf.is_dir()
            for entry in os.scandir(shelf)
            if _HASH.match(entry.name) and entry.stat().st_mtime < unix_s
        ]

    def remove(self, name: str, unless_since_unix_s: float) -> bool:
        """Remove content unless it was stored again since a time. Returns whether it is gone."""
        path = self._path(name)
        # Out of the way first: whoever stores it at this moment either finds it, and it comes back, or writes it anew.
        aside = path.with_name(f"{name}{_ASIDE}")
        try:
            os.rename(path, aside)
            if aside.stat().st_mtime < unless_since_unix_s:
                aside.unlink()
                return True
            os.rename(aside, path)
        except FileNotFoundError:
            return False
        return False

    def collect_garbage(self) -> int:
        """Remove the temporary files of writers that died. Returns how many. Disturbs nobody."""
        shelves = [shelf for shelf in self.root.iterdir() if shelf.is_dir()]
        for shelf in shelves:
            # A removal that was cut short: what is named by nothing is removed anew.
            for aside in shelf.glob(f"*{_ASIDE}"):
                os.rename(aside, aside.with_suffix(""))
        return sum(map(files.clear_temporary, shelves))

    def _path(self, name: str) -> Path:
        if not _HASH.match(name):
            raise ValueError(f"{name[:100]!r} is not the hash of code: it has 32 of '0-9a-f'")
        return self.root / name[:2] / name
