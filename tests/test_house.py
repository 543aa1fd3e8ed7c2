"""The rules of the house that no type checker holds: who imports whom, what is public, where files may not be."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.endings import THROWN_AT
from tests.made_files import made_files, made_files_under
from tests.user_code_places import find_places, guards, sources

PROJECT = Path(__file__).resolve().parents[1]
ROOTS = ("platform", "listeners", "actors")
OWN_FILES = "platform/holdfast/storage/own_files.py"
# With a mode that is given, or in a folder that is closed.
MADE_ELSEWHERE = {
    ("platform/holdfast/storage/lmdb_environment.py", "lmdb.Environment"),
    ("actors/holdfast/actors/local_peers.py", "bind"),
    ("actors/holdfast/actors/local_peers.py", "unbound.bind"),
    ("actors/holdfast/actors/local_service.py", "loop.create_unix_server"),
    ("actors/holdfast/actors/local_service.py", "holdfast.actors.local_peers.bind"),
    ("actors/holdfast/actors/acknowledgements.py", "holdfast.actors.local_peers.bind"),
}
PUBLIC_PACKAGES = ("holdfast.serve", "holdfast.workflow", "holdfast.listeners", "holdfast.engine", "holdfast.storage")

# An export is a decision: who adds a name to holdfast.workflow adds it here too, and to the changelog.
WORKFLOW_NAMES = {
    # Running and asking
    "init", "run", "run_async", "submit", "resume", "resume_async", "resume_all", "get_output", "get_output_async",
    "list_all", "get_status", "get_metadata", "cancel", "delete", "reset_actor", "shutdown", "platform_status",
    # Building
    "continuation", "options", "create", "step", "wait", "wait_for_event", "sleep", "Workflow", "Retry",
    # Events
    "on_event", "subscribe", "list_event_subscriptions", "delete_event_subscription", "EventSubscription",
    "EventListener", "send_event",
    # Outside sources
    "EventSource", "event_sources", "DeadLetter", "dead_letters", "show_dead_letter", "replay_dead_letter",
    "delete_dead_letter",
    # Schedules
    "schedule", "list_schedules", "describe_schedule", "pause_schedule", "resume_schedule", "trigger_schedule",
    "delete_schedule",
    # Virtual actors
    "virtual_actor", "VirtualActor", "VirtualActorHandle", "get_actor", "migrate", "list_actors", "describe",
    "remind", "list_reminders", "cancel_reminder",
    # Asynchronous twins and error types, as modules
    "aio", "exceptions",
    "WorkflowError", "WorkflowExecutionError", "WorkflowCancellationError",
    # Status, as a type and as plain names
    "WorkflowStatus", "NONE", "RUNNING", "CANCELED", "SUCCESSFUL", "FAILED", "RESUMABLE", "PENDING",
}  # fmt: skip

# These ask the platform nothing: they build a graph, decorate, or stand in a task.
WITHOUT_TWIN = {"continuation", "create", "migrate", "sleep", "step", "wait", "wait_for_event"}

# Where people who come from ray.workflow import from today.
OLD_IMPORTS = {
    "common": ("WorkflowStatus", "HTTP_EVENT_PROVIDER_NAME"),
    "event_listener": ("EventListener", "TimerListener"),
    "exceptions": (
        "WorkflowError",
        "WorkflowExecutionError",
        "WorkflowCancellationError",
        "WorkflowNotFoundError",
        "WorkflowNotResumableError",
        "WorkflowTaskNotRecoverableError",
        "WorkflowStillActiveError",
    ),
    "http_event_provider": ("HTTPListener", "WorkflowEventHandleError"),
    "virtual_actor_class": ("VirtualActorNotInitializedError",),
    "workflow_context": ("get_current_workflow_id", "get_current_task_id"),
}


CHECK_OF_A_NUMBER = re.compile(r"isinstance\([^()]*, bool\) or not isinstance\([^()]*,\s*\(?int\b")


def rooms() -> set[str]:
    """Every package of the namespace that is on disk, by its dotted name."""
    return {
        f"holdfast.{marker.parent.name}" for root in ROOTS for marker in (PROJECT / root).glob("holdfast/*/__init__.py")
    }


def public_modules() -> list[str]:
    """The public packages and those of their modules that are no one's private matter."""
    names = []
    for package_name in PUBLIC_PACKAGES:
        package = importlib.import_module(package_name)
        names.append(package_name)
        for found in pkgutil.walk_packages(package.__path__, prefix=f"{package_name}."):
            if not any(part.startswith("_") for part in found.name.split(".")):
                names.append(found.name)
    return names


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the three source roots below `project`, which come before any installed ones."""
    paths = os.pathsep.join(str(project / root) for root in ROOTS)
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=project,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """A copy of the house's plan with empty rooms, to plant violations in."""
    (tmp_path / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text())
    for root in ROOTS:
        for room in (PROJECT / root / "holdfast").iterdir():
            if (room / "__init__.py").exists():
                copy = tmp_path / root / "holdfast" / room.name
                copy.mkdir(parents=True)
                (copy / "__init__.py").write_text("")
    return tmp_path


