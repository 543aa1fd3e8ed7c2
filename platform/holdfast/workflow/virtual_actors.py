"""Virtual actors: objects with an id, whose state outlives every process.

    @workflow.virtual_actor
    class Cart:
        def __init__(self, owner): self.owner, self.items = owner, []
        def add(self, item): self.items.append(item)
        @workflow.virtual_actor.readonly
        def count(self): return len(self.items)

    cart = Cart.get_or_create("cart-7", "ann")
    cart.add.run("apple")

It checks what users give and hands it over. It decides nothing about an actor
and runs none of its methods: hosts do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, overload

import ray

from holdfast.actors.client import fetch, knows_platform
from holdfast.actors.code import BOOK
from holdfast.actors.environment import capture_environment
from holdfast.actors.nodes import default_task_id
from holdfast.actors.storage_access import portable
from holdfast.actors.task_options import resolve
from holdfast.actors.threads import in_thread, is_light
from holdfast.actors.values import ValueOf, dump, set_cluster_nonce
from holdfast.actors.virtual import client
from holdfast.actors.virtual.context import current_call, request_nonce, waiting
from holdfast.actors.virtual.definition import (
    ActorDefinition,
    ActorMethod,
    ActorSettings,
    OnError,
    VirtualActor,
    definition_of,
    has_own_state,
    migration,
    prepare,
    split_options,
)
from holdfast.actors.virtual.hosting import check_call_options, check_ray_options, describe_hosting, kind_of
from holdfast.actors.virtual.requests import CONSTRUCTOR, ActorPlace, CallRequest, ClassRequest
from holdfast.actors.virtual.state import encode_state
from holdfast.engine.given_numbers import check_whole
from holdfast.engine.graph import TaskOptions
from holdfast.engine.virtual_actor_errors import VirtualActorNotFoundError
from holdfast.engine.virtual_actor_records import DEFAULT_MAILBOX_LIMIT
from holdfast.storage.actor_row import ActorDescription, ActorState, ActorView
from holdfast.workflow import actor_administration
from holdfast.workflow.actor_administration import find_description, find_place
from holdfast.workflow.api import check_workflow_id, with_platform
from holdfast.workflow.platform import get_platform

__all__ = [
    "VirtualActor",
    "VirtualActorClass",
    "VirtualActorHandle",
    "VirtualActorMethod",
    "describe",
    "get_actor",
    "list_actors",
    "migrate",
    "reset_actor",
    "virtual_actor",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Self = TypeVar("_Self")
_Class = TypeVar("_Class", bound=type)

_PLAIN: TaskOptions = resolve({}, {}, step_api=True).options


class VirtualActorMethod(Generic[_P, _R]):
    """A method of a virtual actor, to be called through its handle."""

    __slots__ = ("_actor", "_key", "_method", "_name", "_options", "_ray_options")

    def __init__(
        self,
        actor: VirtualActorHandle,
        method: str,
        options: Mapping[str, Any] | None = None,
        ray_options: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> None:
        self._actor, self._method, self._key = actor, method, key
        self._options, self._ray_options = dict(options or {}), dict(ray_options or {})

    def run(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call the method and wait for what it returns.

        Args:
            *args: Its arguments. ObjectRefs among them arrive as values.
            **kwargs: Likewise.

        Raises:
            TypeError: It does not take these arguments.
            MailboxFullError: Too many calls of this actor wait already.
            VirtualActorNotInitializedError: A read, and the constructor is not done.
            VirtualActorCycleError: The actor itself waits for this call.
            What the method raises; the actor's state is then as it was.

        Semantics: docs/semantics.md, "Virtual actors". The state that it leaves is durable when this returns.
        """
        request, place, readonly = self.request(args, kwargs)
        call = client.read if readonly else client.run
        result: _R = with_platform(lambda platform: call(platform, place, request))
        return result

    def run_async(self, *args: _P.args, **kwargs: _P.kwargs) -> ray.ObjectRef[_R]:
        """Have the method called; a reference of what it returns.

        Args:
            *args: As for `run`.
            **kwargs: As for `run`.

        Raises:
            As `run` before the method begins. What comes later is raised by reading the reference.

        Semantics: of a writing method the call is durable when this returns; it takes effect after those that this
        caller has made before.
        """
        request, place, readonly = self.request(args, kwargs, waits=False)
        start = client.start_reading if readonly else client.start
        reference: ray.ObjectRef[_R] = with_platform(lambda platform: start(platform, place, request))
        return reference

    def options(self, *, idempotency_key: str | None = None, **given: Any) -> VirtualActorMethod[_P, _R]:
        """The same method with other options; those not named stay.

        Args:
            idempotency_key: Calls of one actor with the same key are one: the later ones get the first one's result.
            **given: `name` (or `task_id`), `metadata`, `max_retries` (exceptions retried), `retry_exceptions`, `retry`,
                `catch_exceptions`, `timeout_s`; all others are Ray options, which are kept with the call: where a
                method runs is said by its class.

        Raises:
            ValueError: An option that is refused.
        """
        if idempotency_key is not None and (not isinstance(idempotency_key, str) or not idempotency_key):
            raise ValueError(f"idempotency_key must be a non-empty string, not {idempotency_key!r}")
        options, ray_options = split_options(given)
        check_call_options(ray_options)
        for refused in ("allow_inplace", "checkpoint"):
            if options.get(refused) is not None:
                raise ValueError(f"workflow option {refused!r} is for tasks: a call of a virtual actor has no such")
        return VirtualActorMethod(
            self._actor,
            self._method,
            {**self._options, **options},
            {**self._ray_options, **ray_options},
            self._key if idempotency_key is None else idempotency_key,
        )

    @property
    def aio(self) -> AwaitedMethod[_P, _R]:
        """The same calls for async code: `await actor.method.aio.run(...)`."""
        return AwaitedMethod(self)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a method is called by `run`."""
        raise TypeError(
            f"method {self._method!r} of virtual actor {self._actor.actor_id!r} cannot be called directly: use "
            f".{self._method}.run(...) or .{self._method}.run_async(...)"
        )

    def __repr__(self) -> str:
        return f"<method {self._method!r} of {self._actor!r}>"

    def is_at_hand(self) -> bool:
        """Whether a call asks for nothing that may have to be waited for: class, platform, a mark of the caller."""
        return self._actor._definition is not None and current_call() is None and knows_platform()

    def request(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, waits: bool = True
    ) -> tuple[CallRequest, ActorPlace, bool]:
        """Check a call, and make its request; give the actor's place too, and whether the method only reads.

        Args:
            args: Of the call.
            kwargs: Likewise.
            waits: Whether the caller does nothing else until it has the value: a call back to it would be a cycle.
        """
        actor = self._actor
        definition = actor.definition
        definition.check_call(self._method, args, kwargs)
        options, name = _PLAIN, self._method
        if self._options or self._ray_options:
            resolved = resolve(self._options, self._ray_options, step_api=True)
            options, name = resolved.options, resolved.task_id or name
        request = _call_request(
            actor.actor_id,
            self._method,
            name,
            args,
            kwargs,
            options,
            self._key,
            class_name=actor.place.class_name,
            waits=waits,
        )
        return request, actor.place, definition.methods[self._method].readonly


class AwaitedMethod(Generic[_P, _R]):
    """A method of a virtual actor, for async code. Nothing here blocks the event loop."""

    __slots__ = ("_method",)

    def __init__(self, method: VirtualActorMethod[_P, _R]) -> None:
        self._method = method

    async def run(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """As `run` of the method. Calls made together, of any actors, are made durable together."""
        method = self._method
        if method.is_at_hand() and is_light(args) and is_light(kwargs.values()):
            request, place, readonly = method.request(args, kwargs)
        else:
            request, place, readonly = await in_thread(method.request, args, kwargs)
        call = client.read_awaited if readonly else client.run_awaited
        with waiting():
            result: _R = await call(get_platform(), place, request)
        return result

    async def run_async(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        """As `run_async` of the method: an awaitable Ray reference."""
        return await in_thread(self._method.run_async, *args, **kwargs)


class VirtualActorHandle:
    """A virtual actor as its callers see it: `handle.method.run(...)`.

    It can be stored, and sent to tasks and other actors.
    """

    __slots__ = ("_definition", "_place")

    def __init__(self, place: ActorPlace, definition: ActorDefinition | None = None) -> None:
        self._place, self._definition = place, definition

    @property
    def actor_id(self) -> str:
        """Its id."""
        return self._place.actor_id

    @property
    def place(self) -> ActorPlace:
        """Where it is to be found."""
        return self._place

    @property
    def definition(self) -> ActorDefinition:
        """Its class; out of the store where it did not come with the handle."""
        if self._definition is None:
            self._definition = _load_definition(self._place.digest)
        return self._definition

    def ready(self) -> ray.ObjectRef[None]:
        """A reference that is there when the actor has been made; it raises what the constructor raised."""
        return with_platform(lambda platform: client.ready(platform, self._place))

    def __getattr__(self, name: str) -> VirtualActorMethod[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"a virtual actor's handle has no {name!r}")
        self.definition.method(name)
        return VirtualActorMethod(self, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.definition.methods]

    def __reduce__(self) -> tuple[Any, ...]:
        return VirtualActorHandle, (self._place,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VirtualActorHandle) and other.actor_id == self.actor_id

    def __hash__(self) -> int:
        return hash(self.actor_id)

    def __repr__(self) -> str:
        return f"<virtual actor {self.actor_id!r} of class {self._place.class_name!r}>"


class VirtualActorClass:
    """What `@workflow.virtual_actor` makes of a class."""

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self.__name__, self.__qualname__, self.__module__ = cls.__name__, cls.__qualname__, cls.__module__
        self.__doc__ = cls.__doc__

    @property
    def definition(self) -> ActorDefinition:
        """The class, and what is to be known of it."""
        return definition_of(self._cls)

    def get_or_create(self, actor_id: str, /, *args: Any, **kwargs: Any) -> VirtualActorHandle:
        """The actor of an id; made when there is none.

        Args:
            actor_id: At most 1,024 bytes.
            *args: For the constructor; not looked at when the actor is there already.
            **kwargs: As `*args`.

        Returns:
            Its handle. The actor is durable; `handle.ready()` says when its constructor is done.

        Raises:
            TypeError: The constructor does not take these arguments.
            IdTakenError: A workflow has this id.
            OtherClassError: An actor of another class has it.
        """
        request, place = create_request(self, actor_id, args, kwargs)
        with_platform(lambda platform: client.accept(platform, place, request))
        return VirtualActorHandle(place, self.definition)

    @property
    def aio(self) -> AwaitedClass:
        """The same for async code: `await Cart.aio.get_or_create("cart-7")`."""
        return AwaitedClass(self)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: an actor has an id."""
        raise TypeError(
            f"virtual actor class {default_task_id(self._cls)} cannot be called: use "
            f"{self._cls.__name__}.get_or_create(actor_id, ...)"
        )

    def __mro_entries__(self, _: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._cls,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_cls" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._cls, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return VirtualActorClass, (self._cls,)

    def __repr__(self) -> str:
        return f"<virtual actor class {default_task_id(self._cls)!r}>"


class AwaitedClass:
    """A class of virtual actors, for async code. Nothing here blocks the event loop."""

    def __init__(self, virtual_class: VirtualActorClass) -> None:
        self._class = virtual_class

    async def get_or_create(self, actor_id: str, /, *args: Any, **kwargs: Any) -> VirtualActorHandle:
        """As `get_or_create` of the class; the methods of the handle have their twins under `.aio`."""
        return await in_thread(self._class.get_or_create, actor_id, *args, **kwargs)


class _Decorator:
    """`workflow.virtual_actor`."""

    @overload
    def __call__(self, cls: _Class, /) -> _Class: ...

    @overload
    def __call__(
        self,
        cls: None = None,
        /,
        *,
        version: int = ...,
        on_error: OnError = ...,
        mailbox_limit: int = ...,
        formerly: str | Collection[str] = ...,
        runtime_env: Mapping[str, Any] | None = ...,
        **ray_options: Any,
    ) -> Callable[[_Class], _Class]: ...

    def __call__(
        self,
        cls: Any = None,
        /,
        *,
        version: int = 1,
        on_error: OnError = "raise",
        mailbox_limit: int = DEFAULT_MAILBOX_LIMIT,
        formerly: str | Collection[str] = (),
        runtime_env: Mapping[str, Any] | None = None,
        **ray_options: Any,
    ) -> Any:
        """Make a class one of virtual actors: `@virtual_actor`, or `@virtual_actor(version=2)`.

        Args:
            cls: The class.
            version: Of its state. When it grows, `workflow.migrate` carries old states forward.
            on_error: What an error of a writing method does, beside being raised to its caller. "raise": nothing.
                "suspend": the calls that wait stay until `workflow.resume(actor_id)`.
            mailbox_limit: How many accepted calls of one actor may wait; more raise MailboxFullError.
            formerly: The name, or names, that the class had before, as `describe` shows them: actors of that class are
                actors of this one from the next `get_or_create` on.
            runtime_env: For the processes that run its actors.
            **ray_options: Likewise: as `num_gpus=1`. With any of these the actors have processes of their own.

        Raises:
            TypeError: Not a class.
            ValueError: An option that is refused, or `__getstate__` without `__setstate__`.
        """
        settings = _settings(version, on_error, mailbox_limit, runtime_env, ray_options)

        def decorate(decorated: Any) -> Any:
            if isinstance(decorated, VirtualActorClass):
                raise TypeError(f"{decorated!r} has been decorated already")
            prepare(decorated, settings, _former_names(formerly))
            return VirtualActorClass(decorated)

        return decorate if cls is None else decorate(cls)

    @overload
    def readonly(self, method: Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _R]]) -> ActorMethod[_P, _R]: ...

    @overload
    def readonly(self, method: Callable[Concatenate[_Self, _P], _R]) -> ActorMethod[_P, _R]: ...

    def readonly(self, method: Any) -> Any:
        """Say of a method that it only reads: it runs beside others, on the last committed state, and changes none."""
        if isinstance(method, ActorMethod) and method.rules:
            raise TypeError(
                f"an event would change nothing by the read-only method {method.function.__qualname__!r}: "
                "take readonly or on_event away"
            )
        return ActorMethod(method, readonly=True)

    @overload
    def method(self, method: Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _R]]) -> ActorMethod[_P, _R]: ...

    @overload
    def method(self, method: Callable[Concatenate[_Self, _P], _R]) -> ActorMethod[_P, _R]: ...

    def method(self, method: Any) -> Any:
        """Say of a method that it may write, for a type checker's sake: every other public method may, too."""
        return method if isinstance(method, ActorMethod) and not method.readonly else ActorMethod(method)


