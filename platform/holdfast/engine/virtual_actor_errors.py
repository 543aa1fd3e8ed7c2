"""Errors about virtual actors. As in `errors`: `args` holds what the constructor takes, and all survive pickling."""

from __future__ import annotations

from holdfast.engine.errors import (
    HoldfastError,
    WorkflowCancellationError,
    WorkflowError,
    WorkflowNotFoundError,
    WorkflowStillActiveError,
)


class VirtualActorError(WorkflowError):
    """Base of the errors about virtual actors."""


class VirtualActorNotFoundError(VirtualActorError, WorkflowNotFoundError):
    """There is no virtual actor of this id."""

    def __str__(self) -> str:
        where = f" in {self.store_url}" if self.store_url else ""
        return (
            f"there is no virtual actor {self.workflow_id!r}{where}. Make it with "
            "<its class>.get_or_create(id, ...); workflow.list_actors() lists those there are."
        )


class IdTakenError(WorkflowError, ValueError):
    """An id is in use for something else: a workflow where an actor is asked for, or the other way round."""

    def __init__(self, taken_id: str, taken_by: str) -> None:
        super().__init__(taken_id, taken_by)
        self.taken_id, self.taken_by = taken_id, taken_by

    def __str__(self) -> str:
        return (
            f"the id {self.taken_id!r} is that of a {self.taken_by}: workflows and virtual actors share one name "
            f"space. Choose another id, or remove the {self.taken_by} with workflow.delete({self.taken_id!r})."
        )


class VirtualActorNotInitializedError(VirtualActorError):
    """The constructor of an actor has not come to its end, or failed."""

    def __init__(self, actor_id: str, reason: str = "its constructor has not come to its end") -> None:
        super().__init__(actor_id, reason)
        self.actor_id, self.reason = actor_id, reason

    def __str__(self) -> str:
        return (
            f"virtual actor {self.actor_id!r} is not initialized: {self.reason}. Wait with "
            "ray.get(actor.ready()); when the constructor failed, mend it and call get_or_create again."
        )


class MailboxFullError(VirtualActorError):
    """A mailbox holds as many calls as it may. The call was not accepted."""

    def __init__(self, actor_id: str, limit: int) -> None:
        super().__init__(actor_id, limit)
        self.actor_id, self.limit = actor_id, limit

    def __str__(self) -> str:
        return (
            f"the mailbox of virtual actor {self.actor_id!r} is full: {self.limit} calls wait in it, which is its "
            "limit. Call again later, or give the class a higher mailbox_limit."
        )


class VirtualActorQuarantinedError(VirtualActorError):
    """An actor's code ended its host several times. It is not run until somebody resumes it; nothing is lost."""

    def __init__(self, actor_id: str, class_name: str, method: str, deaths: int) -> None:
        super().__init__(actor_id, class_name, method, deaths)
        self.actor_id, self.class_name, self.method, self.deaths = actor_id, class_name, method, deaths

    def __str__(self) -> str:
        return (
            f"virtual actor {self.actor_id!r} is quarantined: {self.class_name}.{self.method} ended the process of "
            f"its host {self.deaths} times. Its state and its mailbox are kept. Mend the method and call "
            f"workflow.resume({self.actor_id!r})."
        )


class VirtualActorCycleError(VirtualActorError):
    """A call that could never be answered: the actor it is for waits, through others, for its answer."""

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__(chain)
        self.chain = chain

    def __str__(self) -> str:
        return (
            f"calls of virtual actors in a cycle: {' -> '.join(self.chain)}. The first one waits for the answer and "
            "could not take the last call before. Send that with run_async, and do not wait for its value: the actor "
            "takes it later; or put the work into one actor."
        )


