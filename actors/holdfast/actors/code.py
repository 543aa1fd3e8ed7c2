"""The user's functions and classes as bytes, stored once by hash.

Code of modules that are not installed is pickled by value, with all it
reaches, so that a resume runs what was submitted after the source was edited
or deleted. Installed packages, our own modules, and modules that a Ray
`runtime_env` ships are named by reference: they are there wherever the task
runs. Nothing here knows graphs, values or the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import pickle
import site
import sys
import sysconfig
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle
from ray.dag.base import DAGNodeBase

from holdfast.actors.carried_modules import Source, find_carried, load_carrying
from holdfast.actors.class_identities import is_by_value, is_settled
from holdfast.actors.code_pickler import HANDLES, ActorHandleMetError, dump, settle
from holdfast.actors.held_by_code import find_held
from holdfast.actors.user_code import runs_user_code, said_by, user_hooks, what_ended
from holdfast.engine.errors import ResultNotStoredError, StepNotPicklableError

_INSTALLED_PARTS = frozenset({"site-packages", "dist-packages"})
# Ray unpacks working_dir and py_modules packages under <session>/runtime_resources: they travel with the job.
_SHIPPED_PART = "runtime_resources"
_INSTALLED_ROOTS = tuple(
    str(Path(root).resolve())
    for root in {
        *(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
    }
)


_log = logging.getLogger(__name__)

# Ray's cloudpickle has no type hints.
cloudpickle: Any = ray.cloudpickle

# What `decode` keeps alive: a worker that serves many jobs must not keep all their code for ever.
_KEPT = 1024


def hash_code(pickled: bytes) -> str:
    """Name of a piece of code in the store: blake2b, 128 bits, hex."""
    return hashlib.blake2b(pickled, digest_size=16).hexdigest()


class CodeBook:
    """Functions and classes <-> (hash, bytes), each pickled once and loaded once in this process.

    Semantics: one object keeps one hash for as long as it lives, also when it
    came out of `decode`: a function that binds itself again and again adds
    nothing to the store. A change of a global that the function reads, after
    it was first encoded, is not seen.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._encoded: dict[int, tuple[weakref.ref[Any], str, bytes]] = {}
        self._alive: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Any] = OrderedDict()

    def encode(self, code: Any) -> tuple[str, bytes]:
        """Pickle a function, class or other callable.

        Returns:
            The hash to store it under, and the bytes.

        Raises:
            ResultNotStoredError: It, or something it refers to, cannot be pickled.
        """
        key = id(code)
        with self._lock:
            known = self._encoded.get(key)
            if known is not None and known[0]() is code:
                return known[1], known[2]
        # Not under the lock: a reference that it holds may be of something that is being made.
        pickled = dump_code(code)
        digest = hash_code(pickled)
        with self._lock:
            self._remember(code, digest, pickled)
        return digest, pickled

    def decode(self, digest: str, pickled: bytes) -> Any:
        """Load code that `encode` made; the same hash gives the same object within this process."""
        with self._lock:
            known = self._recent.get(digest) or self._alive.get(digest)
            if known is not None:
                return known
        # Not under the lock: loading may import user modules, and those may decode other code in another thread.
        with user_hooks:
            code = pickle.loads(pickled)
        with self._lock:
            code = self._alive.get(digest) or code
            self._recent[digest] = code
            if len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
            self._remember(code, digest, pickled)
        return code

    def _remember(self, code: Any, digest: str, pickled: bytes) -> None:
        key = id(code)
        # Some callables (slots without __weakref__) cannot be watched; they are pickled anew each time.
        with contextlib.suppress(TypeError):
            self._encoded[key] = (weakref.ref(code, lambda _: self._forget(key)), digest, pickled)
            self._alive[digest] = code

    def _forget(self, key: int) -> None:
        # No lock: a weak reference dies at any moment, also while this thread holds it; dict.pop is atomic.
        found = self._encoded.get(key)
        if found is not None and found[0]() is None:
            self._encoded.pop(key, None)


BOOK = CodeBook()
"""The book of this process."""


def dump_code(code: Any) -> bytes:
    """Pickle code (or a tuple of classes), what is not installed by value, with the contents of ObjectRefs it holds.

    Raises:
        ResultNotStoredError: It, or something it refers to, cannot be pickled; it holds an actor handle or a step.
    """
    carried = find_carried(code, _is_users)
    contents: dict[str, Any] = {}
    while True:
        pickled, missing = _dump_once(code, contents)
        if not missing:
            return _carrying(carried, pickled)
        # Not while it is pickled: others would wait for it. What they hold may hold further ones.
        contents.update(zip(missing, ray.get(list(missing.values())), strict=True))