virtual_actor = _Decorator()
"""Makes a class one of virtual actors; see `_Decorator.__call__`."""


def migrate(*, from_version: int) -> Callable[[Callable[[Any], Any]], Any]:
    """Say how a state of an older version of a class becomes one of the next version.

    Args:
        from_version: The version it takes a state of. The function, in the body of the class, takes that state (the
            `__dict__`, or what `__getstate__` gave) and returns the state of version `from_version + 1`.

    Raises:
        TypeError: Not a whole number; not over a function.

    Semantics: run when an actor is next woken, one after the other up to the class's version; the new state is stored
    with the next call that writes.
    """
    from_version = check_whole("from_version", from_version, least=0)
    return lambda function: migration(function, from_version)


def get_actor(actor_id: str) -> VirtualActorHandle:
    """The handle of an actor, its class out of the store.

    Raises:
        VirtualActorNotFoundError: There is no such actor.
    """
    check_workflow_id(actor_id)
    place = with_platform(lambda platform: find_place(platform, actor_id))
    if place is None:
        raise VirtualActorNotFoundError(actor_id, get_platform().config.storage)
    return VirtualActorHandle(place)


def list_actors(
    cls: VirtualActorClass | type | str | None = None, prefix: str = "", limit: int = 1000, *, after: str = ""
) -> list[ActorView]:
    """The virtual actors there are, by id, a page at a time.

    Args:
        cls: Those of this class, or of the class of this name, `<module>.<qualname>`; None for all.
        prefix: Those whose ids begin so.
        limit: At most so many.
        after: Those after this id: the last one of the page before.

    Returns:
        `actor_id`, `class_name` and `status` of each.

    Raises:
        TypeError: Not a class of virtual actors, or not a number.
        ValueError: A limit below 1.
    """
    if isinstance(cls, VirtualActorClass):
        name: str | None = cls.definition.name
    elif cls is None or isinstance(cls, str):
        name = cls
    else:
        raise TypeError(f"cls must be a class of virtual actors or its name, not {cls!r}")
    limit = check_whole("limit", limit, least=1)
    found: list[ActorView] = with_platform(
        lambda platform: fetch(platform.management.list_virtual_actors.remote(name, prefix, after, limit))
    )
    return found


