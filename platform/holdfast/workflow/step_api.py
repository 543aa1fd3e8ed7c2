"""`@workflow.step`: functions as the first generation of the API declared them.

It makes step Workflows out of functions and options; building graphs of them
and running them is done elsewhere. Nothing here talks to Ray.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, overload

from holdfast.actors.coroutines import check_not_async_generator
from holdfast.actors.graph_builder import check_arguments
from holdfast.actors.nodes import StepNode, default_task_id
from holdfast.actors.task_options import ACCEPTED, check_options

__all__ = ["StepFunction", "step"]


class StepFunction:
    """A function that `@workflow.step` made a step of.

    Args:
        function: What it runs.
        options: Checked workflow options.
        ray_options: Ray options of its task.
    """

    def __init__(
        self, function: Callable[..., Any], options: Mapping[str, Any], ray_options: Mapping[str, Any]
    ) -> None:
        self._function, self._options, self._ray_options = function, dict(options), dict(ray_options)
        self._signature: inspect.Signature | None = None
        if not isinstance(function, functools.partial):
            functools.update_wrapper(self, function)

    def step(self, *args: Any, **kwargs: Any) -> StepNode:
        """Bind arguments; nothing runs yet.

        Args:
            *args: Positional arguments; Workflows anywhere inside arrive as values.
            **kwargs: Keyword arguments, likewise.

        Returns:
            The Workflow, with `.run()`, `.run_async()` and `.step_id`.

        Raises:
            TypeError: The function does not take these arguments.
        """
        if self._signature is None:
            self._signature = _signature_of(self._function)
        check_arguments(self._function, self._signature, args, kwargs)
        return StepNode(self._function, args, kwargs, options=self._options, ray_options=self._ray_options)

    def options(self, **given: Any) -> StepFunction:
        """The same step with other options; those not named stay.

        Args:
            **given: As for `step`.

        Raises:
            ValueError: An option that is refused.
        """
        options, ray_options = _split(given)
        return StepFunction(self._function, {**self._options, **options}, {**self._ray_options, **ray_options})

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a step is bound, not called."""
        name = default_task_id(self._function)
        raise TypeError(f"step {name!r} cannot be called: use .step(...), and .run() on what it returns")

    def __getstate__(self) -> dict[str, Any]:
        # Without the signature: a step that refers to itself is unpickled before its function is complete, and
        # the signature of an incomplete one lacks its defaults.
        return {**self.__dict__, "_signature": None}

    def __repr__(self) -> str:
        return f"<step {default_task_id(self._function)!r}>"


@overload
def step(function: Callable[..., Any], /) -> StepFunction: ...


@overload
def step(**given: Any) -> Callable[[Callable[..., Any]], StepFunction]: ...


def step(function: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a function a step: `@step`, or `@step(name=..., num_cpus=...)`.

    Args:
        function: The function; also a `functools.partial`, or a coroutine function: it runs to its end in the worker.
        **given: `name` (or `task_id`), `metadata`, `max_retries` (exceptions retried), `catch_exceptions`,
            `allow_inplace`, `checkpoint`, `retry_exceptions`, `retry`, `timeout_s`; all others are Ray options.

    Raises:
        TypeError: Not a function, or an async generator.
        ValueError: An option that is refused.

    Semantics: as `ray.workflow.step` of Ray 1.13.
    """
    options, ray_options = _split(given)

    def decorate(decorated: Callable[..., Any]) -> StepFunction:
        if isinstance(decorated, (type, StepFunction)) or not (
            inspect.isroutine(decorated) or isinstance(decorated, functools.partial)
        ):
            raise TypeError(f"@workflow.step takes a function, not {decorated!r}")
        check_not_async_generator(decorated)
        return StepFunction(decorated, options, ray_options)

    return decorate if function is None else decorate(function)


def _split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {key: value for key, value in given.items() if key in ACCEPTED}
    return check_options(own), {key: value for key, value in given.items() if key not in own}


def _signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except ValueError:
        # Some functions written in C have none.
        return None
