"""What was submitted is what runs: on a fresh cluster too, after the sources were edited or deleted.

Four drivers with four environments submit to one platform; the cluster is lost
half-way, every source is edited or deleted, and a fifth driver, which has none
of it, resumes on a fresh cluster.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import ray

from holdfast import workflow
from holdfast.actors.environment import Environments, merge_environments
from holdfast.storage.code import CodeStore
from tests.integration.clusters import own_cluster

pytestmark = pytest.mark.cluster

DRIVER = """
import importlib, json, os, sys, time
import ray
import beside
from beside import Box

address, folder, name, flag, environment = sys.argv[1:]
ray.init(address, runtime_env=json.loads(environment), log_to_driver=False, logging_level="ERROR")
from holdfast import workflow
VERSION = "old script of " + name

def describe():
    import lazily
    found = {"script": VERSION, "beside": beside.version(), "colour": os.environ.get("COLOUR")}
    found["lazily"] = lazily.version()
    for shipped in ("shipped", "packaged"):
        try:
            found[shipped] = importlib.import_module(shipped).version()
        except ImportError:
            found[shipped] = None
    found["file"] = open("note.txt").read() if os.path.exists("note.txt") else None
    return found

@ray.remote
def first():
    return Box(describe())

@ray.remote
def second(box, flag):
    while not os.path.exists(flag):
        time.sleep(0.02)
    return {"first": box.opened(), "second": describe()}

workflow.init(folder)
step = first.options(**workflow.options(task_id="first")).bind()
workflow.run_async(second.bind(step, flag), workflow_id=name)
workflow.get_output(name, task_id="first")
"""

BESIDE = """
def version():
    return "old module beside {name}"

class Box:
    def __init__(self, content):
        self.content = content
    def opened(self):
        return self.content
"""

LAZILY = """
from deeper import name

def version():
    from deeper import old
    return old + " module that " + name + " imports late"
"""


@dataclass(frozen=True)
class Job:
    """A driver, the environment of its job, and what its tasks must see."""

    name: str
    environment: dict[str, Any]
    sees: dict[str, str]

    @property
    def expected(self) -> dict[str, Any]:
        nothing = {"colour": None, "shipped": None, "packaged": None, "file": None}
        own = {"script": f"old script of {self.name}", "beside": f"old module beside {self.name}"}
        own["lazily"] = f"old module that {self.name} imports late"
        return {**own, **nothing, **self.sees}


def jobs(root: Path) -> list[Job]:
    return [
        # The first one makes the platform: nothing of it may stick to the others.
        Job(
            "working_dir",
            {"working_dir": str(root / "working_dir_source"), "env_vars": {"COLOUR": "red"}},
            {"shipped": "old shipped", "file": "old note", "colour": "red"},
        ),
        Job("plain", {}, {}),
        Job("py_modules", {"py_modules": [str(root / "packaged")]}, {"packaged": "old package"}),
        Job("env_vars", {"env_vars": {"COLOUR": "green"}}, {"colour": "green"}),
    ]


def write_sources(root: Path) -> None:
    for job in jobs(root):
        folder = root / job.name
        folder.mkdir()
        (folder / "driver.py").write_text(DRIVER)
        (folder / "beside.py").write_text(BESIDE.format(name=job.name))
        (folder / "lazily.py").write_text(LAZILY)
        (folder / "deeper.py").write_text(f"name, old = {job.name!r}, 'old'\n")
    (root / "working_dir_source").mkdir()
    (root / "working_dir_source" / "shipped.py").write_text('def version():\n    return "old shipped"\n')
    (root / "working_dir_source" / "note.txt").write_text("old note")
    (root / "packaged").mkdir()
    (root / "packaged" / "__init__.py").write_text('def version():\n    return "old package"\n')


def spoil_sources(root: Path) -> None:
    for path in (root / "plain").glob("*.py"):
        path.write_text(path.read_text().replace("old", "new"))
    (root / "working_dir_source" / "shipped.py").write_text('def version():\n    return "new shipped"\n')
    (root / "working_dir_source" / "note.txt").unlink()
    for name in ("packaged", "py_modules", "env_vars", "working_dir"):
        shutil.rmtree(root / name)


def drive(root: Path, address: str, job: Job, flag: str) -> str:
    script = root / job.name / "driver.py"
    ran = subprocess.run(
        [sys.executable, script, address, root / "storage", job.name, flag, json.dumps(job.environment)],
        cwd=root / job.name,
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_") or key == "RAY_AUTH_MODE"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The root of all sources, and what each job's workflow gave on a fresh cluster without them."""
    root = tmp_path_factory.mktemp("snapshot")
    write_sources(root)
    with own_cluster(num_cpus=8) as cluster:
        for job in jobs(root):
            drive(root, cluster.address, job, str(root / "go"))
    spoil_sources(root)
    with own_cluster(num_cpus=4) as cluster:
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        workflow.init(str(root / "storage"))
        (root / "go").touch()
        assert {name for name, _ in workflow.list_all("RESUMABLE")} == {job.name for job in jobs(root)}
        references = dict(workflow.resume_all())
        yield root, {name: ray.get(reference, timeout=120) for name, reference in references.items()}
        workflow.shutdown()
        ray.shutdown()


@pytest.mark.parametrize("name", ["plain", "working_dir", "py_modules", "env_vars"])
def test_a_resume_on_a_fresh_cluster_runs_the_code_and_environment_that_were_submitted(
    resumed: tuple[Path, dict[str, Any]], name: str
) -> None:
    root, results = resumed
    expected = next(job.expected for job in jobs(root) if job.name == name)
    assert results[name] == {"first": expected, "second": expected}


def test_a_job_without_an_environment_gets_none_after_others_with_one(resumed: tuple[Path, dict[str, Any]]) -> None:
    @ray.remote
    def look() -> Any:
        return dict(ray.get_runtime_context().runtime_env), os.environ.get("COLOUR")

    assert workflow.run(look.bind()) == ({}, None)


def test_a_task_adds_its_own_variables_to_those_of_its_job() -> None:
    job = {"env_vars": {"A": "job", "B": "job"}, "working_dir": "gcs://a.zip"}
    own = {"env_vars": {"B": "own"}, "pip": ["x"]}
    assert merge_environments(job, own) == {
        "env_vars": {"A": "job", "B": "own"},
        "working_dir": "gcs://a.zip",
        "pip": ["x"],
    }


def test_what_pip_is_to_install_is_stored_and_passed_on(tmp_path: Path) -> None:
    captured = {"pip": {"packages": ["left==1.0"], "pip_check": False}, "env_vars": {"A": "1"}}
    code = CodeStore(tmp_path)
    digest = Environments(code).store(orjson.dumps(captured))
    assert dict(Environments(code).load(digest)) == captured


def test_an_environment_is_stored_once_however_many_workflows_have_it(tmp_path: Path) -> None:
    captured = orjson.dumps({"env_vars": {"A": "1"}})
    environments = Environments(CodeStore(tmp_path))
    assert environments.stored(b"") == ""
    assert environments.stored(captured) is None
    digest = environments.store(captured)
    assert environments.stored(captured) == digest == environments.store(captured)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