class TestImports:
    def test_imports_point_one_way(self) -> None:
        outcome = lint_imports(PROJECT)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr

    def test_every_room_on_disk_is_under_the_contracts(self) -> None:
        plan = (PROJECT / "pyproject.toml").read_text()
        watched = re.search(r"root_packages = \[(.*?)\]", plan, re.DOTALL)
        assert watched is not None
        assert rooms() == set(re.findall(r'"([\w.]+)"', watched[1]))

    @pytest.mark.parametrize(
        ("room", "planted", "said"),
        [
            ("listeners/holdfast/listeners", "import holdfast.workflow", "holdfast.listeners is not allowed to import"),
            ("platform/holdfast/storage", "from holdfast import actors", "holdfast.storage is not allowed to import"),
            ("platform/holdfast/engine", "def f():\n    import holdfast.storage", "holdfast.engine is not allowed"),
            ("actors/holdfast/actors", "from holdfast.workflow import x", "holdfast.actors is not allowed to import"),
            ("platform/holdfast/engine", "from time import monotonic", "not allowed to import time"),
            ("platform/holdfast/engine", "import ray", "not allowed to import ray"),
            ("platform/holdfast/workflow", "from holdfast import serve", "holdfast.workflow is not allowed to import"),
        ],
    )
    def test_a_planted_import_against_the_direction_is_found(
        self, small_house: Path, room: str, planted: str, said: str
    ) -> None:
        (small_house / room / "planted.py").write_text(planted + "\n")
        outcome = lint_imports(small_house)
        assert outcome.returncode != 0
        assert said in outcome.stdout

    def test_the_empty_house_is_accepted(self, small_house: Path) -> None:
        outcome = lint_imports(small_house)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr

    def test_no_module_uses_the_private_parts_of_ray(self) -> None:
        sources = [path for root in ROOTS for path in (PROJECT / root).rglob("*.py")]
        assert sources
        used = [
            f"{path.relative_to(PROJECT)}:{number}"
            for path in sources
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if re.search(r"\bray\._(private|raylet)\b|\bfrom ray import _|\bray\.[\w.]*\b_(private|raylet)\b", line)
        ]
        assert used == []

    def test_code_and_values_are_pickled_by_their_picklers_alone(self) -> None:
        # Who pickles by cloudpickle itself passes by what they see: references, handles, the order of sets.
        sources = [path for root in ROOTS for path in (PROJECT / root).rglob("*.py")]
        users = {
            path.name
            for path in sources
            if re.search(
                r"^\s*(import (ray\.)?cloudpickle|from (ray(\.cloudpickle)?|cloudpickle) import .*pickle)",
                path.read_text(),
                re.MULTILINE,
            )
        }
        picklers = {"code_pickler.py", "values.py"}
        registers_and_marks = {"code.py", "class_identities.py"}
        of_ray_options = {"task_options.py", "hosting.py"}
        assert users == picklers | registers_and_marks | of_ray_options


