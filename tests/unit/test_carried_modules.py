"""Modules that a function imports only when it runs travel with it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.actors.carried_modules import find_carried
from holdfast.actors.code import CodeBook

FILES = {
    "{top}.py": """
import ray
import {package}.sibling

def plain(x):
    return x + 1

def late():
    import {late}
    return {late}.VALUE

def through_a_helper():
    return late()

@ray.remote
def remote():
    return late()

class Listener:
    async def poll_for_event(self):
        from {package} import part
        return part.VALUE

def installed_only():
    import json, numpy
    return json.dumps([])

def missing():
    import surely_not_there_at_all
""",
    "{late}.py": "import {deep}\nVALUE = {deep}.VALUE + 1\n",
    "{deep}.py": "VALUE = 1\n",
    "{package}/__init__.py": "",
    "{package}/part.py": "from . import sibling\nfrom .sibling import VALUE\n",
    "{package}/sibling.py": "VALUE = 5\n",
}

RUN = """
import sys
from holdfast.actors.carried_modules import import_here, prepare_imports
from holdfast.actors.code import CodeBook
import_here()
for path, digest, expected in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    with open(path, "rb") as file:
        function = CodeBook().decode(digest, file.read())
    prepare_imports(function)
    assert str(function()) == expected, (function(), expected)
"""


def write(folder: Path, names: dict[str, str], *, edit: tuple[str, str] = ("", "")) -> None:
    for path, content in FILES.items():
        file = folder / path.format(**names)
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(content.format(**names).replace(*edit))


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    mark = "".join(letter for letter in tmp_path.name if letter.isalnum())
    return {name: f"{name}_{mark}" for name in ("top", "late", "deep", "package")}


@pytest.fixture
def top(tmp_path: Path, names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    write(tmp_path, names)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(names["top"])
    for module in [module for module in sys.modules if module.split(".")[0] in names.values()]:
        del sys.modules[module]


def carried(code: Any) -> set[str]:
    def is_own(name: str, file: str) -> bool:
        return "site-packages" not in file and "/lib/python" not in file

    return set(find_carried(code, is_own))


@pytest.mark.parametrize("name", ["late", "through_a_helper", "remote"])
def test_what_is_imported_late_is_carried_with_what_it_imports(top: Any, names: dict[str, str], name: str) -> None:
    assert carried(getattr(top, name)) == {names["late"], names["deep"]}


def test_a_method_that_imports_from_a_package_carries_it(top: Any, names: dict[str, str]) -> None:
    package = names["package"]
    assert carried(top.Listener) == {package, f"{package}.part", f"{package}.sibling"}


@pytest.mark.parametrize("name", ["plain", "installed_only", "missing"])
def test_code_without_late_imports_of_the_users_own_carries_nothing(top: Any, name: str) -> None:
    assert carried(getattr(top, name)) == set()
    assert b"load_carrying" not in CodeBook().encode(getattr(top, name))[1]


def test_nothing_is_imported_by_looking(top: Any, names: dict[str, str]) -> None:
    CodeBook().encode(top.late)
    CodeBook().encode(top.Listener)
    assert names["late"] not in sys.modules
    assert f"{names['package']}.part" not in sys.modules


def test_a_worker_imports_what_was_submitted_for_each_function_though_the_names_are_the_same(
    top: Any, names: dict[str, str], tmp_path: Path
) -> None:
    first = CodeBook().encode(top.late)
    write(tmp_path, names, edit=("VALUE = 1\n", "VALUE = 10\n"))
    second = CodeBook().encode(top.late)
    write(tmp_path, names, edit=("VALUE = 1\n", "VALUE = 100\n"))
    arguments = []
    for (digest, pickled), expected in ((first, "2"), (second, "11"), (first, "2")):
        (tmp_path / digest).write_bytes(pickled)
        arguments += [str(tmp_path / digest), digest, expected]
    # With the edited files in its path too.
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{RUN}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


PLUGINS = {
    "shop/__init__.py": "",
    "shop/utils.py": "KIND = 'old'\ndef tax(x):\n    return x * 2\n",
    "shop/plugins/__init__.py": "",
    "shop/plugins/first.py": "from shop.utils import KIND\nRATE = 5\n",
    "shop/lazy.py": "VALUE = 'lazy'\n",
    "shop/data.txt": "data of the package",
    "user_of_shop.py": """
def by_name():
    import importlib
    import shop.utils
    return shop.utils.tax(1) + importlib.import_module("shop.plugins.first").RATE

def relative_by_name():
    import importlib
    from shop import utils
    return importlib.import_module(".lazy", "shop").VALUE

def by_walking():
    import pkgutil
    import shop.utils
    return sorted(found.name for found in pkgutil.walk_packages(shop.__path__, "shop."))

def of_a_file():
    import importlib.resources, pkgutil
    import shop
    return (importlib.resources.files("shop") / "data.txt").read_text() + str(pkgutil.get_data("shop", "data.txt"))

def its_source():
    import inspect
    import shop.utils
    return "return x * 2" in inspect.getsource(shop.utils.tax)

def what_the_plugin_took():
    import importlib
    import shop.utils
    return importlib.import_module("shop.plugins.first").KIND
""",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, content in PLUGINS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("user_of_shop")
    for module in [module for module in sys.modules if module.split(".")[0] in ("shop", "user_of_shop")]:
        del sys.modules[module]


def run_in_a_worker(
    tmp_path: Path,
    code: Any,
    expected: Any,
    *,
    after: Callable[[], object] = lambda: None,
    before: str = "",
    path: str = "",
) -> None:
    digest, pickled = CodeBook().encode(code)
    after()
    (tmp_path / digest).write_bytes(pickled)
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = {[path] if path else []}\n{before}\n{RUN}",
            str(tmp_path / digest),
            digest,
            str(expected),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("in_path", [True, False], ids=["package in the path", "package of another job's path"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("by_name", 7),
        ("relative_by_name", "lazy"),
        ("by_walking", ["shop.lazy", "shop.plugins", "shop.plugins.first", "shop.utils"]),
        ("of_a_file", "data of the packageb'data of the package'"),
        ("its_source", True),
    ],
)
def test_what_is_not_carried_of_a_package_is_found_where_it_lies(
    shop: Any, tmp_path: Path, name: str, expected: Any, in_path: bool
) -> None:
    code = getattr(shop, name)
    assert "shop.plugins" not in carried(code)
    run_in_a_worker(tmp_path, code, expected, path=str(tmp_path) if in_path else "")


def test_what_is_carried_wins_over_an_edited_file_and_plugins_imported_before_take_from_it(
    shop: Any, tmp_path: Path
) -> None:
    def edit() -> None:
        (tmp_path / "shop" / "utils.py").write_text("KIND = 'new'\n")

    # The worker has imported all of the package, as it is after the edit.
    before = "import shop.plugins.first"
    run_in_a_worker(tmp_path, shop.what_the_plugin_took, "old", after=edit, before=before, path=str(tmp_path))


def test_a_carried_package_runs_when_its_folder_is_gone(shop: Any, tmp_path: Path) -> None:
    run_in_a_worker(tmp_path, shop.its_source, True, after=lambda: shutil.rmtree(tmp_path / "shop"))
