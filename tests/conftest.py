"""What all tests share: a local Ray, and a fresh platform on a fresh folder for a test."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import ray
import ray.cloudpickle

from deploy.kafka.broker import missing_tools
from holdfast import workflow
from tests.kafka.running_kafka import RunningKafka

# The first local Ray of a process would switch token authentication on for all that follow, and for their children:
# clusters that tests start in other ways, before or after it, would then not trust each other.
os.environ["RAY_AUTH_MODE"] = "disabled"

# Who starts without an address joins the cluster that was started last by `ray start` with this folder. Each process of
# tests has its own, so that none joins a cluster of another's, or of anybody else's on this machine.
_RAY_FOLDER = tempfile.mkdtemp(prefix="ray-")
os.environ["RAY_TMPDIR"] = _RAY_FOLDER
# Ray writes down there which cluster was started last, and does not always make the folder.
os.mkdir(os.path.join(_RAY_FOLDER, "ray"))


_SHARING: set[ModuleType] = set()

# Folders of files that take long.
_LONG = ("recovery", "kafka", "examples", "integration", "kept", "simulation")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test printed and logged fit for a report: one with half of a surrogate pair would end all tests.

    pytest-xdist sends reports as UTF-8. Ray logs the errors of users' values as they are, lone surrogates included.
    """
    report = yield
    report.sections = [(title, _encodable(text)) for title, text in report.sections]
    if report.failed and (shown := str(report.longrepr)) != _encodable(shown):
        report.longrepr = _encodable(shown)
    return report


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background by a shell: what tests start would ignore Ctrl-C too, and some send it one.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """Leave nothing of Ray's behind."""
    ray.shutdown()
    shutil.rmtree(_RAY_FOLDER, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note the modules that share a Ray, and put them first, one after the other; and long ones before short ones.

    Those which start a Ray of their own, with settings of their own, share none. A long file that came last would be
    left to one process at the end.
    """
    for item in items:
        if isinstance(item, pytest.Function) and "local_ray" in item.fixturenames and not starts_its_own(item.module):
            _SHARING.add(item.module)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.parent.name
    shares = isinstance(item, pytest.Function) and item.module in _SHARING
    return not shares, _LONG.index(folder) if folder in _LONG else len(_LONG)


def starts_its_own(module: ModuleType) -> bool:
    """Whether a module overrides the fixture."""
    return hasattr(module, "local_ray")


@pytest.fixture(scope="module", autouse=True)
def ray_of_others_is_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray goes on from a module to the next that asks for it, for it takes seconds to start; others find none.

    Nor does it go on with an actor that a test has left.
    """
    if request.node.module not in _SHARING:
        ray.shutdown()
    yield
    if ray.is_initialized() and ray.util.list_named_actors(all_namespaces=True):
        ray.shutdown()


@pytest.fixture(scope="module")
def local_ray(ray_of_others_is_over: None) -> None:
    """A local Ray of two CPUs, with nothing in it."""
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


@pytest.fixture(scope="module", autouse=True)
def locks_do_not_pickle() -> Iterator[None]:
    """Ray Serve makes locks picklable in every process that starts it; the modules after it are to see none of that."""
    yield
    for lock in (threading.Lock(), threading.RLock()):
        ray.cloudpickle.CloudPickler.dispatch.pop(type(lock), None)


@pytest.fixture
def storage(local_ray: None, tmp_path: Path) -> Iterator[Path]:
    """A platform on a fresh folder, on the module's Ray; the folder's path."""
    folder = tmp_path / "storage"
    workflow.init(str(folder))
    yield folder
    workflow.shutdown()


def pytest_report_header() -> str:
    """Which Kafka the tests run against."""
    missing = missing_tools()
    if missing:
        return f"kafka: librdkafka's broker in this process ({missing}); what needs a real one is skipped"
    return "kafka: a real Apache Kafka, started when the first test asks for it"


@pytest.fixture(scope="session")
def kafka() -> Iterator[RunningKafka]:
    """One Kafka for all tests, which use topics of their own."""
    running = RunningKafka()
    yield running
    running.close()
