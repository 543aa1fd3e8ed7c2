"""Computes from the source where user code runs, and which of these places no guard holds.

User code runs where stored code and values are loaded, where values are pickled, where what was loaded is called, and
where an error of the user's is asked for its text. Each such place has to stand in a block of a guard (`user_code` or
`user_hooks`), or in a function that bears the mark `@runs_user_code`: that is a place itself where it is called.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
ROOTS = ("platform", "listeners", "actors")
GUARDS = {"user_code", "user_hooks"}
MARK = "runs_user_code"

HOOKS = {
    "poll_for_event",
    "event_checkpointed",
    "subscription",
    "__getstate__",
    "__setstate__",
    "__reduce__",
    "__reduce_ex__",
}
"""Methods that users write."""

LOADERS = {"load_code", "decode"}
"""What these return is the user's: to call it, or what it has, is to run user code."""

OWN_PICKLES = {
    # What one part of Holdfast says to another, and what it has made itself: no value of the user's is in there.
    "actors/wire.py",
    "actors/local_frames.py",
    "actors/local_service.py",
    "actors/platform_start.py",
    "actors/answers.py",
    "actors/virtual/answers.py",
    "actors/virtual/hosts.py",
    "actors/virtual/hosting.py",
    "storage/record_codec.py",
    # The outer form of an error: texts, and pickles that `load` opens.
    "actors/error_values.py:load_error",
    "actors/error_values.py:describe_error",
    # A message of a source, made of bytes, texts and numbers.
    "actors/listener_host.py:ListenerHost.ids_of.name_all",
    # Called by pickle, while code is loaded.
    "actors/carried_modules.py:load_carrying",
    # Ray's own types, which the executor has to know.
    "actors/task_options.py:_pickle_ray_options",
    "actors/task_options.py:load_ray_options",
    # Within what `dump_code` guards.
    "actors/code.py:_carrying",
}


@dataclass(frozen=True)
class Place:
    """Where user code runs: the module below its root, the function, and what is called there."""

    module: str
    function: str
    called: str
    line: int
    guarded: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"


@dataclass
class _Module:
    name: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def function_of(self, node: ast.AST) -> ast.AST | None:
        """The innermost function or lambda around a node."""
        return next((one for one in self.above(node) if isinstance(one, _FUNCTIONS)), None)

    def name_of(self, node: ast.AST) -> str:
        """The qualified name of what is around a node."""
        around = [
            one for one in self.above(node) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        ]
        return ".".join(one.name for one in reversed(around))

    def guarded(self, node: ast.AST) -> bool:
        """Whether a guard holds what happens at a node, or whoever calls its function is asked for one."""
        for one in self.above(node):
            if isinstance(one, (ast.With, ast.AsyncWith)) and any(
                isinstance(item.context_expr, ast.Name) and item.context_expr.id in GUARDS for item in one.items
            ):
                return True
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
                return _is_marked(one)
        return False


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _is_marked(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == MARK for one in function.decorator_list)


def sources() -> dict[str, str]:
    """The text of each module, by its path below `holdfast`."""
    return {
        str(path.relative_to(PROJECT / root / "holdfast")): path.read_text()
        for root in ROOTS
        for path in sorted((PROJECT / root / "holdfast").rglob("*.py"))
    }


def find_places(texts: dict[str, str]) -> list[Place]:
    """All places where user code runs."""
    modules = [_Module(name, ast.parse(text)) for name, text in texts.items()]
    functions, methods = _marked(modules)
    return [
        place
        for module in modules
        for place in _places_of(module, _known_in(module, functions), _methods_in(module, methods))
    ]


def guards(texts: dict[str, str]) -> set[str]:
    """The functions that have a guard."""
    return {
        f"{module.name}:{module.name_of(node)}"
        for name, text in texts.items()
        for module in [_Module(name, ast.parse(text))]
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.With, ast.AsyncWith))
        and any(isinstance(item.context_expr, ast.Name) and item.context_expr.id in GUARDS for item in node.items)
    }


