"""Modules of the user's own that code imports only when it runs.

An `import` inside a function leaves no trace in what pickling reaches. The
source of such modules, and of what they import in turn, travels with the code,
and a worker imports it from there: after the file was edited or deleted, and
whichever other job's module of that name the worker has seen. What is not
carried (a plugin found by its name, a file of the package) is found where it
would be without us. Nothing here is executed at submission.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib.util
import inspect
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

Source = tuple[bytes, bool, str]
"""Source, whether it is a package, and the file it came from."""


def find_carried(code: Any, is_own: Callable[[str, str], bool]) -> dict[str, Source]:
    """The modules to carry with a function or class.

    Args:
        code: The function or class.
        is_own: Says of a module's name and file whether it is the user's own.

    Returns:
        Sources by module name: of what is imported inside functions that `code` reaches, and of what those import.
    """
    found: dict[str, Source] = {}
    todo = [name for inner, package in _reachable(code, is_own) for name in _imported(inner, package)]
    while todo:
        name = todo.pop()
        # Importing `a.b` imports `a` first.
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            module = ".".join(parts[:length])
            if module in found:
                continue
            source = _source_of(module, is_own)
            if source is None:
                break
            found[module] = source
            package = module if source[1] else module.rpartition(".")[0]
            try:
                todo.extend(_imported(compile(source[0], source[2], "exec"), package))
            except (SyntaxError, ValueError):
                # It fails where it is imported, as it would have without us.
                break
    return found


def load_carrying(modules: Mapping[str, Source], pickled: bytes) -> Any:
    """Load code with the modules it carries. The name is part of the stored format."""
    if _finder.installed:
        _finder.use(modules)
    code = pickle.loads(pickled)
    # A callable that cannot be hashed or watched finds what was there when it was loaded.
    with contextlib.suppress(TypeError):
        _carried_by[code] = modules
    return code


def import_here() -> None:
    """Let this process import what code carries: a worker's, which has no modules of the user's own."""
    _finder.install()


def prepare_imports(code: Any) -> None:
    """Have the imports of some code, about to run, find what it carries."""
    if not _carried_by:
        return
    with contextlib.suppress(TypeError):
        modules = _carried_by.get(code)
        if modules is not None:
            _finder.use(modules)


_carried_by: weakref.WeakKeyDictionary[Any, Mapping[str, Source]] = weakref.WeakKeyDictionary()


class _Finder(MetaPathFinder):
    """Finds the modules of the code that runs, before any file."""

    def __init__(self) -> None:
        self.installed = False
        self.modules: Mapping[str, Source] = {}

    def install(self) -> None:
        if not self.installed:
            self.installed = True
            sys.meta_path.insert(0, self)

    def use(self, modules: Mapping[str, Source]) -> None:
        if modules is self.modules:
            return
        loaded = {name: sys.modules[name] for name in modules if name in sys.modules}
        if any(getattr(module, "__carried__", None) != modules[name] for name, module in loaded.items()):
            # Of another job, or of a file that may have been edited; the others may have taken something from it.
            _unload(loaded)
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, _target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self.modules.get(fullname)
        if source is None:
            return None
        _, is_package, file = source
        folder = Path(file).parent
        elsewhere = self._find_elsewhere(fullname, path)
        if folder.is_dir():
            # Its own folder first: another job may have a package of this name.
            beside: Any = SourceFileLoader(fullname, file)
        else:
            beside = None if elsewhere is None else elsewhere.loader
        spec = ModuleSpec(fullname, _Loader(fullname, source, beside), origin=file, is_package=is_package)
        spec.has_location = True
        if is_package:
            found = [] if elsewhere is None else elsewhere.submodule_search_locations or []
            spec.submodule_search_locations = list(dict.fromkeys([*([str(folder)] if folder.is_dir() else []), *found]))
        return spec

    def _find_elsewhere(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find where the module would come from if it were not carried."""
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(fullname, path)
                if spec is not None:
                    return spec
        return None


