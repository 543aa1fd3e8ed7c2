"""`workflow.options(...)`: how a task's options are given, how they ride through Ray, what they come to.

They ride in Ray's `_labels` option, the one that passes through `.options()`
and `.bind()` unchecked: as an attribute of a dict that, to Ray, holds the user's
own labels only. So a function with workflow options still runs as a plain Ray
task, and nothing of ours is ever submitted. Ray lets the labels of `.options()`
replace those of `@ray.remote`; importing this module makes Ray merge them.
This is the only module that knows any of that.
"""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import ray.cloudpickle
from ray.remote_function import RemoteFunction

from holdfast.actors.code import dump_code
from holdfast.actors.plain_variables import warn_of_plain_variables
from holdfast.actors.user_code import described, user_hooks, what_ended
from holdfast.engine.given_numbers import check_limit, check_whole
from holdfast.engine.graph import TaskOptions
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.storage.strict_json import check_metadata

ACCEPTED = (
    "task_id",
    "name",
    "metadata",
    "catch_exceptions",
    "checkpoint",
    "max_retries",
    "retry_exceptions",
    "allow_inplace",
    "timeout_s",
    "retry",
)
_DEFAULT_MAX_RETRIES = 3
_LABELS, _MAX_CALLS = "_labels", "max_calls"
# Without type hints.
_cloudpickle: Any = ray.cloudpickle
# Ray options that say nothing about where and how a task runs, or that Holdfast decides itself.
_NOT_FORWARDED = frozenset(
    {
        _LABELS,
        "num_returns",
        "max_retries",
        "retry_exceptions",
        "name",
        _MAX_CALLS,
        "_generator_backpressure_num_objects",
        "_num_objects_per_yield",
    }
)

_F = TypeVar("_F")

log = logging.getLogger("holdfast")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Retries with durable exponential back-off, which holds no worker while it waits.

    Attributes:
        max_attempts: Executions in all, the first included; -1 for no limit.
        initial_s: Delay before the second attempt, in seconds.
        factor: What each further delay is multiplied by, at least 1.
        max_s: Upper bound of a delay, in seconds; infinity for none.
        jitter: Part of the delay, 0 to 1, drawn at random and taken off.
        non_retryable: Exception types that fail the task at once.
    """

    max_attempts: int = 3
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.1
    non_retryable: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        kinds = self.non_retryable
        object.__setattr__(self, "non_retryable", (kinds,) if isinstance(kinds, type) else tuple(kinds))
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.non_retryable):
            raise ValueError(f"non_retryable must be exception types, not {kinds!r}")
        self.policy()

    def policy(self) -> RetryPolicy:
        """The engine's form of it."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            initial_s=self.initial_s,
            factor=self.factor,
            max_s=self.max_s,
            jitter=self.jitter,
        )


class WorkflowOptions(Mapping[str, Any]):
    """Options of a task; what `workflow.options(...)` returns.

    A mapping for `f.options(**workflow.options(...))` and `@ray.remote(**workflow.options(...))`, and a
    decorator over a Ray remote function.
    """

    def __init__(self, **given: Any) -> None:
        """Check options.

        Args:
            **given: Any of `ACCEPTED`; None takes the default back.

        Raises:
            ValueError: Unknown key, or a value that is out of range or not of its type.
        """
        self.given = check_options(given)

    def __getitem__(self, key: str) -> Any:
        if key != _LABELS:
            raise KeyError(key)
        return _CarryingLabels({}, self.given)

    def __iter__(self) -> Iterator[str]:
        return iter((_LABELS,))

    def __len__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"workflow.options({', '.join(f'{key}={value!r}' for key, value in self.given.items())})"

    def __call__(self, function: _F) -> _F:
        """Give a Ray remote function these options; those it has keep their other keys.

        Raises:
            ValueError: Not a Ray remote function.
        """
        if not isinstance(function, RemoteFunction):
            raise ValueError(
                f"workflow.options decorates Ray remote functions, not {function!r}: put it above @ray.remote"
            )
        defaults = function._default_options
        # A new dict: nodes bound before keep the options they were bound with.
        function._default_options = {**defaults, _LABELS: _merge(defaults.get(_LABELS), self[_LABELS])}
        return function