def reset_actor(actor_id: str, *, state: Any = None, expected_version: int | None = None) -> None:
    """Reset a stuck virtual actor: end the call that runs or holds up the others, and give the actor a state.

    Args:
        actor_id: The actor.
        state: The state to continue from, of the class as it was last given to `get_or_create`: what its `__getstate__`
            would give, else a dict of its attributes. None: the state that was committed last.
        expected_version: `describe(actor_id).state_version` as it was when you looked: at another one nothing is done.
            None for any.

    Raises:
        VirtualActorNotFoundError: There is no such actor.
        VirtualActorVersionError: Its state has another version: calls have taken effect since.
        TypeError: The state is not one of its class, or cannot be stored; the version is not a whole number.

    Semantics: docs/semantics.md, "A stuck actor can be freed". Durable when this returns. The caller of the call that
    is ended gets WorkflowCancellationError; the calls behind it stay, and run on the new state. A suspended or
    quarantined actor is resumed.
    """
    check_workflow_id(actor_id)
    if expected_version is not None:
        expected_version = check_whole("expected_version", expected_version, least=0)
    encoded = None if state is None else _encoded_state(actor_id, state)
    if not with_platform(
        lambda platform: actor_administration.reset_actor(platform, actor_id, encoded, expected_version)
    ):
        raise VirtualActorNotFoundError(actor_id, get_platform().config.storage)