class TestPublicSurface:
    def test_workflow_exports_exactly_the_pinned_names(self) -> None:
        module = importlib.import_module("holdfast.workflow")
        assert set(module.__all__) == WORKFLOW_NAMES

    @pytest.mark.parametrize("package", PUBLIC_PACKAGES)
    def test_a_public_package_lists_what_it_exports(self, package: str) -> None:
        module = importlib.import_module(package)
        assert module.__doc__, f"{package} does not say what it is for"
        assert getattr(module, "__all__", None), f"{package} has no __all__"

    def test_whatever_a_module_lists_is_there_once_and_is_public(self) -> None:
        for name in public_modules():
            module = importlib.import_module(name)
            listed = list(getattr(module, "__all__", ()))
            assert len(listed) == len(set(listed)), f"{name}.__all__ names something twice"
            for exported in listed:
                assert hasattr(module, exported), f"{name}.__all__ lists {exported!r}, which is not there"
                assert not exported.startswith("_"), f"{name}.__all__ lists {exported!r}, which is private"

    @pytest.mark.parametrize("package", PUBLIC_PACKAGES)
    def test_a_public_package_shows_no_name_that_it_does_not_list(self, package: str) -> None:
        module = importlib.import_module(package)
        shown = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
        }
        assert shown <= set(module.__all__)

    def test_each_function_that_asks_the_platform_has_an_awaited_twin_of_the_same_arguments(self) -> None:
        workflow = importlib.import_module("holdfast.workflow")
        asking = {name for name in workflow.__all__ if inspect.isfunction(getattr(workflow, name))} - WITHOUT_TWIN
        assert set(workflow.aio.__all__) == asking
        for name in asking:
            twin = getattr(workflow.aio, name)
            assert inspect.iscoroutinefunction(twin), name
            given, expected = inspect.signature(twin), inspect.signature(getattr(workflow, name))
            assert list(given.parameters.values()) == list(expected.parameters.values()), name
            assert pickle.loads(pickle.dumps(twin)) is twin, name

    @pytest.mark.parametrize(("module", "names"), OLD_IMPORTS.items(), ids=OLD_IMPORTS.keys())
    def test_the_import_paths_of_ray_workflow_are_kept(self, module: str, names: tuple[str, ...]) -> None:
        found = importlib.import_module(f"holdfast.workflow.{module}")
        assert [name for name in names if not hasattr(found, name)] == []

    def test_the_http_event_provider_is_at_its_old_path(self) -> None:
        found = importlib.import_module("holdfast.workflow.http_event_provider")
        assert hasattr(found, "HTTPEventProvider")


class TestOpenToOthers:
    """What makes a file, a folder or a socket's name does so by `storage/own_files.py`, closed to other users."""

    def test_nothing_else_makes_a_file_a_folder_or_the_name_of_a_socket(self) -> None:
        found = {
            (str(path.relative_to(PROJECT)), name)
            for path, _, name in made_files_under(*(PROJECT / root for root in ROOTS))
            if path != PROJECT / OWN_FILES
        }
        assert found == MADE_ELSEWHERE

    def test_what_makes_them_gives_the_mode_by_itself(self) -> None:
        calls = [name for _, name in made_files((PROJECT / OWN_FILES).read_text())]
        assert sorted(calls) == ["os.open", "os.open", "path.mkdir", "path.parent.mkdir"]

    @pytest.mark.parametrize(
        "planted",
        [
            "import os\nos.open(path, os.O_RDWR | os.O_CREAT)",
            "import os\nos.open(path, flags)",
            "import os\nos.mkdir(path)",
            "from os import makedirs as make\nmake(path)",
            "open(path, 'w')",
            "open(path, mode='ab')",
            "open(path, mode)",
            "import io\nio.open(path, 'x')",
            "path.open('w')",
            "path.open(mode='a')",
            "path.write_text('')",
            "self.folder.write_bytes(b'')",
            "path.touch()",
            "(self.path / 'x').mkdir(exist_ok=True)",
            "import tempfile\ntempfile.mkdtemp()",
            "from tempfile import NamedTemporaryFile\nNamedTemporaryFile()",
            "import shutil\nshutil.copy(a, b)",
            "import socket\nsocket.socket(socket.AF_UNIX).bind(path)",
            "import asyncio\nasyncio.start_unix_server(f, path)",
            "import lmdb\nlmdb.open(path)",
            "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('x', create=True)",
        ],
    )
    def test_a_planted_one_is_found(self, planted: str) -> None:
        assert len(list(made_files(planted))) == 1

    @pytest.mark.parametrize(
        "harmless",
        [
            "import os\nos.open(path, os.O_RDONLY | os.O_CLOEXEC)",
            "open(path)",
            "open(path, 'rb')",
            "path.open()",
            "StorageFolder.open(path)",
            "f.bind(node)",
            "import tempfile\ntempfile.gettempdir()",
        ],
    )
    def test_what_only_reads_is_not(self, harmless: str) -> None:
        assert list(made_files(harmless)) == []


