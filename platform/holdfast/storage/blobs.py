"""Large values, one file each, in groups that are deleted together.

A blob is written before the record that names it and never changed. The room
knows groups and names, not what they are for, and takes neither as a path:
both are checked against a small alphabet first.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import shutil
from pathlib import Path

from holdfast.engine.errors import StorageMissingError
from holdfast.storage import files, own_files
from holdfast.storage.memory_copies import MemoryCopies
from holdfast.storage.payload import Payload, decode, frame

_NAME = re.compile(r"[0-9a-f][0-9a-f.-]{0,127}\Z")
_GIVEN = re.compile(r"[0-9a-f]{32}\Z")
_DELETED = ".deleted-"


class BlobStore:
    """Blobs under one folder, which is made when it is not there. Any thread and process may use it.

    Attributes:
        copies: What of them is in memory, too, for a while.

    Raises:
        StorageNotWritableError: The folder cannot be made.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()
        self.url = self.root.as_uri()
        self.copies = MemoryCopies(self.root)
        try:
            own_files.make_folder(self.root)
        except OSError as error:
            raise files.file_error(error, self.url) from error

    def write(self, group: str, payload: Payload, *, name: str | None = None, durable: bool = True) -> str:
        """Store a value.

        Args:
            group: Which blobs it is deleted with: 1 to 128 of `0-9a-f.-`, beginning with `0-9a-f`.
            payload: Its buffers are written from where they are.
            name: Of the same form, and not 32 digits of hex: those are the random ones, when none is given.
            durable: Whether it survives the loss of the machine from the moment this returns. Otherwise it
                survives the loss of the process.

        Returns:
            The key, "group/name".

        Raises:
            ValueError: `group` or `name` is not of that form.
            StorageFullError: No space; nothing was written.
            StorageError: The group was deleted meanwhile.

        Semantics: nobody sees a part of it. Safe to repeat: under a name that exists nothing is written,
        whatever the payload, and what is there is as durable as was asked for.
        """
        chosen = _checked("name", secrets.token_hex(16) if name is None else name)
        folder = self.root / _checked("group", group)
        key = f"{group}/{chosen}"
        url = f"{self.url}/{key}"
        try:
            own_files.make_folder(folder)
            if name is not None and (folder / chosen).exists():
                if durable:
                    files.flush(folder / chosen)
                    files.flush_folder(folder)
            else:
                pieces = frame(payload)
                if durable and name is None:
                    # Under a name that nobody has used before there can be no copy of something else.
                    with self.copies.kept(group, chosen, pieces) as copied:
                        files.write_whole(folder, chosen, pieces, durable=True, url=url, cached=not copied)
                else:
                    files.write_whole(folder, chosen, pieces, durable=durable, url=url)
            if durable:
                # Also when the group was there: who made it may not have come to this line yet.
                files.flush_folder(self.root)
        except OSError as error:
            raise files.file_error(error, url) from error
        return key

    def link_group(self, group: str, other: str) -> None:
        """Give all blobs of a group to another one too, under the same names. Durable on return.

        Args:
            group: Where they are.
            other: Where they are to be as well; made when it is not there.

        Raises:
            ValueError: A group is not of the form that `write` says.
            StorageError: It cannot be done.

        Semantics: the content is shared, and each group is deleted without the other losing anything. Safe to
        repeat.
        """
        folder, target = self.root / _checked("group", group), self.root / _checked("group", other)
        url = f"{self.url}/{other}"
        try:
            own_files.make_folder(target)
            for key in self.keys(group):
                name = key.partition("/")[2]
                if not (target / name).exists():
                    os.link(folder / name, target / name)
            files.flush_folder(target)
            files.flush_folder(self.root)
        except OSError as error:
            raise files.file_error(error, url) from error

    def read(self, key: str) -> Payload:
        """Map a blob.

        Returns:
            Its in-band bytes and buffers as read-only views of the file, which stay valid after it is deleted.

        Raises:
            StorageMissingError: No such blob.
            StorageCorruptError: It is truncated, or not a blob.
        """
        path, url = self._path(key), f"{self.url}/{key}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StorageMissingError(url, "no such blob", "It was deleted with its workflow, or by hand.") from None
        except OSError as error:
            raise files.file_error(error, url) from error
        try:
            size = os.fstat(descriptor).st_size
            group, _, name = key.partition("/")
            copy = self.copies.take(group, name, size)
            if copy is not None:
                os.close(descriptor)
                descriptor = copy
            # An empty file cannot be mapped, and cannot be a blob.
            mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if size else b""
        finally:
            os.close(descriptor)
        return decode(memoryview(mapped), url)

    def exists(self, key: str) -> bool:
        """Whether there is such a blob."""
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        """Bytes of its file.

        Raises:
            StorageMissingError: No such blob.
        """
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            raise StorageMissingError(
                f"{self.url}/{key}", "no such blob", "It was deleted with its workflow, or by hand."
            ) from None

    def delete(self, key: str) -> bool:
        """Remove one blob; what was read from it stays valid. Returns whether it was there."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise files.file_error(error, f"{self.url}/{key}") from error
        self.copies.drop(*key.split("/"))
        return True

    def delete_group(self, group: str) -> bool:
        """Remove a group at once; what was read from it stays valid. Returns whether it was there."""
        doomed = self.root / f"{_DELETED}{secrets.token_hex(8)}"
        try:
            os.rename(self.root / _checked("group", group), doomed)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise files.file_error(error, self.url) from error
        self.copies.drop(group)
        shutil.rmtree(doomed, ignore_errors=True)
        return True

    def made_before(self, group: str, unix_s: float) -> bool:
        """Whether a group has not been added to since a time, in seconds since the epoch; True when it is gone."""
        try:
            return (self.root / _checked("group", group)).stat().st_mtime < unix_s
        except FileNotFoundError:
            return True

    def groups(self) -> list[str]:
        """Groups there are, sorted."""
        return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir() and _NAME.match(entry.name))

    def keys(self, group: str) -> list[str]:
        """Keys of the blobs of a group, sorted; none for an unknown group."""
        folder = self.root / _checked("group", group)
        try:
            return sorted(f"{group}/{entry.name}" for entry in os.scandir(folder) if _NAME.match(entry.name))
        except FileNotFoundError:
            return []

    def unnamed(self, group: str, before_unix_s: float) -> list[str]:
        """Keys of the blobs of a group that were written without a name before a time, in seconds since the epoch."""
        folder = self.root / _checked("group", group)
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _GIVEN.match(entry.name) and entry.stat().st_mtime < before_unix_s:
                        found.append(f"{group}/{entry.name}")
        except FileNotFoundError:
            # The group, or one of them, has just been removed: what is left is looked at another time.
            return found
        return found

    def clear_unfinished(self, group: str) -> int:
        """Remove from a group what writers that died were writing. Returns how many files. Disturbs nobody."""
        return files.clear_temporary(self.root / _checked("group", group))

    def collect_garbage(self) -> int:
        """Remove what writers and deleters that died have left. Returns how many things. Disturbs nobody."""
        self.copies.clear()
        count = 0
        for doomed in self.root.glob(f"{_DELETED}*"):
            shutil.rmtree(doomed, ignore_errors=True)
            count += 1
        return count + sum(map(self.clear_unfinished, self.groups()))

    def _path(self, key: str) -> Path:
        group, slash, name = key.partition("/")
        if not slash:
            raise ValueError(f"a key of a blob is 'group/name', not {key!r}")
        return self.root / _checked("group", group) / _checked("name", name)


def _checked(what: str, text: str) -> str:
    if not _NAME.match(text):
        raise ValueError(
            f"{what} {text[:200]!r} of a blob: use 1 to 128 of '0-9a-f.-', beginning with '0-9a-f' (a hash, in hex)"
        )
    return text
