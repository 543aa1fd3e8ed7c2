"""The runtime environment of a job, as it is stored with its workflows.

Its packages are read out of the cluster when it is first met, and put back
into a cluster that lacks them before a task needs them: a workflow runs in the
environment it was submitted from, wherever and whenever. Nothing here looks
into a package or at a workflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import ray
from ray.runtime_env import RuntimeEnv

from holdfast.actors import cluster_packages
from holdfast.actors.plain_variables import warn_of_serialized
from holdfast.engine.errors import ResultNotStoredError
from holdfast.storage.code import CodeStore

_NO_ENVIRONMENT = ("", "{}")
_KEEP_S = 24 * 3600
# A task may wait long for a place in the cluster: its packages are kept well beyond the next look at them.
_LOOK_AGAIN_S = 3600.0


def capture_environment() -> bytes:
    """Give the runtime environment of the calling process, in Ray's form; empty when it has none.

    It is about to be stored: what would be stored of it that may be secret is warned of.
    """
    context: Any = ray.get_runtime_context()
    serialized: str = context.get_runtime_env_string()
    if serialized in _NO_ENVIRONMENT:
        return b""
    warn_of_serialized(serialized)
    return serialized.encode()


def merge_environments(job: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a task runs in: its own environment over its job's, variable by variable, as Ray merges them."""
    merged = {**job, **own}
    if job.get("env_vars") and own.get("env_vars"):
        merged["env_vars"] = {**job["env_vars"], **own["env_vars"]}
    return merged


@dataclass(slots=True)
class _Loaded:
    environment: RuntimeEnv
    packages: Mapping[str, str]
    looked_s: float


class Environments:
    """Environments <-> their hashes in the code store, each stored once and looked after while it is used.

    Args:
        code: Where they and their packages are stored.
        clock: Seconds, never back.
    """

    def __init__(self, code: CodeStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._code, self._clock = code, clock
        self._stored: dict[bytes, str] = {}
        self._loaded: dict[str, _Loaded] = {}

    def stored(self, captured: bytes) -> str | None:
        """The hash of an environment that has been stored already; "" for none, None when it has not."""
        return self._stored.get(captured) if captured else ""

    def store(self, captured: bytes) -> str:
        """Make an environment durable, its packages first. Blocks; any thread.

        Returns:
            Its hash.

        Raises:
            ResultNotStoredError: The cluster has lost one of its packages.
            StorageError: It could not be written.
        """
        digest = self.stored(captured)
        if digest is not None:
            return digest
        environment = orjson.loads(captured)
        packages = {uri: self._store_package(uri) for uri in _package_uris(environment)}
        form = {"runtime_env": environment, "packages": packages}
        digest = self._code.put(orjson.dumps(form, option=orjson.OPT_SORT_KEYS))
        self._stored[captured] = digest
        return digest

    def load(self, digest: str) -> RuntimeEnv:
        """An environment to run something in. Its packages are in the cluster from now on, for a day at least.

        Raises:
            StorageMissingError: It, or a package of it, was never stored.
        """
        known = self._loaded.get(digest)
        if known is None:
            form = orjson.loads(self._code.get(digest))
            known = _Loaded(RuntimeEnv.deserialize(orjson.dumps(form["runtime_env"]).decode()), form["packages"], 0.0)
            self._supply(known)
            self._loaded[digest] = known
        elif self._clock() - known.looked_s > _LOOK_AGAIN_S:
            self._supply(known)
        return known.environment

    def _store_package(self, uri: str) -> str:
        content = cluster_packages.read(uri)
        if content is None:
            raise ResultNotStoredError(
                f"the runtime environment's package {uri} is not in the cluster any more",
                "Connect to Ray anew: ray.init uploads the working_dir and py_modules again.",
            )
        # The job that brought it may end, and the cluster forget it, before all of its workflows' tasks have begun.
        cluster_packages.keep(uri, _KEEP_S)
        return self._code.put(content)

    def _supply(self, loaded: _Loaded) -> None:
        loaded.looked_s = self._clock()
        for uri, digest in loaded.packages.items():
            # Kept first: a package that is there cannot go between the look and the use.
            cluster_packages.keep(uri, _KEEP_S)
            if not cluster_packages.exists(uri):
                cluster_packages.put(uri, self._code.get(digest))


def _package_uris(environment: Mapping[str, Any]) -> Iterator[str]:
    """The packages that only this cluster has. Those of other schemes are where they say."""
    found = [environment.get("working_dir"), *(environment.get("py_modules") or ())]
    yield from dict.fromkeys(uri for uri in found if isinstance(uri, str) and uri.startswith(cluster_packages.SCHEME))