class _CarryingLabels(dict[str, str]):
    """The user's own labels, to Ray; beside them, the workflow options."""

    def __init__(self, labels: Mapping[str, str], options: Mapping[str, Any]) -> None:
        super().__init__(labels)
        self.options = dict(options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _CarryingLabels, (dict(self), self.options)


def carried_options(ray_options: Mapping[str, Any]) -> dict[str, Any]:
    """The workflow options that ride in a function's or node's Ray options."""
    labels = ray_options.get(_LABELS)
    return dict(labels.options) if isinstance(labels, _CarryingLabels) else {}


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check workflow options and make `name` a `task_id`.

    Raises:
        ValueError: Unknown key, or a value that is out of range or not of its type; names both.
    """
    for key in given:
        if key not in ACCEPTED:
            raise ValueError(f"unknown workflow option {key!r}; accepted are {', '.join(ACCEPTED)}")
    checked = {key: _check_one(key, value) for key, value in given.items() if key != "name"}
    name = given.get("name")
    if name is not None:
        if given.get("task_id") not in (None, name):
            raise ValueError(f"name={name!r} and task_id={given['task_id']!r} are the same option: give one")
        checked["task_id"] = _check_one("name", name)
    return checked


def _check_one(key: str, value: Any) -> Any:
    if value is None:
        return None
    problem = ""
    if key in ("task_id", "name"):
        if not isinstance(value, str) or not value or not _is_text(value):
            problem = "must be a non-empty string of valid text"
    elif key == "metadata":
        return check_metadata(value)
    elif key in ("catch_exceptions", "checkpoint", "allow_inplace"):
        if not isinstance(value, bool):
            problem = "must be True or False"
    elif key == "max_retries":
        return check_whole(f"workflow option {key!r}", value, least=0, also=-1, meaning="no limit")
    elif key == "retry_exceptions":
        if not isinstance(value, bool) and not (
            isinstance(value, (list, tuple))
            and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in value)
        ):
            problem = "must be True, False or a list of exception types"
    elif key == "timeout_s":
        return check_limit(f"workflow option {key!r}", value, above=True)
    elif not isinstance(value, Retry):
        problem = "must be a workflow.Retry(...)"
    if problem:
        raise ValueError(f"workflow option {key!r} {problem}, not {value!r}")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a task's options come to.

    Attributes:
        task_id: The id asked for, None for the default.
        options: For the engine.
    """

    task_id: str | None
    options: TaskOptions


def resolve(given: Mapping[str, Any], ray_options: Mapping[str, Any], *, step_api: bool = False) -> Resolved:
    """Bring workflow options and Ray options together.

    Args:
        given: Checked workflow options (`carried_options`, or a step's own).
        ray_options: The function's Ray options.
        step_api: Retries are counted as the step API did: exceptions alone, worker deaths apart.

    Raises:
        ValueError: `num_returns` other than 1, or an option out of range.
        ResultNotStoredError: The Ray options or exception types cannot be pickled.

    Semantics: API.md, "Errors". Ray's own `max_retries` and `retry_exceptions` count where `given` says nothing.
    """
    if ray_options.get("num_returns") not in (None, 1):
        raise ValueError(
            f"num_returns={ray_options['num_returns']!r} is not supported in a workflow: return one tuple instead"
        )
    asked = {key: value for key, value in given.items() if value is not None}
    retries = _check_one("max_retries", asked.get("max_retries", ray_options.get("max_retries")))
    kinds = asked.get("retry_exceptions", ray_options.get("retry_exceptions"))
    retry: Retry | None = asked.get("retry")
    return Resolved(
        task_id=asked.get("task_id"),
        options=TaskOptions(
            catch_exceptions=asked.get("catch_exceptions", False),
            checkpoint=asked.get("checkpoint", True),
            in_place=asked.get("allow_inplace", False),
            budget=_budget(retries, kinds, step_api=step_api),
            retry=retry.policy() if retry is not None else None,
            timeout_s=float(asked["timeout_s"]) if "timeout_s" in asked else None,
            metadata=asked.get("metadata", {}),
            ray_options=_pickle_ray_options(ray_options, asked.get(_MAX_CALLS, ray_options.get(_MAX_CALLS))),
            exception_filter=_pickle_filter(kinds, retry),
        ),
    )


def _budget(retries: int | None, kinds: Any, *, step_api: bool) -> RetryBudget:
    if step_api:
        errors = 0 if kinds is False else (retries or 0)
        return RetryBudget(deaths=_DEFAULT_MAX_RETRIES, errors=errors, shared=False)
    deaths = _DEFAULT_MAX_RETRIES if retries is None else retries
    # An empty list retries nothing, in Ray too.
    return RetryBudget(deaths=deaths, errors=deaths if kinds else 0, shared=True)


def _pickle_ray_options(ray_options: Mapping[str, Any], max_calls: int | None) -> bytes:
    kept = {key: value for key, value in ray_options.items() if key not in _NOT_FORWARDED and value is not None}
    labels = dict(ray_options.get(_LABELS) or {})
    if labels:
        kept[_LABELS] = labels
    if "runtime_env" in kept:
        warn_of_plain_variables(kept["runtime_env"])
    if max_calls:
        # 0 says that there is no limit.
        kept[_MAX_CALLS] = max_calls
    return bytes(_cloudpickle.dumps(kept, protocol=5)) if kept else b""


def load_ray_options(pickled: bytes) -> dict[str, Any]:
    """The Ray options of a task, ready for `ray.remote`; all but `max_calls` for `.options` of a remote function."""
    options: dict[str, Any] = pickle.loads(pickled) if pickled else {}
    return options


@lru_cache(maxsize=4096)
def max_calls(ray_options: bytes) -> int:
    """After how many runs of a function its worker is to end; 0 for no limit."""
    limit: int = load_ray_options(ray_options).get(_MAX_CALLS, 0)
    return limit


def workers_for(ray_options: bytes, cpus: float) -> int | None:
    """How many tasks a cluster runs at once.

    Args:
        ray_options: What each of them asks Ray for.
        cpus: How many CPUs the cluster has.

    Returns:
        At least 1; None when it is not the CPUs that limit them, or not they alone.
    """
    needs = _cpus_needed(ray_options)
    return None if needs is None else max(1, int(cpus / needs))


@lru_cache(maxsize=4096)
def _cpus_needed(ray_options: bytes) -> float | None:
    options = load_ray_options(ray_options)
    needs = options.pop("num_cpus", 1)
    # Whatever else is asked for may mean that a task is to be alone in its worker.
    return None if options or needs <= 0 else float(needs)


def _pickle_filter(kinds: Any, retry: Retry | None) -> bytes:
    retried = tuple(kinds) if isinstance(kinds, (list, tuple)) else None
    never = retry.non_retryable if retry is not None else ()
    return dump_code((retried, never)) if retried is not None or never else b""


def is_retryable(exception_filter: bytes, error: BaseException) -> bool:
    """Whether a task's `exception_filter` lets this error be retried. Run it where the error was raised."""
    if not exception_filter:
        return True
    ended = what_ended(error)
    try:
        with user_hooks:
            retried, never = pickle.loads(exception_filter)
            return not isinstance(ended, never) and (retried is None or isinstance(ended, retried))
    except Exception as reason:  # noqa: BLE001 - the classes are the user's, and may refuse to load or to be compared
        log.error("tasks.exception_filter_failed error=%s: nothing is retried", described(reason))
        return False


def _merge(older: Any, newer: Any) -> _CarryingLabels:
    carried = [carried_options({_LABELS: labels}) for labels in (older, newer)]
    return _CarryingLabels({**(older or {}), **(newer or {})}, {**carried[0], **carried[1]})


def _patch() -> None:
    """Have Ray merge workflow options with those of the decorator, and submit labels without them.

    `max_calls` of the decorator rides along, for `.options()` would lose it.

    Ray's submission takes a plain dict of labels only, so what carries options is replaced there by the
    user's own labels.
    """
    plain_options: Callable[..., Any] = RemoteFunction.options
    plain_remote: Callable[..., Any] = RemoteFunction._remote
    if hasattr(plain_options, "_holdfast_patched"):
        return

    @functools.wraps(plain_options)
    def options(self: RemoteFunction, **task_options: Any) -> Any:
        if _LABELS in task_options:
            older, newer = self._default_options.get(_LABELS), task_options[_LABELS]
            if isinstance(older, _CarryingLabels) or isinstance(newer, _CarryingLabels):
                task_options[_LABELS] = _merge(older, newer)
        limit = self._default_options.get(_MAX_CALLS)
        if limit:
            # Ray forgets it here, for what it submits itself knows it by other means.
            labels = task_options.get(_LABELS, self._default_options.get(_LABELS))
            task_options[_LABELS] = _merge(labels, _CarryingLabels({}, {_MAX_CALLS: limit}))
        return plain_options(self, **task_options)

    @functools.wraps(plain_remote)
    def remote(self: RemoteFunction, *args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get(_LABELS), _CarryingLabels):
            kwargs[_LABELS] = dict(kwargs[_LABELS])
        return plain_remote(self, *args, **kwargs)

    options._holdfast_patched = True  # type: ignore[attr-defined]
    RemoteFunction.options = options  # type: ignore[method-assign]
    RemoteFunction._remote = remote  # type: ignore[method-assign]


_patch()
