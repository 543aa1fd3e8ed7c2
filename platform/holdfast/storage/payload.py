"""A pickled value and its large buffers, as bytes that can be mapped.

Only the framing lives here: nothing is pickled or unpickled, and no file is
opened. A buffer begins at a multiple of 64 bytes, so an array read back from a
mapped file is aligned and is the file's own pages.

    "hfp" version:1 crc32:4 buffers:4 inband:8, then 8 for the size of each
    buffer, the in-band bytes, and the buffers, each aligned (little endian;
    the checksum is over the sizes, not over the content)
"""

from __future__ import annotations

import pickle
import struct
import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.engine.errors import StorageCorruptError

Buffer: TypeAlias = bytes | bytearray | memoryview | pickle.PickleBuffer

_MAGIC, _VERSION = b"hfp", 1
_HEADER = struct.Struct("<3sBIIQ")
_CRC_FROM = 8
_ALIGNMENT = 64
_MENDING = "Restore the folder from a backup, or run again what made the value."


@dataclass(frozen=True, slots=True)
class Payload:
    """A value pickled by protocol 5.

    Attributes:
        inband: The pickle.
        buffers: What the pickle refers to out of band, in its order; contiguous. Those that were read back
            are read-only views that keep the bytes they came from alive.
    """

    inband: bytes | memoryview
    buffers: tuple[Buffer, ...] = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[object, ...]:
        # By itself a frozen dataclass with slots pickles field by field in Python: several times slower. Views become
        # PickleBuffers only here: one over a view, in a cycle (as tracebacks make them), crashes the garbage
        # collector of CPython.
        inband = self.inband if isinstance(self.inband, bytes) else bytes(self.inband)
        if not self.buffers:
            return Payload, (inband,)
        out_of_band = pickle.PickleBuffer if protocol >= 5 else bytes
        return Payload, (
            inband,
            tuple(out_of_band(part) if isinstance(part, memoryview) else part for part in self.buffers),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the value, without the framing."""
        return len(self.inband) + sum(memoryview(buffer).nbytes for buffer in self.buffers)


def frame(payload: Payload) -> list[memoryview]:
    """The pieces of the encoded form, in order; large ones are the payload's own memory, not copies.

    Raises:
        BufferError: A buffer is not contiguous.
    """
    inband = memoryview(payload.inband).cast("B")
    raw = [pickle.PickleBuffer(buffer).raw() for buffer in payload.buffers]
    sizes = struct.pack(f"<IQ{len(raw)}Q", len(raw), inband.nbytes, *(view.nbytes for view in raw))
    head = struct.pack("<3sBI", _MAGIC, _VERSION, zlib.crc32(sizes)) + sizes
    pieces = [memoryview(head), inband]
    at = len(head) + inband.nbytes
    for view in raw:
        padding = -at % _ALIGNMENT
        pieces += (memoryview(bytes(padding)), view)
        at += padding + view.nbytes
    return pieces


def encode(payload: Payload) -> bytes:
    """The encoded form in one piece: 20 bytes more than the pickle when there are no buffers."""
    return b"".join(frame(payload))


def decode(encoded: bytes | memoryview, source: str = "an inline value") -> Payload:
    """Read an encoded payload without copying.

    Args:
        encoded: All of it. It stays alive as long as the result.
        source: What an error names.

    Raises:
        StorageCorruptError: Truncated, too long, or not an encoded payload.
    """
    view = memoryview(encoded).toreadonly()
    if view.nbytes < _HEADER.size:
        raise StorageCorruptError(source, f"truncated: {view.nbytes} bytes are less than a header", _MENDING)
    magic, version, crc, count, inband_bytes = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise StorageCorruptError(source, "not a stored value: it begins with other bytes", _MENDING)
    if version != _VERSION:
        raise StorageCorruptError(source, f"written in format {version}; this release reads {_VERSION}", _MENDING)
    at = _HEADER.size + 8 * count
    if view.nbytes < at:
        raise StorageCorruptError(source, f"truncated: {view.nbytes} bytes of at least {at}", _MENDING)
    if zlib.crc32(view[_CRC_FROM:at]) != crc:
        raise StorageCorruptError(source, "its header is damaged", _MENDING)
    sizes = struct.unpack_from(f"<{count}Q", view, _HEADER.size)
    bounds = [(at, at + inband_bytes)]
    for size in sizes:
        begin = bounds[-1][1] + -bounds[-1][1] % _ALIGNMENT
        bounds.append((begin, begin + size))
    if view.nbytes != bounds[-1][1]:
        problem = "truncated" if view.nbytes < bounds[-1][1] else "too long"
        raise StorageCorruptError(source, f"{problem}: {view.nbytes} bytes of {bounds[-1][1]}", _MENDING)
    inband, *buffers = (view[begin:end] for begin, end in bounds)
    return Payload(inband, tuple(buffers))