class _Loader(InspectLoader):
    """Loads one carried module; files beside it are read where the module would be found without us.

    Args:
        fullname: The module's name.
        source: What is carried of it.
        beside: What loads it if it is not carried, and reads the files there; None for nothing.
    """

    def __init__(self, fullname: str, source: Source, beside: Loader | None) -> None:
        self.name, self._source, self._beside = fullname, source, beside

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to the import system."""

    def is_package(self, _fullname: str) -> bool:
        """Whether the module is a package."""
        return self._source[1]

    def get_filename(self, _fullname: str) -> str:
        """Give the path of the file that the source came from."""
        return self._source[2]

    def get_source(self, _fullname: str) -> str:
        """Give the source that is carried."""
        return importlib.util.decode_source(self._source[0])

    def get_data(self, path: str) -> bytes:
        """Read a file, such as one of the package's data."""
        get_data = getattr(self._beside, "get_data", None)
        if get_data is None:
            return Path(path).read_bytes()
        content: bytes = get_data(path)
        return content

    def get_resource_reader(self, fullname: str) -> Any:
        """Give what reads the files of the package, for `importlib.resources`."""
        get_reader = getattr(self._beside, "get_resource_reader", None)
        return None if get_reader is None else get_reader(fullname)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the source that is carried."""
        module.__dict__["__carried__"] = self._source
        exec(compile(self._source[0], self._source[2], "exec"), module.__dict__)


def _unload(modules: Mapping[str, types.ModuleType]) -> None:
    """Forget modules, and those below the packages among them, which hold what they took from them."""
    packages = tuple(f"{name}." for name, module in modules.items() if hasattr(module, "__path__"))
    below = [name for name in list(sys.modules) if name.startswith(packages)] if packages else []
    for name in dict.fromkeys([*modules, *below]):
        module = sys.modules.pop(name, None)
        parent, _, last = name.rpartition(".")
        # `from package import module` takes the attribute before it asks for a module.
        above = vars(sys.modules[parent]) if parent in sys.modules else {}
        if module is not None and above.get(last) is module:
            del above[last]


_finder = _Finder()


def _source_of(name: str, is_own: Callable[[str, str], bool]) -> Source | None:
    if name in _finder.modules:
        return _finder.modules[name]
    spec = _spec_of(name)
    if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
        return None
    if not is_own(name, spec.origin):
        return None
    try:
        return spec.loader.get_data(spec.origin), spec.submodule_search_locations is not None, spec.origin
    except OSError:
        return None


def _spec_of(name: str) -> ModuleSpec | None:
    """Where a module would come from; without importing anything, not even its package."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__spec__", None)
    parent, _, _ = name.rpartition(".")
    if not parent:
        return PathFinder.find_spec(name)
    above = _spec_of(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(above.submodule_search_locations))


def _imported(code: types.CodeType, package: str) -> Iterator[str]:
    """Names that import statements in some code, and in the functions in it, may mean."""
    todo = [code]
    while todo:
        current = todo.pop()
        todo.extend(constant for constant in current.co_consts if isinstance(constant, types.CodeType))
        before: list[dis.Instruction] = []
        for instruction in dis.get_instructions(current):
            if instruction.opname == "IMPORT_NAME":
                level, names = before[-2].argval, before[-1].argval
                try:
                    name = importlib.util.resolve_name("." * level + instruction.argval, package or None)
                except ImportError:
                    continue
                yield name
                # What is imported from a package may be a module of it.
                yield from (f"{name}.{part}" for part in names or () if part != "*")
            if instruction.opname != "EXTENDED_ARG":
                before = [*before[-1:], instruction]


def _reachable(code: Any, is_own: Callable[[str, str], bool]) -> Iterator[tuple[types.CodeType, str]]:
    """Code that pickling takes along by value, each with the package it imports relative to."""
    seen: set[int] = set()
    todo = [code]
    while todo:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        # Not isinstance: it asks the object, and a user's proxy may answer with an error.
        kind = type(current)
        if issubclass(kind, functools.partial):
            todo += [current.func, *current.args, *current.keywords.values()]
            continue
        if issubclass(kind, types.ModuleType):
            file = getattr(current, "__file__", None)
            if isinstance(file, str) and is_own(current.__name__, file):
                todo += vars(current).values()
            continue
        if issubclass(kind, type):
            if _is_taken(current, is_own):
                todo += [*vars(current).values(), *current.__bases__]
            continue
        function = _function_in(current)
        if function is None or not _is_taken(function, is_own):
            continue
        yield function.__code__, function.__globals__.get("__package__") or ""
        todo += [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
        for cell in function.__closure__ or ():
            try:
                todo.append(cell.cell_contents)
            except ValueError:
                # Not filled yet.
                continue


def _function_in(value: Any) -> types.FunctionType | None:
    """The plain function behind a method, a property's getter, a step, or what `ray.remote` made."""
    kind = type(value)
    if kind in (staticmethod, classmethod, types.MethodType):
        value = value.__func__
    elif kind is property:
        value = value.fget
    elif kind is not types.FunctionType:
        # A step names what it wraps; Ray's remote functions do so under their method `remote`.
        wrapper = inspect.getattr_static(value, "remote", value)
        value = inspect.getattr_static(wrapper, "__wrapped__", None)
    return value if type(value) is types.FunctionType else None


def _is_taken(code: Any, is_own: Callable[[str, str], bool]) -> bool:
    name = getattr(code, "__module__", None)
    if name in ("__main__", "__mp_main__"):
        return True
    module = sys.modules.get(name) if isinstance(name, str) else None
    # Without a module it was loaded by value itself.
    file = getattr(module, "__file__", None) if module is not None else ""
    return module is None or (isinstance(file, str) and is_own(str(name), file))


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found
