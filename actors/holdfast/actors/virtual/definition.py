"""What a virtual actor's class is: its methods, options and migrations.

`workflow.virtual_actor` prepares a class here, once, where it is declared; a
host reads the same off the class that it has loaded. The user's class is the
one thing that is stored: whatever is known of it is kept in it. Nothing here
talks to Ray, and nothing is called or run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NoReturn, ParamSpec, TypeVar

from holdfast.actors.nodes import StepNode, default_task_id
from holdfast.actors.task_context import current_task
from holdfast.actors.task_options import ACCEPTED, check_options
from holdfast.actors.virtual.awaited_types import AwaitedCalls, AwaitedTwin, refuse_aio
from holdfast.actors.virtual.context import current_call
from holdfast.actors.virtual.event_rules import MethodRule, hearing_functions
from holdfast.actors.virtual.inner_call import call_from_inside
from holdfast.engine.virtual_actor_records import DEFAULT_MAILBOX_LIMIT

OnError = Literal["raise", "suspend"]

_SETTINGS, _METHOD, _FROM_VERSION = "__virtual_actor__", "_holdfast_method", "__migrates_from__"
_FORMERLY = "__virtual_actor_formerly__"
# What a handle has itself: a method of this name could not be called.
_RESERVED = frozenset({"actor_id", "ready"})

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSettings:
    """What the decorator says of a class.

    Attributes:
        version: Of the class's state.
        on_error: What an error of a writing method does: "raise" tells the caller only, "suspend" also holds the
            mailbox until `workflow.resume`.
        mailbox_limit: How many accepted calls of one actor may wait.
        ray_options: Of the process that runs it; with any, its actors have processes of their own.
        runtime_env: Of the same.
    """

    version: int = 1
    on_error: OnError = "raise"
    mailbox_limit: int = DEFAULT_MAILBOX_LIMIT
    ray_options: Mapping[str, Any] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] | None = None


class ActorMethod(Generic[_P, _R]):
    """A method of a virtual actor's class, in place of the plain function."""

    def __init__(
        self, function: Callable[..., Any], *, readonly: bool = False, rules: tuple[MethodRule, ...] = ()
    ) -> None:
        if not inspect.isfunction(function):
            raise TypeError(f"a method of a virtual actor is a plain function, not {function!r}")
        self.function, self.readonly, self.rules = function, readonly, rules
        plain: Any = self
        functools.update_wrapper(plain, function)

    def __get__(self, instance: Any, owner: type | None = None) -> BoundMethod[_P, _R]:
        return BoundMethod(self, instance)

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "readonly": self.readonly, "rules": self.rules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # What `update_wrapper` takes from a function may not be there yet: it can be part of a cycle.
        self.__dict__["__wrapped__"] = self.function

    def __repr__(self) -> str:
        return f"<method {self.function.__qualname__!r} of a virtual actor>"


class BoundMethod(Generic[_P, _R]):
    """A method as its own actor sees it: called it runs here and now; with `.step` it runs after this call.

    On a handle, which looks the same to a type checker, `run`, `run_async` and `aio` call the actor.
    """

    __slots__ = ("_instance", "_method", "_options")

    def __init__(self, method: ActorMethod[_P, _R], instance: Any, options: Mapping[str, Any] | None = None) -> None:
        self._method, self._instance, self._options = method, instance, dict(options or {})

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run the method as part of the one that calls it."""
        if self._instance is None:
            # As a function of the class: the first argument is the instance.
            result: _R = self._method.function(*args, **kwargs)
            return result
        return self._method.function(self._instance, *args, **kwargs)  # type: ignore[no-any-return]

    def step(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """A step that runs the method on this actor, before the actor's next call: return it, or pass it to one.

        Raises:
            TypeError: The method does not take these arguments.
            RuntimeError: Not in a method of a virtual actor.
        """
        name = self._method.function.__name__
        call = current_call()
        if call is None or self._instance is None:
            raise RuntimeError(f"self.{name}.step(...) belongs into a method of a virtual actor that runs")
        bind(self._method, args, kwargs)
        return StepNode(
            call_from_inside,
            (call.host, call.actor_id, call.number, name, args, kwargs),
            options={"task_id": name, **self._options},
            ray_options={"num_cpus": 0},
        )

    def options(self, **given: Any) -> BoundMethod[_P, _R]:
        """The same method, its step with these workflow options.

        Raises:
            ValueError: An option that is refused.
        """
        return BoundMethod(self._method, self._instance, {**self._options, **check_options(given)})

    def run(self, *_: _P.args, **__: _P.kwargs) -> _R:
        """On a handle: call the method and wait for its result."""
        self._refuse("run")

    def run_async(self, *_: _P.args, **__: _P.kwargs) -> Any:
        """On a handle: have the method called; a reference of its result."""
        self._refuse("run_async")

    @property
    def aio(self) -> AwaitedCalls[_P, _R]:
        """On a handle: the same calls for async code."""
        refuse_aio(self._method.function.__name__)

    def _refuse(self, what: str) -> NoReturn:
        name = self._method.function.__name__
        raise TypeError(
            f"self.{name}.{what}(...) would wait for itself: call self.{name}(...), or return self.{name}.step(...)"
        )

    def __getattr__(self, name: str) -> Any:
        # What a bound method has of its function: __name__, __doc__, __wrapped__ ...
        return getattr(self._method.function, name)


class VirtualActor:
    """A base for those who have their types checked; any class will do otherwise.

    With it, and with `virtual_actor.method` or `virtual_actor.readonly` over its methods, a type checker knows the
    arguments of `get_or_create`, and of the methods of the handle that it returns.
    """

    aio = AwaitedTwin()

    @property
    def actor_id(self) -> str:
        """The id of the actor whose method runs.

        Raises:
            RuntimeError: None does.
        """
        task = current_task()
        if task is None:
            raise RuntimeError("actor_id is known in a method of a virtual actor that runs")
        return task.workflow_id

    @classmethod
    def get_or_create(cls: Callable[_P, _T], actor_id: str, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The actor of an id, made when there is none: see `workflow.virtual_actor`."""
        raise TypeError(
            f"{default_task_id(cls)}.get_or_create({actor_id!r}, {len(args) + len(kwargs)} arguments) makes nothing: "
            "decorate the class with @workflow.virtual_actor"
        )

    def ready(self) -> Any:
        """On a handle: a reference that is there when the actor has been made."""
        raise TypeError("ready() is for those who call the actor")