_Names = set[tuple[str, str]]
"""(module, name)."""


def _marked(modules: list[_Module]) -> tuple[_Names, _Names]:
    """Functions and methods that bear the mark."""
    functions, methods = set(), set()
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _is_marked(node):
                kind = methods if isinstance(module.parents[node], ast.ClassDef) else functions
                kind.add((module.name, node.name))
    return functions, methods


def _known_in(module: _Module, functions: _Names) -> set[str]:
    """By which names a module has the functions: its own, and those it imports."""
    names = {name for owner, name in functions if owner == module.name}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            path = node.module.removeprefix("holdfast.").replace(".", "/") + ".py"
            names |= {one.asname or one.name for one in node.names if (path, one.name) in functions}
    return names


def _methods_in(module: _Module, methods: _Names) -> set[str]:
    """Which methods a call may be of: those of others are public."""
    return {name for owner, name in methods if owner == module.name or not name.startswith("_")}


def _imports_of(module: _Module) -> set[str]:
    return {
        (one.asname or one.name).split(".")[0]
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for one in node.names
    }


def _places_of(module: _Module, functions: set[str], methods: set[str]) -> Iterator[Place]:
    theirs = _names_of_user_code(module)
    for node in ast.walk(module.tree):
        called = None
        if isinstance(node, ast.Call):
            called = _called(module, node, functions, methods, theirs)
        elif isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
            called = _text_of_error(module, node, node.value.id)
        if called is None:
            continue
        where = module.name_of(node)
        if called in _PICKLES and not {module.name, f"{module.name}:{where}"}.isdisjoint(OWN_PICKLES):
            continue
        yield Place(module.name, where, called, node.lineno, module.guarded(node))


_PICKLES = {"loads", "dumps", "dump"}


def _called(
    module: _Module, node: ast.Call, functions: set[str], methods: set[str], theirs: dict[ast.AST | None, set[str]]
) -> str | None:
    function = node.func
    if isinstance(function, ast.Name):
        mine = theirs.get(module.function_of(node), set())
        return function.id if function.id in functions or function.id in mine else None
    if not isinstance(function, ast.Attribute):
        return None
    owner = function.value
    if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super":
        return None
    name = owner.id if isinstance(owner, ast.Name) else ""
    if (function.attr in HOOKS and name not in _imports_of(module)) or function.attr in methods:
        return function.attr
    if function.attr == "loads" and name in ("pickle", "cloudpickle", "_cloudpickle"):
        return "loads"
    if function.attr == "dumps" and name in ("cloudpickle", "_cloudpickle"):
        return "dumps"
    if function.attr == "dump" and (
        name == "pickler" or (isinstance(owner, ast.Call) and "Pickler" in ast.dump(owner))
    ):
        return "dump"
    if name and name in theirs.get(module.function_of(node), set()):
        return function.attr
    return None


def _names_of_user_code(module: _Module) -> dict[ast.AST | None, set[str]]:
    """Which names of each function are code of users that was loaded there."""
    found: dict[ast.AST | None, set[str]] = {}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        function = node.value.func
        loader = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if loader in LOADERS:
            names = {one.id for one in node.targets if isinstance(one, ast.Name)}
            found.setdefault(module.function_of(node), set()).update(names)
    return found


def _text_of_error(module: _Module, node: ast.AST, name: str) -> str | None:
    """The name, when it is that of an error which a guarded block has raised: its text is user code too."""
    for one in module.above(node):
        if isinstance(one, ast.ExceptHandler) and one.name == name:
            block = module.parents[one]
            assert isinstance(block, ast.Try)
            inside = [each for part in block.body for each in ast.walk(part) if isinstance(each, ast.With)]
            around = any(
                isinstance(item.context_expr, ast.Name) and item.context_expr.id in GUARDS
                for each in inside
                for item in each.items
            )
            catches = one.type is None or (
                isinstance(one.type, ast.Name) and one.type.id in ("Exception", "BaseException")
            )
            return f"the text of {name}" if around and catches else None
    return None
