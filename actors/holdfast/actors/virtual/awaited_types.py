"""What a type checker sees of `.aio` on classes and methods of virtual actors that inherit from `VirtualActor`.

At run time handles and decorated classes stand in their place, which have an `.aio` of their own; whoever comes here
has used a method of `self`, or a class that is not decorated, and is told so.
"""

from __future__ import annotations

from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_R_co = TypeVar("_R_co", covariant=True)
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class AwaitedCalls(Protocol[_P, _R_co]):
    """`handle.method.aio`."""

    async def run(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """As `run` of the method, awaited."""
        ...

    async def run_async(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """As `run_async` of the method: an awaitable Ray reference."""
        ...


class AwaitedMaking(Protocol[_T_co]):
    """`Class.aio`. What the constructor takes is checked when it is called: mypy finds no way from a class to that."""

    async def get_or_create(self, actor_id: str, /, *args: Any, **kwargs: Any) -> _T_co:
        """As `get_or_create` of the class, awaited."""
        ...


class AwaitedTwin:
    """The attribute `aio` of the base class."""

    def __get__(self, instance: Any, owner: type[_T]) -> AwaitedMaking[_T]:
        raise TypeError(f"{owner!r}.aio makes nothing: decorate the class with @workflow.virtual_actor")


def refuse_aio(name: str) -> NoReturn:
    """Refuse `self.method.aio`.

    Raises:
        TypeError: Always.
    """
    raise TypeError(f"self.{name}.aio would wait for itself: call self.{name}(...), or return self.{name}.step(...)")