class VirtualActorNotResumableError(VirtualActorError, ValueError):
    """An actor has nothing to be resumed."""

    def __init__(self, actor_id: str, reason: str, call: str = "") -> None:
        super().__init__(actor_id, reason, call)
        self.actor_id, self.reason, self.call = actor_id, reason, call

    def __str__(self) -> str:
        said = f"virtual actor {self.actor_id!r} is not resumable: {self.reason}."
        if self.call:
            way_out = f"workflow.cancel({self.actor_id + '/' + self.call!r})"
            said += f" Its call {self.call!r} is not over: if that is stuck, end it with {way_out}."
        return said


class VirtualActorStateError(VirtualActorError):
    """The stored state of a virtual actor cannot be loaded. It is stored as it was; nothing has changed."""

    def __init__(self, actor_id: str, class_name: str, version: int, reason: str, fix: str) -> None:
        super().__init__(actor_id, class_name, version, reason, fix)
        self.actor_id, self.class_name, self.version = actor_id, class_name, version
        self.reason, self.fix = reason, fix

    def __str__(self) -> str:
        return (
            f"the state of virtual actor {self.actor_id!r}, of class {self.class_name!r} in version {self.version}, "
            f"cannot be loaded: {self.reason}. {self.fix} Nothing is lost: the state is stored as it was."
        )