def _encoded_state(actor_id: str, state: Any) -> ActorState:
    definition = get_actor(actor_id).definition
    if not has_own_state(definition.cls) and not (
        isinstance(state, dict) and all(isinstance(key, str) for key in state)
    ):
        raise TypeError(
            f"the state of virtual actor {actor_id!r} is a dict of its attributes, as its class {definition.name!r} "
            f"has no __getstate__; not {state!r:.200}"
        )
    objects: dict[str, Any] = {}
    payload, json = encode_state(state, objects=objects, where=f"the state of virtual actor {actor_id!r}")
    if objects:
        raise TypeError(f"the state given for {actor_id!r} holds an ObjectRef: give the value itself, ray.get(...)")
    return ActorState(portable(payload), json)


def describe(actor_id: str) -> ActorDescription:
    """A virtual actor as the store knows it.

    Returns:
        Its state version (how many calls have taken effect), mailbox length, last call, last error, host and more.

    Raises:
        VirtualActorNotFoundError: There is no such actor.
    """
    check_workflow_id(actor_id)
    found = with_platform(lambda platform: find_description(platform, actor_id))
    if found is None:
        raise VirtualActorNotFoundError(actor_id, get_platform().config.storage)
    return found


def create_request(
    virtual_class: VirtualActorClass, actor_id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[CallRequest, ActorPlace]:
    """What `get_or_create` says to the host, checked; and the actor's place when it is made by it.

    Raises:
        TypeError: The constructor does not take these arguments.
    """
    definition = virtual_class.definition
    check_workflow_id(actor_id)
    definition.check_call(CONSTRUCTOR, args, kwargs)
    made_of = class_request(definition)
    hosting = made_of.hosting
    request = _call_request(actor_id, CONSTRUCTOR, CONSTRUCTOR, args, kwargs, _PLAIN, None, made_of, waits=False)
    kind = with_platform(lambda platform: client.keep_hosts(platform, hosting)) if hosting else kind_of(hosting)
    return request, ActorPlace(actor_id=actor_id, digest=made_of.digest, class_name=definition.name, hosts=kind)


def class_request(definition: ActorDefinition) -> ClassRequest:
    """A class as the hosts are told of it, in the environment of this job."""
    settings = definition.settings
    digest, pickled = BOOK.encode(definition.cls)
    return ClassRequest(
        digest=digest,
        code={digest: pickled},
        name=definition.name,
        version=settings.version,
        on_error=settings.on_error,
        mailbox_limit=settings.mailbox_limit,
        formerly=definition.formerly,
        hosting=describe_hosting(settings.ray_options, settings.runtime_env, capture_environment()),
    )


def _call_request(
    actor_id: str,
    method: str,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: TaskOptions,
    idempotency_key: str | None,
    made_of: ClassRequest | None = None,
    *,
    class_name: str = "",
    waits: bool,
) -> CallRequest:
    set_cluster_nonce(get_platform().address.cluster)
    objects: dict[str, Any] = {}
    template = (
        tuple(ValueOf(value) if isinstance(value, ray.ObjectRef) else value for value in args),
        {key: ValueOf(value) if isinstance(value, ray.ObjectRef) else value for key, value in kwargs.items()},
    )
    arguments = dump(template, objects=objects, where=f"(args, kwargs) of {method!r} of virtual actor {actor_id!r}")
    call = current_call()
    return CallRequest(
        actor_id=actor_id,
        method=method,
        name=name,
        arguments=portable(arguments),
        objects={key: portable(payload) for key, payload in objects.items()},
        nonce=request_nonce(f"{actor_id} {method}"),
        idempotency_key=idempotency_key,
        options=options,
        chain=call.chain if waits and call is not None else (),
        made_of=made_of,
        class_name=class_name,
    )


def _load_definition(digest: str) -> ActorDefinition:
    pickled = with_platform(lambda platform: fetch(platform.management.code.remote(digest)))
    return definition_of(BOOK.decode(digest, pickled))


def _former_names(formerly: Any) -> tuple[str, ...]:
    names = (formerly,) if isinstance(formerly, str) else formerly
    if not isinstance(names, Collection) or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"formerly must be the name of a class, <module>.<qualname>, or several, not {formerly!r}")
    return tuple(names)


def _settings(
    version: Any, on_error: Any, mailbox_limit: Any, runtime_env: Any, ray_options: Mapping[str, Any]
) -> ActorSettings:
    version = check_whole("version", version, least=0)
    if on_error not in ("raise", "suspend"):
        raise ValueError(f'on_error must be "raise" or "suspend", not {on_error!r}')
    mailbox_limit = check_whole("mailbox_limit", mailbox_limit, least=1)
    if runtime_env is not None and not isinstance(runtime_env, Mapping):
        raise ValueError(f"runtime_env must be a dict, not {runtime_env!r}")
    check_ray_options(ray_options)
    return ActorSettings(
        version=version,
        on_error=on_error,
        mailbox_limit=mailbox_limit,
        ray_options=dict(ray_options),
        runtime_env=runtime_env,
    )
