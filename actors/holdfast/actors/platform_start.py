"""Making the management actor, in a job without a runtime environment of its own.

A Ray actor inherits the environment of the job that makes it, and what it
starts inherits it again: a platform made by a driver with a `working_dir` would
run the tasks of every other driver there. Ray can add to an environment, never
take away; so where there is one, a short-lived process joins the cluster
without it and makes the actor. Nothing here opens a storage.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import subprocess
import sys
import time
from typing import Any

import orjson
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors import names
from holdfast.actors.environment import capture_environment
from holdfast.actors.management import ManagementActor, PlatformConfig
from holdfast.actors.ray_untyped import actor_class

log = logging.getLogger("holdfast")

_STARTING_S = 60.0
_ENDING_S = 30.0
# Says which environment a driver gets that gives none, as `ray job submit` does for its own.
_JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Where the packages of environments are unpacked: part of their entries in PYTHONPATH.
_UNPACKED = "runtime_resources"


def start_management(config: PlatformConfig) -> Any:
    """Make the management actor on this node, or find it."""
    node_id = ray.get_runtime_context().get_node_id()
    environment = capture_environment()
    if environment:
        arguments = (ray.get_runtime_context().gcs_address, config, node_id, environment)
        client: Any = ray.util.client.ray
        if client.is_connected():
            # This process is not in the cluster.
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            problem = ray.get(_run_clean_job_there.options(scheduling_strategy=here).remote(*arguments))
        else:
            problem = _run_clean_job(*arguments)
        if not problem:
            return ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE)
        log.warning(
            "the platform runs in the runtime environment of this job, and tasks of other jobs inherit from it: %s",
            problem,
        )
        wait_until_gone(names.MANAGEMENT)
    return _make_management(config, node_id)


def wait_until_gone(name: str) -> None:
    """Wait until an actor that was killed is, and its process with it."""
    deadline = time.monotonic() + _ENDING_S
    while time.monotonic() < deadline:
        try:
            ray.get(ray.get_actor(name, namespace=names.NAMESPACE).__ray_ready__.remote(), timeout=1.0)
        except (ValueError, RayActorError):
            return
        except ray.exceptions.GetTimeoutError:
            continue


def _make_management(config: PlatformConfig, node_id: str) -> Any:
    return (
        actor_class(ManagementActor)
        .options(
            name=names.MANAGEMENT,
            namespace=names.NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            enable_task_events=False,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(config)
    )


def _run_clean_job(gcs_address: str, config: PlatformConfig, node_id: str, environment: bytes) -> str:
    """Have the actor made by a process without the environment. Returns what went wrong; empty when nothing did."""
    own = set(orjson.loads(environment).get("env_vars") or ()) | {_JOB_CONFIG_VARIABLE}
    variables = {name: value for name, value in os.environ.items() if name not in own}
    paths = [path for path in variables.pop("PYTHONPATH", "").split(os.pathsep) if path and _UNPACKED not in path]
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    arguments = base64.b64encode(pickle.dumps((gcs_address, config, node_id))).decode()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "holdfast.actors.platform_start", arguments],
            cwd="/",
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_STARTING_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the process that was to start it elsewhere took more than {_STARTING_S:g} s"
    return "" if ran.returncode == 0 else f"without it, it did not start ({ran.stderr.strip()[-500:]})"


@ray.remote(num_cpus=0)
def _run_clean_job_there(gcs_address: str, config: PlatformConfig, node_id: str, environment: bytes) -> str:
    return _run_clean_job(gcs_address, config, node_id, environment)


def _clean_job(arguments: str) -> None:
    gcs_address, config, node_id = pickle.loads(base64.b64decode(arguments))
    ray.init(gcs_address, log_to_driver=False, logging_level=logging.ERROR)
    management = _make_management(config, node_id)
    try:
        ray.get(management.__ray_ready__.remote(), timeout=_STARTING_S / 2)
    except RayError:
        ray.kill(management, no_restart=True)
        raise


if __name__ == "__main__":
    _clean_job(sys.argv[1])