@dataclass(frozen=True, kw_only=True)
class ActorDefinition:
    """A prepared class, and what is to be known of it.

    Attributes:
        cls: The user's class.
        name: `<module>.<qualname>`: actors of it are of no other class.
        formerly: Names under which actors of this class may be stored, beside that.
        settings: What its decorator said.
        methods: By name.
        hearing: What events call in place of a method, by the names that their rules have for it.
        migrations: Version -> what makes the state of the next version of it.
    """

    cls: type
    name: str
    formerly: tuple[str, ...]
    settings: ActorSettings
    methods: Mapping[str, ActorMethod[..., Any]]
    hearing: Mapping[str, ActorMethod[..., Any]]
    migrations: Mapping[int, Callable[[Any], Any]]
    _signatures: dict[str, inspect.Signature | None] = field(default_factory=dict)

    def method(self, name: str) -> ActorMethod[..., Any]:
        """A method.

        Raises:
            AttributeError: There is none of this name that can be called.
        """
        found = self.methods.get(name) or self.hearing.get(name)
        if found is None:
            known = ", ".join(sorted(self.methods)) or "none"
            raise AttributeError(f"virtual actors of class {self.name!r} have no method {name!r}; they have: {known}")
        return found

    def check_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that a method, or the constructor, does not take.

        Args:
            name: The method; "__init__" for the constructor.
            args: Without the instance.
            kwargs: By keyword.

        Raises:
            TypeError: Too many, missing or unknown ones; names the method.
            AttributeError: There is no such method.
        """
        if name == "__init__":
            if self.cls.__init__ is not object.__init__:  # type: ignore[misc]
                _bind(f"{self.name}.__init__", self.cls.__init__, args, kwargs)  # type: ignore[misc]
            elif args or kwargs:
                raise TypeError(f"{self.name} has no __init__ and takes no arguments")
        else:
            _bind(f"{self.name}.{name}", self.method(name).function, args, kwargs)


def prepare(cls: Any, settings: ActorSettings, formerly: tuple[str, ...] = ()) -> None:
    """Make a class one of virtual actors. It is changed in place; classes that it inherits from are not.

    Args:
        cls: The class.
        settings: What its decorator says.
        formerly: Names that it had before.

    Raises:
        TypeError: Not a class.
        ValueError: `__getstate__` without `__setstate__`, or the reverse; a method of a reserved name; migrations
            that do not fit its version; events are to make its actors, and cannot.
    """
    if not isinstance(cls, type):
        raise TypeError(f"@workflow.virtual_actor takes a class, not {cls!r}")
    _check_state_methods(cls)
    if not cls.__dictoffset__ and not has_own_state(cls):
        raise ValueError(f"{cls.__qualname__} has __slots__ and no __dict__: define __getstate__ and __setstate__")
    for name in _public_names(cls):
        found = inspect.getattr_static(cls, name)
        if isinstance(found, ActorMethod) or inspect.isfunction(found):
            if _version_of(found) is not None:
                continue
            if name in _RESERVED:
                raise ValueError(
                    f"{cls.__qualname__}.{name} cannot be called: a handle's own {name!r} is there. Rename the method"
                )
            # Inherited ones too: .step has to be there, and the base class may serve others.
            setattr(cls, name, found if isinstance(found, ActorMethod) else ActorMethod(found))
            if isinstance(found, ActorMethod) and any(rule.creates for rule in found.rules):
                _check_made_by_events(cls, name)
    setattr(cls, _SETTINGS, settings)
    if formerly:
        setattr(cls, _FORMERLY, formerly)
    _migrations_of(cls, settings.version)


@functools.lru_cache(maxsize=1024)
def definition_of(cls: type) -> ActorDefinition:
    """What is to be known of a prepared class."""
    settings: ActorSettings = vars(cls)[_SETTINGS]
    methods = {
        name: found
        for name in _public_names(cls)
        if isinstance(found := inspect.getattr_static(cls, name), ActorMethod)
    }
    return ActorDefinition(
        cls=cls,
        name=default_task_id(cls),
        formerly=_former_names(cls, settings.version),
        settings=settings,
        methods=methods,
        hearing={
            called: ActorMethod(function)
            for name, method in methods.items()
            for called, function in hearing_functions(name, method.function, method.rules).items()
        },
        migrations=_migrations_of(cls, settings.version),
    )


def _former_names(cls: type, version: int) -> tuple[str, ...]:
    names = [name.replace("<locals>", "locals") for name in vars(cls).get(_FORMERLY, ())]
    for base in cls.__mro__[1:]:
        # A class made of an older version of itself.
        older: ActorSettings | None = vars(base).get(_SETTINGS)
        if older is not None and older.version < version:
            names.append(default_task_id(base))
    return tuple(dict.fromkeys(names))


def migration(function: Any, from_version: int) -> Any:
    """Mark a function of a class body as the one that carries a state forward."""
    inner = function.__func__ if isinstance(function, staticmethod) else function
    if not inspect.isfunction(inner):
        raise TypeError(f"@workflow.migrate takes a function of the class's body, not {function!r}")
    setattr(inner, _FROM_VERSION, from_version)
    return staticmethod(inner)


def bind(method: ActorMethod[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that a method does not take.

    Raises:
        TypeError: Too many, missing or unknown ones; names the method.
    """
    _bind(default_task_id(method.function), method.function, args, kwargs)


