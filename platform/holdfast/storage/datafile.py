"""Whether an LMDB data file can be mapped without killing the process.

LMDB trusts its file: a page that lies beyond the end of a truncated file is a
SIGBUS, not an error. So the file is read here first, by ordinary reads, before
anything is mapped. Nothing here writes, and nothing here is needed by a store
that is already open.

The layout is that of LMDB 0.9 (data version 1) on a 64-bit machine of this
byte order; see `mdb.c`, "MDB_page", "MDB_meta", "MDB_node".
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from holdfast.engine.errors import StorageCorruptError

_MAGIC, _DATA_VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG_VALUE = 0x01
_NO_PAGE = 2**64 - 1
_PAGE_HEADER = struct.Struct("=QHHHH")
_META_BODY = struct.Struct("=IIQQ")
_TREE = struct.Struct("=IHHQQQQQ")
_META_TAIL = struct.Struct("=QQ")
_NODE = struct.Struct("=HHHH")
_META_BYTES = _PAGE_HEADER.size + _META_BODY.size + 2 * _TREE.size + _META_TAIL.size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meta:
    page_bytes: int
    roots: tuple[int, int]
    last_page: int
    transaction: int


class _Damage(Exception):
    """What is wrong with the file, in words. Never leaves this module."""


def check_data_file(path: Path, url: str, *, deep: bool = False) -> None:
    """Refuse a data file that is truncated, or that LMDB did not write.

    Args:
        path: The `data.mdb`.
        url: What the error names.
        deep: Follow every page. Otherwise that is done only where the file is shorter than its header says,
            which is right for a store whose last pages were freed before they were ever written.

    Raises:
        StorageCorruptError: Empty, too short, not an LMDB file, or pages in use are missing or overwritten.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Another process may commit while we read, and then reuse the pages we are following. A finding
        # counts only if no commit came in between; a store that keeps committing is a store that works.
        for _ in range(20):
            meta = _read_meta(descriptor)
            try:
                _check_pages(descriptor, meta, deep)
                return
            except _Damage:
                if _read_meta(descriptor).transaction == meta.transaction:
                    raise
    except _Damage as damage:
        raise StorageCorruptError(
            url, f"{path.name} {damage}", "Restore the folder from a backup, or give another one."
        ) from None
    finally:
        os.close(descriptor)


def _read_meta(descriptor: int) -> _Meta:
    first = _parse_meta(os.pread(descriptor, _META_BYTES, 0), 0)
    second = _parse_meta(os.pread(descriptor, _META_BYTES, first.page_bytes), 1)
    return second if second.transaction > first.transaction else first


def _parse_meta(page: bytes, number: int) -> _Meta:
    if len(page) < _META_BYTES:
        raise _Damage(f"is truncated: header page {number} is missing")
    _, _, flags, _, _ = _PAGE_HEADER.unpack_from(page)
    at = _PAGE_HEADER.size
    magic, version, _, _ = _META_BODY.unpack_from(page, at)
    if magic != _MAGIC or not flags & _META:
        raise _Damage(f"is not an LMDB file: header page {number} is not one")
    if version & 0xFFFF != _DATA_VERSION:
        raise _Damage(f"has LMDB data version {version}, not {_DATA_VERSION}")
    at += _META_BODY.size
    free, main = _TREE.unpack_from(page, at), _TREE.unpack_from(page, at + _TREE.size)
    last_page, transaction = _META_TAIL.unpack_from(page, at + 2 * _TREE.size)
    page_bytes = free[0]
    if not 256 <= page_bytes <= 65536 or page_bytes & (page_bytes - 1):
        raise _Damage(f"has a damaged header page {number}: pages of {page_bytes} bytes")
    return _Meta(page_bytes=page_bytes, roots=(free[-1], main[-1]), last_page=last_page, transaction=transaction)


def _check_pages(descriptor: int, meta: _Meta, deep: bool) -> None:
    file_bytes = os.fstat(descriptor).st_size
    if file_bytes < 2 * meta.page_bytes:
        raise _Damage("is truncated: it ends inside its header")
    follow = deep or file_bytes < (meta.last_page + 1) * meta.page_bytes
    pending = [root for root in meta.roots if root != _NO_PAGE]
    seen: set[int] = set()
    while pending:
        number = pending.pop()
        if number in seen:
            raise _Damage(f"is damaged: page {number} is used twice")
        seen.add(number)
        page = _read_page(descriptor, meta, number)
        if follow:
            pending.extend(_children(descriptor, meta, page, number, file_bytes))


def _read_page(descriptor: int, meta: _Meta, number: int) -> bytes:
    if number > meta.last_page:
        raise _Damage(f"is damaged: page {number} is used, and {meta.last_page} is the last")
    page = os.pread(descriptor, meta.page_bytes, number * meta.page_bytes)
    if len(page) < meta.page_bytes:
        raise _Damage(f"is truncated: page {number} of {meta.last_page} is missing")
    stored, _, flags, lower, upper = _PAGE_HEADER.unpack_from(page)
    if stored != number or not flags & (_BRANCH | _LEAF) or not _PAGE_HEADER.size <= lower <= upper <= meta.page_bytes:
        raise _Damage(f"is damaged: page {number} was overwritten")
    return page


def _children(descriptor: int, meta: _Meta, page: bytes, number: int, file_bytes: int) -> list[int]:
    """Pages that a branch points at; for a leaf none, after its large values were checked to be there."""
    _, _, flags, lower, _ = _PAGE_HEADER.unpack_from(page)
    children: list[int] = []
    for (offset,) in struct.iter_unpack("=H", page[_PAGE_HEADER.size : lower]):
        if not lower <= offset <= meta.page_bytes - _NODE.size:
            raise _Damage(f"is damaged: page {number} was overwritten")
        low, high, node_flags, key_bytes = _NODE.unpack_from(page, offset)
        if flags & _BRANCH:
            children.append(low | high << 16 | node_flags << 32)
        elif node_flags & _BIG_VALUE:
            at = offset + _NODE.size + key_bytes
            if at + 8 > meta.page_bytes:
                raise _Damage(f"is damaged: page {number} was overwritten")
            _check_large_value(descriptor, meta, int.from_bytes(page[at : at + 8], sys.byteorder), file_bytes)
    return children


def _check_large_value(descriptor: int, meta: _Meta, number: int, file_bytes: int) -> None:
    header = os.pread(descriptor, _PAGE_HEADER.size, min(number, meta.last_page + 1) * meta.page_bytes)
    if len(header) < _PAGE_HEADER.size:
        raise _Damage(f"is truncated: page {number} of {meta.last_page} is missing")
    stored, _, flags, low, high = _PAGE_HEADER.unpack(header)
    if stored != number or not flags & _OVERFLOW:
        raise _Damage(f"is damaged: page {number} was overwritten")
    if (number + (low | high << 16)) * meta.page_bytes > file_bytes:
        raise _Damage(f"is truncated: the large value at page {number} is cut off")