def calendars(source: str) -> set[str]:
    """What a module computes times of a wall clock by."""
    known = ("apscheduler.triggers", "calendar", "croniter", "cronsim", "dateutil", "pytz", "zoneinfo")
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_job":
            given = [*node.args, *(word.value for word in node.keywords if word.arg == "trigger")]
            kinds = {one.value for one in given if isinstance(one, ast.Constant)} & {"cron", "interval"}
            names = [f"apscheduler.triggers.{kind}" for kind in kinds]
        found |= {name for name in names if any(name == one or name.startswith(f"{one}.") for one in known)}
    return found


class TestTimesOfWallClocks:
    """One module walks wall clocks, by one rule: who steps through local time by something else loses runs."""

    def test_only_the_triggers_of_schedules_know_calendars(self) -> None:
        found = {
            path.stem: names
            for root in ROOTS
            for path in (PROJECT / root).rglob("*.py")
            if (names := calendars(path.read_text()))
        }
        assert found == {"cron": {"calendar"}, "schedule_triggers": {"zoneinfo", "apscheduler.triggers.interval"}}

    @pytest.mark.parametrize(
        "planted",
        [
            "from apscheduler.triggers.cron import CronTrigger",
            "import croniter",
            "def f(s):\n    s.add_job(f, 'cron', hour=2)",
            "def f(s):\n    s.add_job(f, trigger='cron', hour=2)",
        ],
    )
    def test_one_more_is_seen(self, planted: str) -> None:
        assert calendars(planted)


# Places where user code runs, and nothing holds what ends it.
PLANTED_USER_CODE = {
    "a function that is loaded and called": "def f(storage):\n    call = load_code(storage, 1)\n    call()",
    "what is only loaded": "def f(storage, digest):\n    return load_code(storage, digest)",
    "a listener that is polled": "async def f(listener):\n    await listener.poll_for_event()",
    "a listener that is told": "async def f(listener, event):\n    await listener.event_checkpointed(event)",
    "a subscription that is asked for": "def f(listener):\n    return listener.subscription()",
    "a state that is given": "def f(instance):\n    return instance.__getstate__()",
    "a state that is taken": "def f(instance, state):\n    instance.__setstate__(state)",
    "a pickle that is opened": "import pickle\ndef f(raw):\n    return pickle.loads(raw)",
    "code that is pickled": "def f(code):\n    return cloudpickle.dumps(code)",
    "a value that is pickled": "def f(value):\n    _Pickler(io.BytesIO()).dump(value)",
    "a mark that is not asked for a guard": "def f(results, work):\n    return results.written(work, 1, 2, 3.0)",
    "a guard around a function that is called elsewhere": (
        "def f(it):\n    with user_code:\n        def g():\n            it.subscription()\n    g()"
    ),
    "the text of what a guard passed on": (
        "def f(call):\n    try:\n        with user_code:\n            call()\n    except Exception as error:\n"
        '        raise ValueError(f"no: {error}")'
    ),
}


class TestUserCode:
    def test_user_code_runs_within_guards_only(self) -> None:
        places = find_places(sources())
        assert len(places) > 25
        unguarded = [f"{place} line {place.line}: {place.called}" for place in places if not place.guarded]
        assert unguarded == [], (
            "put it in `with user_code:`, or mark the function @runs_user_code and guard its callers"
        )

    def test_each_guard_has_a_test_that_throws_every_kind_of_end_at_it(self) -> None:
        assert guards(sources()) == set(THROWN_AT), "say in tests/integration/endings.py which test throws at it"
        for named in set(THROWN_AT.values()):
            path, _, function = named.partition("::")
            module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
            assert callable(getattr(module, function, None)), named

    @pytest.mark.parametrize("what", PLANTED_USER_CODE)
    def test_a_place_without_a_guard_is_found(self, what: str) -> None:
        imports = "from holdfast.actors.task_runner import load_code\n"
        with_marks = {name: text for name, text in sources().items() if "@runs_user_code" in text}
        texts = {**with_marks, "actors/planted.py": imports + PLANTED_USER_CODE[what]}
        unguarded = [place for place in find_places(texts) if not place.guarded]
        assert [place.module for place in unguarded] == ["actors/planted.py"] * len(unguarded)
        assert unguarded

    def test_a_guard_that_nobody_throws_at_is_found(self) -> None:
        planted = "def f(it):\n    with user_code:\n        it.subscription()"
        assert guards({**sources(), "actors/planted.py": planted}) - set(THROWN_AT) == {"actors/planted.py:f"}