def split_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(workflow options, Ray options) of a call; the former checked.

    Raises:
        ValueError: An option that is refused.
    """
    own = {key: value for key, value in given.items() if key in ACCEPTED}
    return check_options(own), {key: value for key, value in given.items() if key not in own}


def _bind(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    try:
        _signature(function).bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}{_shown(_signature(function))} does not take these arguments: {error}") from None


@functools.lru_cache(maxsize=4096)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _shown(signature: inspect.Signature) -> inspect.Signature:
    """Without the instance."""
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _public_names(cls: type) -> list[str]:
    kinds = [kind for kind in cls.__mro__ if kind not in (object, VirtualActor, Generic)]
    return [name for name in dict.fromkeys(name for kind in kinds for name in vars(kind)) if not name.startswith("_")]


def _check_made_by_events(cls: type, method: str) -> None:
    plain: Any = object
    constructor: Any = getattr(cls, "__init__", None)
    if constructor is plain.__init__:
        return
    try:
        _signature(constructor).bind(None)
    except TypeError as error:
        raise ValueError(
            f"an event that calls {cls.__qualname__}.{method} makes the actor when there is none, without arguments, "
            f"and the constructor does not do with none: {error}. Give its parameters defaults, or give "
            "@workflow.on_event(..., create=False) and make the actors with get_or_create"
        ) from None


def has_own_state(cls: type) -> bool:
    """Whether a class says itself what its state is."""
    plain: Any = object
    return getattr(cls, "__setstate__", None) is not getattr(plain, "__setstate__", None)


def _check_state_methods(cls: type) -> None:
    plain: Any = object
    has = {
        name: getattr(cls, name, None) is not getattr(plain, name, None) for name in ("__getstate__", "__setstate__")
    }
    if has["__getstate__"] != has["__setstate__"]:
        there, missing = sorted(has, key=lambda name: not has[name])
        raise ValueError(
            f"virtual actor class {cls.__qualname__!r} has {there} and no {missing}: define both, or neither, and its "
            "state is its __dict__"
        )


def _version_of(found: Any) -> int | None:
    function = found.__func__ if isinstance(found, staticmethod) else found
    version: int | None = getattr(function, _FROM_VERSION, None)
    return version


def _migrations_of(cls: type, version: int) -> dict[int, Callable[[Any], Any]]:
    found: dict[int, Callable[[Any], Any]] = {}
    for name in dict.fromkeys(name for kind in cls.__mro__ for name in vars(kind)):
        static = inspect.getattr_static(cls, name)
        if not isinstance(static, staticmethod) or (start := _version_of(static)) is None:
            continue
        if start in found:
            raise ValueError(f"{cls.__qualname__} has two migrations from version {start}: leave one")
        if start >= version:
            raise ValueError(
                f"{cls.__qualname__}.{name} migrates from version {start}, and the class has version {version}: "
                f"give @workflow.virtual_actor(version={start + 1})"
            )
        found[start] = static.__func__
    return found
