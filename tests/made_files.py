"""Finds, on the syntax tree, every call that can make a file, a folder or a socket's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Of any object: the names are those of `pathlib.Path`, and of what else makes files.
_METHODS = {"mkdir", "makedirs", "touch", "write_text", "write_bytes", "mkfifo", "mknod", "symlink_to", "extractall"}
_FUNCTIONS = {
    "os.mkdir", "os.makedirs", "os.mkfifo", "os.mknod", "os.symlink", "os.fdopen", "lmdb.open", "lmdb.Environment",
    "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.make_archive",
    "sqlite3.connect", "shelve.open", "dbm.open", "zipfile.ZipFile", "tarfile.open", "logging.FileHandler", "gzip.open",
}  # fmt: skip
_SERVERS = {"create_unix_server", "start_unix_server", "create_server", "start_server", "create_datagram_endpoint"}
_SHARED = ("tempfile.", "multiprocessing.shared_memory.", "posix_ipc.", "socketserver.")
_HARMLESS = {"tempfile.gettempdir"}


def made_files(source: str) -> Iterator[tuple[int, str]]:
    """(line, what is called) of each such call in a module. What cannot be told is held to be one."""
    tree = ast.parse(source)
    imported = _imported(tree)
    has_sockets = any(name.split(".")[0] in ("socket", "asyncio") for name in imported.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _dotted(node.func, imported)
            if _makes(node, name, has_sockets):
                yield node.lineno, name


def _makes(call: ast.Call, name: str, has_sockets: bool) -> bool:
    last = name.rpartition(".")[2]
    if name == "os.open":
        return len(call.args) < 2 or not _only_opens(call.args[1])
    if name == "os.fdopen":
        return False
    if name in ("open", "io.open", "codecs.open"):
        # One that is open already has been made elsewhere.
        return _writes(call, 1) and not (call.args and isinstance(call.args[0], ast.Call))
    if name in _FUNCTIONS or last in _METHODS or last in _SERVERS:
        return True
    if name.startswith(_SHARED):
        return name not in _HARMLESS
    if last == "open":
        return bool(call.args or call.keywords) and _writes(call, 0, only_modes=True)
    return last == "bind" and has_sockets


def _only_opens(flags: ast.expr) -> bool:
    names = {node.attr for node in ast.walk(flags) if isinstance(node, ast.Attribute)}
    plain = all(
        isinstance(node, ast.Attribute | ast.BinOp | ast.Name | ast.BitOr | ast.Load) for node in ast.walk(flags)
    )
    return plain and bool(names) and not names & {"O_CREAT", "O_TMPFILE"}


def _writes(call: ast.Call, position: int, *, only_modes: bool = False) -> bool:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args[position : position + 1]
    if not given:
        return False
    (mode,) = given
    if isinstance(mode, ast.Constant) and isinstance(mode.value, str):
        return set(mode.value) <= set("rwxabt+U") and bool(set(mode.value) & set("wxa+"))
    return not only_modes


def _imported(tree: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _dotted(function: ast.expr, imported: dict[str, str]) -> str:
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    parts.append(imported.get(function.id, function.id) if isinstance(function, ast.Name) else "")
    return ".".join(reversed(parts))


def made_files_under(*roots: Path) -> Iterator[tuple[Path, int, str]]:
    """The same of all modules under some folders."""
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            for line, name in made_files(path.read_text()):
                yield path, line, name
