"""The packages of runtime environments in the cluster: `gcs://...` URIs and their bytes.

The one place that knows how Ray keeps them: under their URI in the internal
key-value store, until no job, detached actor or pin refers to them. Ray has no
public door to it but for uploading folders, hence the underscores.
"""

from __future__ import annotations

from typing import Any

from ray.experimental import internal_kv

SCHEME = "gcs://"

# Without type hints.
_kv: Any = internal_kv


def read(uri: str) -> bytes | None:
    """A package; None when the cluster does not have it."""
    content: bytes | None = _kv._internal_kv_get(uri)
    return content


def exists(uri: str) -> bool:
    """Whether the cluster has a package."""
    return bool(_kv._internal_kv_exists(uri))


def put(uri: str, content: bytes) -> None:
    """Give the cluster a package. It stays until what refers to it has gone; see `keep`."""
    _kv._internal_kv_put(uri, content)


def keep(uri: str, seconds: int) -> None:
    """Have a package stay, though no job refers to it, for this long."""
    _kv._pin_runtime_env_uri(uri, expiration_s=seconds)