def _dump_once(code: Any, contents: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    try:
        with user_hooks, _by_value(_loaded_user_modules()):
            return dump(code, contents)
    except Exception as error:  # noqa: BLE001 - whatever a user's own __reduce__ raises; what stays is raised below
        _refuse_held(code, error)
        # Something it reaches cannot be pickled (a module's lock, a connection). Its modules are then imported
        # by name in the worker, as Ray itself does.
        _log.info("code_by_reference name=%s reason=%s", getattr(code, "__qualname__", code), said_by(error))
    try:
        with user_hooks:
            pickled, missing = dump(code, contents)
    except Exception as error:  # noqa: BLE001 - raised again, from what the user's code was ended by
        _refuse_held(code, error)
        name = getattr(code, "__qualname__", None) or repr(code)
        raise ResultNotStoredError(
            f"the function or class {name!r} cannot be pickled: {said_by(error)}",
            "Make what it refers to (globals, closures, defaults) picklable, or create it inside the function.",
        ) from what_ended(error)
    # Other classes of that module must follow, or `isinstance` in its functions would meet copies of them.
    _REFERENCED.add(getattr(code, "__module__", None) or "")
    return pickled, missing


def _refuse_held(code: Any, error: Exception) -> None:
    """Refuse what code must not hold, wherever it could be imported from.

    Raises:
        ResultNotStoredError: Names the variable.
    """
    name = getattr(code, "__qualname__", None) or repr(code)
    if isinstance(error, ActorHandleMetError):
        where, handle = find_held(code, lambda part: isinstance(part, HANDLES))
        raise ResultNotStoredError(
            f"the code of {name!r} holds an actor handle, which dies with the cluster: {handle!r}{where}",
            "Instead, give the actor a name and ray.get_actor it inside the function.",
        ) from error
    if isinstance(error, StepNotPicklableError):
        where, step = find_held(code, lambda part: isinstance(part, DAGNodeBase))
        raise ResultNotStoredError(
            f"the code of {name!r} holds {step!r}{where}, which belongs to the process that made it",
            "Instead, call .step(...) inside the function, or pass it as an argument.",
        ) from error


@runs_user_code
def settle_class(code: type) -> None:
    """Give a class that goes by value in a user's value the identity that it has in code."""
    if not is_settled(code):
        with _by_value(_loaded_user_modules()):
            if is_by_value(code):
                settle(code)


def _carrying(carried: Mapping[str, Source], pickled: bytes) -> bytes:
    return pickle.dumps(_Carrying(carried, pickled), protocol=5) if carried else pickled


class _Carrying:
    """Pickled code that becomes itself where it is unpickled, its modules at hand."""

    def __init__(self, modules: Mapping[str, Source], pickled: bytes) -> None:
        # In an order of its own, so that the same code has the same hash.
        self._parts = (dict(sorted(modules.items())), pickled)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_carrying, self._parts


def named_code(code: type | types.FunctionType) -> tuple[str, str, str, bytes] | None:
    """How a class or function inside a value is stored: None when its plain name will do.

    Returns:
        Module, qualified name, hash and bytes, for code of the user's own that an import might
        find, might find changed, or might not find at all.
    """
    name, qualified = code.__module__, code.__qualname__
    if "<" in qualified or not isinstance(name, str) or name in _REFERENCED:
        return None
    module = sys.modules.get(name)
    if module is not None and name not in ("__main__", "__mp_main__") and not is_user_module(module):
        return None
    digest, pickled = BOOK.encode(code)
    return name, qualified, digest, pickled


def load_named_code(module: str, qualified: str, digest: str, pickled: bytes, *, prefer_import: bool) -> Any:
    """Load what `named_code` stored.

    Args:
        module: Name of the module that defined it.
        qualified: Its qualified name there.
        digest: Its hash.
        pickled: Its bytes, used when the name is not to be used or leads nowhere.
        prefer_import: True where a user reads a value: `isinstance` with his own, imported class must hold.
            False where a task runs: its function carries its own classes, and must meet the same ones.
    """
    if prefer_import:
        with contextlib.suppress(ImportError, AttributeError):
            found: Any = sys.modules.get(module) or importlib.import_module(module)
            for part in qualified.split("."):
                found = getattr(found, part)
            if isinstance(found, (type, types.FunctionType)):
                return found
    return BOOK.decode(digest, pickled)


def is_user_module(module: types.ModuleType) -> bool:
    """Whether a module is the user's own source: neither installed, nor ours, nor shipped by a `runtime_env`."""
    name = module.__name__
    origin = getattr(module, "__file__", None)
    if not isinstance(origin, str):
        return False
    return _is_users(name, origin)


def _is_users(name: str, origin: str) -> bool:
    verdict = _VERDICTS.get((name, origin))
    if verdict is None:
        verdict = _VERDICTS[name, origin] = _judge(name, origin)
    return verdict


_VERDICTS: dict[tuple[str, str], bool] = {}
_REFERENCED: set[str] = set()
_REGISTRY_LOCK = threading.RLock()


def _judge(name: str, origin: str) -> bool:
    if name in ("__main__", "__mp_main__") or name.partition(".")[0] in ("holdfast", "ray"):
        return False
    # To follow the links of every path takes long, and hundreds of modules are plain files of a few folders.
    return not _is_installed_in(os.path.dirname(os.path.realpath(origin) if os.path.islink(origin) else origin))


@lru_cache(maxsize=4096)
def _is_installed_in(folder: str) -> bool:
    path = Path(folder).resolve()
    parts = set(path.parts)
    if parts & _INSTALLED_PARTS or _SHIPPED_PART in parts:
        return True
    return any(f"{path}/".startswith(f"{root}/") for root in _INSTALLED_ROOTS)


def _loaded_user_modules() -> list[types.ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and module.__name__ == name and is_user_module(module)
    ]


@contextlib.contextmanager
def _by_value(modules: list[types.ModuleType]) -> Iterator[None]:
    """Have cloudpickle take these modules by value, for this one pickling: its register is global to the process."""
    with _REGISTRY_LOCK:
        already = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in modules if module.__name__ not in already and module.__name__ not in _REFERENCED]
        try:
            for module in added:
                cloudpickle.register_pickle_by_value(module)
            yield
        finally:
            for module in added:
                with contextlib.suppress(ValueError):
                    cloudpickle.unregister_pickle_by_value(module)