class CallNotWithdrawnError(VirtualActorError):
    """A call runs, or has ended: it cannot be taken out of the mailbox any more."""

    def __init__(self, actor_id: str, call: str) -> None:
        super().__init__(actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return f"the call {self.call} of virtual actor {self.actor_id!r} cannot be withdrawn: it runs, or has ended."


class CallWithdrawnError(VirtualActorError):
    """A call was taken out of the mailbox before it ran. It had no effect."""

    def __init__(self, actor_id: str, call: str) -> None:
        super().__init__(actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return f"the call {self.call} of virtual actor {self.actor_id!r} was withdrawn before it ran."


class CallCancelledError(VirtualActorError, WorkflowCancellationError):
    """A call of a virtual actor was cancelled while a caller waited for its result."""

    def __init__(self, actor_id: str, call: str) -> None:
        WorkflowCancellationError.__init__(self, f"{actor_id}/{call}")
        self.args = (actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return (
            f"the call {self.call!r} of virtual actor {self.actor_id!r} was cancelled. What it had not committed is "
            "not in the state. Call again if it is still wanted."
        )


class CallNotFoundError(VirtualActorError, WorkflowNotFoundError):
    """A virtual actor has no call of this name, or nothing is kept of it any more."""

    def __init__(self, actor_id: str, call: str) -> None:
        WorkflowNotFoundError.__init__(self, f"{actor_id}/{call}")
        self.args = (actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return (
            f"virtual actor {self.actor_id!r} has no call {self.call!r}. "
            f"workflow.describe({self.actor_id!r}) names the one that runs."
        )


class VirtualActorNotCancellableError(VirtualActorError, ValueError):
    """A virtual actor itself cannot be cancelled: its calls can be, and it can be reset or deleted."""

    def __init__(self, actor_id: str, call: str) -> None:
        super().__init__(actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        way_out = "It has no call that is not over."
        if self.call:
            way_out = (
                f"workflow.cancel({self.actor_id + '/' + self.call!r}) ends its call {self.call!r}; "
                f"workflow.reset_actor({self.actor_id!r}) does, and can give the actor another state."
            )
        return f"{self.actor_id!r} is a virtual actor, and no workflow or call that can be cancelled. {way_out}"


class VirtualActorBusyError(VirtualActorError, WorkflowStillActiveError):
    """The operation needs a virtual actor whose calls are all over."""

    def __init__(self, operation: str, actor_id: str, call: str) -> None:
        WorkflowStillActiveError.__init__(self, operation, actor_id)
        self.args = (operation, actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return (
            f"{self.operation} could not be done: virtual actor {self.actor_id!r} has a call {self.call!r} that is not "
            f"over. Wait for it, or end it with workflow.cancel({self.actor_id + '/' + self.call!r}) first."
        )


class VirtualActorVersionError(VirtualActorError):
    """The state of a virtual actor is not the one that the caller has seen. Nothing was done."""

    def __init__(self, actor_id: str, expected: int, version: int) -> None:
        super().__init__(actor_id, expected, version)
        self.actor_id, self.expected, self.version = actor_id, expected, version

    def __str__(self) -> str:
        return (
            f"the state of virtual actor {self.actor_id!r} has version {self.version}, and not {self.expected}: calls "
            f"have taken effect since. Nothing was done. Look at the actor again, workflow.describe({self.actor_id!r})."
        )


class AttemptAbandonedError(VirtualActorError):
    """A method that was cancelled, or ran over its time limit, asks for something: its call no longer waits for it."""

    def __init__(self, actor_id: str, call: str) -> None:
        super().__init__(actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return (
            f"this attempt of the call {self.call!r} of virtual actor {self.actor_id!r} was cancelled, or ran over its "
            "time limit: what it still asks for is not done."
        )


class CallOverError(VirtualActorError):
    """A call that was to be a part of another came when that was over, or had not gone on as a workflow."""

    def __init__(self, actor_id: str, method: str, inside: int) -> None:
        super().__init__(actor_id, method, inside)
        self.actor_id, self.method, self.inside = actor_id, method, inside

    def __str__(self) -> str:
        return (
            f"{self.method} of virtual actor {self.actor_id!r} was to be a part of its call {self.inside}, which is "
            "over: a step of self.method.step(...) belongs into what that call returned."
        )


class CallOutcomeForgottenError(VirtualActorError, ValueError):
    """A call ended so long ago that nothing is kept of it any more. It is not made again."""

    def __init__(self, actor_id: str, call: str) -> None:
        super().__init__(actor_id, call)
        self.actor_id, self.call = actor_id, call

    def __str__(self) -> str:
        return (
            f"the call {self.call} of virtual actor {self.actor_id!r} has ended, and how is not kept any more: that of "
            "the newest 1,000 calls is, and of those of the last minute. Ask earlier, or let the method keep in its "
            "state what is asked for later."
        )


class ReminderNotFoundError(VirtualActorError, ValueError):
    """An actor has no reminder of this name."""

    def __init__(self, actor_id: str, name: str) -> None:
        super().__init__(actor_id, name)
        self.actor_id, self.name = actor_id, name

    def __str__(self) -> str:
        return f"virtual actor {self.actor_id!r} has no reminder {self.name!r}. It may have come due for the last time."


class OtherClassError(VirtualActorError):
    """A virtual actor is of another class than the one that it is asked for as."""

    def __init__(self, actor_id: str, class_name: str, asked_for: str) -> None:
        super().__init__(actor_id, class_name, asked_for)
        self.actor_id, self.class_name, self.asked_for = actor_id, class_name, asked_for

    def __str__(self) -> str:
        return (
            f"virtual actor {self.actor_id!r} is of class {self.class_name!r}, and not of {self.asked_for!r}. Nothing "
            "has changed. Give the actors of the two classes different ids, or forget this one with "
            f"workflow.delete({self.actor_id!r}); if it is one class that has a new name, say so: "
            f"@workflow.virtual_actor(formerly={self.class_name!r})."
        )


class OutOfTurnError(VirtualActorError):
    """An event cannot call an actor while one before it has not. It can be asked for again."""

    def __init__(self, actor_id: str, event: int, before: int) -> None:
        super().__init__(actor_id, event, before)
        self.actor_id, self.event, self.before = actor_id, event, before

    def __str__(self) -> str:
        return f"event {self.event} waits: event {self.before} is yet to call virtual actor {self.actor_id!r}"


class HostReplacedError(HoldfastError):
    """Another process has taken the place of this host. The old one must end; nothing was written."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host

    def __str__(self) -> str:
        return f"host {self.host!r} is another process now; this one must end"