class TestPlacesOfFiles:
    # Any of these would hide the other parts of the namespace, or the standard library's `platform`.
    @pytest.mark.parametrize(
        "folder", [*ROOTS, *(f"{root}/holdfast" for root in ROOTS), "tests/platform"], ids=lambda folder: folder
    )
    def test_no_init_file_where_it_would_hide_other_packages(self, folder: str) -> None:
        assert not (PROJECT / folder / "__init__.py").exists()

    @pytest.mark.parametrize("root", ROOTS)
    def test_every_room_is_typed(self, root: str) -> None:
        markers = list((PROJECT / root).glob("holdfast/*/__init__.py"))
        assert markers
        assert [marker.parent.name for marker in markers if not (marker.parent / "py.typed").exists()] == []

    def test_every_module_says_what_it_is_for(self) -> None:
        silent = [
            str(path.relative_to(PROJECT))
            for root in ROOTS
            for path in (PROJECT / root).rglob("*.py")
            if not path.read_text().lstrip().startswith(('"""', 'r"""'))
        ]
        assert silent == []

    def test_no_lower_bound_admits_a_version_with_a_published_flaw(self) -> None:
        plan = (PROJECT / "pyproject.toml").read_text()
        for package, good in {"orjson": (3, 11, 6)}.items():
            bound = re.search(rf'"{package}(?:\[[^]]*\])?>=([\d.]+)', plan)
            assert bound is not None, package
            assert tuple(int(part) for part in bound[1].split(".")) >= good, package

    @pytest.mark.parametrize(
        ("planted", "found"),
        [
            ("if isinstance(a, bool) or not isinstance(a, int):", True),
            ("if isinstance(a, bool) or not isinstance(a, (int, float)) or a < 1:", True),
            ("if isinstance(a, bool) or not isinstance(a, int | float):", True),
            ("if not isinstance(a, bool):", False),
        ],
    )
    def test_a_planted_check_of_a_number_is_found(self, planted: str, found: bool) -> None:
        assert bool(CHECK_OF_A_NUMBER.search(planted)) is found

    def test_numbers_are_checked_in_one_place(self) -> None:
        past = [
            f"{path.relative_to(PROJECT)}: {found[0]}"
            for root in ROOTS
            for path in (PROJECT / root).rglob("*.py")
            for found in CHECK_OF_A_NUMBER.finditer(path.read_text())
        ]
        assert past == [], "use holdfast.engine.given_numbers"

    def test_json_that_comes_in_is_read_in_one_place(self) -> None:
        past = [
            f"{path.relative_to(PROJECT)}: {found[0]}"
            for room in ("listeners/holdfast/listeners", "platform/holdfast/workflow", "platform/holdfast/serve")
            for path in (PROJECT / room).rglob("*.py")
            for found in re.finditer(r"\borjson\b|\bjson\.loads?\b", path.read_text())
            # What is wrong with a body that was refused; and what our own service answers to us.
            if path.name not in {"event_body.py", "starting.py"}
        ]
        assert past == [], "use holdfast.storage.strict_json"

    def test_no_module_is_a_drawer_for_leftovers(self) -> None:
        drawers = [
            str(path.relative_to(PROJECT))
            for root in ROOTS
            for path in (PROJECT / root).rglob("*.py")
            # workflow/common.py is an import path of ray.workflow.
            if path.stem in {"utils", "util", "helpers", "misc", "common"}
            and path != PROJECT / "platform/holdfast/workflow/common.py"
        ]
        assert drawers == []
