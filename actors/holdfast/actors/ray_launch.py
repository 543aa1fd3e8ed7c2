"""Starting tasks and listeners in Ray, with the options and the environment they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import ray

from holdfast.actors import names
from holdfast.actors.environment import Environments, merge_environments
from holdfast.actors.listener_host import ListenerHost
from holdfast.actors.listener_wards import Standing
from holdfast.actors.operating_system import this_process
from holdfast.actors.orphans import task_title
from holdfast.actors.placements import check_place, names_a_place
from holdfast.actors.ray_repeats import RAY_RETRIES
from holdfast.actors.ray_untyped import actor_class
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.task_call import TaskCall
from holdfast.actors.task_options import load_ray_options, max_calls
from holdfast.actors.task_runner import run_task
from holdfast.actors.wire import pack_call
from holdfast.storage.folder import StorageFolder
from holdfast.storage.workflow_row import WorkflowRow


class Launcher:
    """Starts what an executor asks for.

    Args:
        folder: The storage folder.
        address: Where it is, for those who are elsewhere.
        executor: Name of the executor.
        management: Handle of the management actor; None in a process that says nothing to it.

    Attributes:
        local_address: Where this process answers workers of this machine; empty for nowhere.
    """

    def __init__(self, folder: StorageFolder, address: StorageAddress, executor: str, management: Any = None) -> None:
        self._folder, self.address, self._executor = folder, address, executor
        self.management = management
        self.local_address = ""
        self._stored_code: set[str] = set()
        # Ray stores each new function, 4 ms, and each worker fetches it, 3 ms: one for all that can share it.
        self._function_of_ray = lru_cache(maxsize=4096)(_function_of_ray)
        # Per set of options: `.options()` costs as much as a call.
        self._function = lru_cache(maxsize=4096)(self._make_function)
        self._environments = Environments(folder.code)
        self._task_title = task_title(executor, this_process())

    def start_task(self, row: WorkflowRow, call: TaskCall) -> Any:
        """Start a task; the reference of its reply."""
        if row.environment:
            # Each time: a cluster may have forgotten the packages since the function was made.
            self._environments.load(row.environment)
        ray_options = call.node.options.ray_options
        # Ray counts the runs of each of its functions.
        counted = call.node.function if max_calls(ray_options) else ""
        self._check_place(ray_options)
        function = self._function(ray_options, row.environment, counted)
        return function.remote(pack_call(call))

    def start_bundle(self, row: WorkflowRow, calls: Sequence[TaskCall]) -> Any:
        """Start tasks of one kind, one after the other in one worker; the reference of a `BundleReply`.

        Args:
            row: A workflow with the environment of all.
            calls: The tasks.
        """
        if row.environment:
            self._environments.load(row.environment)
        self._check_place(calls[0].node.options.ray_options)
        function = self._function(calls[0].node.options.ray_options, row.environment, "")
        return function.remote((self.owner, self.local_address, [pack_call(call) for call in calls]))

    def start_listener(self, row: WorkflowRow, call: TaskCall, standing: Standing) -> Any:
        """Poll a listener, or acknowledge its event; the reference of the reply."""
        host = self.listener_host(row.environment, standing.ward)
        ask = host.poll if call.event is None else host.acknowledge
        return ask.remote(pack_call(call), standing.mark)

    @cached_property
    def owner(self) -> str:
        """What workers know this process by, and those that Ray starts in its place."""
        return ray.get_runtime_context().get_actor_id() or ""

    def lacks(self, code: Mapping[str, bytes]) -> bool:
        """Whether some of this code is not known to be stored."""
        return any(digest not in self._stored_code for digest in code)

    def store_code(self, code: Mapping[str, bytes]) -> None:
        """Make code durable, each piece once."""
        for digest, content in code.items():
            if digest not in self._stored_code:
                self._folder.code.put(content)
                self._stored_code.add(digest)

    def environment_of(self, captured: bytes) -> str | None:
        """The hash of a job's environment; None when it has to be stored first, with `store_environment`."""
        return self._environments.stored(captured)

    def store_environment(self, captured: bytes) -> str:
        """Make a job's environment durable; its hash."""
        return self._environments.store(captured)

    @staticmethod
    def _check_place(ray_options: bytes) -> None:
        if _names_a_place(ray_options):
            # Each time: a group can be removed, and a node can die.
            check_place(load_ray_options(ray_options))

    def _make_function(self, ray_options: bytes, environment: str, counted: str) -> Any:
        options = load_ray_options(ray_options)
        # Retries are counted by the engine, whatever the user's options say to Ray.
        options.update(RAY_RETRIES)
        limit = options.pop("max_calls", 0)
        options["name"] = self._task_title
        if environment:
            own = options.get("runtime_env") or {}
            options["runtime_env"] = merge_environments(self._environments.load(environment), own)
        return self._function_of_ray(limit, counted).options(**options)

    def listener_host(self, environment: str, ward: int = 0) -> Any:
        """The process that runs users' listeners, and names workflows, in a runtime environment.

        Args:
            environment: Hash of the environment; empty for none.
            ward: 0 for the first one; from 1 on for one beside it.
        """
        options: dict[str, Any] = {}
        if environment:
            options["runtime_env"] = self._environments.load(environment)
        return (
            actor_class(ListenerHost)
            .options(
                name=names.listener_host_name(environment, ward),
                namespace=names.NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                enable_task_events=False,
                max_restarts=-1,
                max_task_retries=0,
                **options,
            )
            .remote()
        )


def _function_of_ray(limit: int, _counted: str) -> Any:
    return ray.remote(max_calls=limit)(run_task)


@lru_cache(maxsize=4096)
def _names_a_place(ray_options: bytes) -> bool:
    return names_a_place(load_ray_options(ray_options))
