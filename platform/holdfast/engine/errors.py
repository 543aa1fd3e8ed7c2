"""Every error Holdfast raises on purpose.

The class says what went wrong and whose move it is, attributes carry the ids,
the message names the value and the fix. All survive pickling: `args` holds
what the constructor takes. They are defined this low so that every room can
raise them; users find them in `holdfast.workflow.exceptions`.
"""

from __future__ import annotations

from typing import Any

# Python's own slot, under the property that stands over it in two classes below.
_CAUSE: Any = BaseException.__dict__["__cause__"]


class HoldfastError(Exception):
    """Base of every error of Holdfast."""


class _KeepsCause:
    """An error with its cause among its arguments: it is there again where the error is unpickled."""

    cause: BaseException | None

    @property
    def __cause__(self) -> BaseException | None:
        # Ray raises errors of actors as a class of its own that inherits from ours and is made without a cause:
        # it keeps the error it was made from in `cause`.
        given: BaseException | None = _CAUSE.__get__(self, type(self))
        if given is None and isinstance(self.cause, _KeepsCause):
            return self.cause.__cause__
        return given

    @__cause__.setter
    def __cause__(self, cause: BaseException | None) -> None:
        _CAUSE.__set__(self, cause)


class WorkflowError(HoldfastError):
    """Base of the errors about workflows, under its old name."""


class WorkflowExecutionError(_KeepsCause, WorkflowError):
    """A workflow failed. The user's error is the `__cause__`."""

    def __init__(self, workflow_id: str, detail: str = "", cause: BaseException | None = None) -> None:
        super().__init__(workflow_id, detail, cause)
        self.workflow_id, self.detail, self.cause = workflow_id, detail, cause
        self.__cause__ = cause

    def __str__(self) -> str:
        said = f" {self.detail}" if self.detail else ""
        return (
            f"Workflow[id={self.workflow_id}] failed during execution.{said} "
            f"Mend the cause and call workflow.resume({self.workflow_id!r})."
        )


class WorkflowCancellationError(WorkflowError):
    """A workflow was cancelled while somebody waited for its result."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id)
        self.workflow_id = workflow_id

    def __str__(self) -> str:
        return f"Workflow[id={self.workflow_id}] is cancelled. Delete it to run the id afresh."


class WorkflowNotFoundError(WorkflowError):
    """No workflow with this id is in the store."""

    def __init__(self, workflow_id: str, store_url: str = "") -> None:
        super().__init__(workflow_id, store_url)
        self.workflow_id, self.store_url = workflow_id, store_url

    def __str__(self) -> str:
        where = f" in {self.store_url}" if self.store_url else ""
        return (
            f"Workflow[id={self.workflow_id}] was referenced but doesn't exist{where}. "
            "List ids with workflow.list_all(), or check the storage given to workflow.init()."
        )


class WorkflowNotResumableError(WorkflowError, ValueError):
    """A workflow cannot be resumed: unknown, or cancelled."""

    def __init__(self, workflow_id: str, reason: str = "it does not exist") -> None:
        super().__init__(workflow_id, reason)
        self.workflow_id, self.reason = workflow_id, reason

    def __str__(self) -> str:
        return f"Workflow[id={self.workflow_id}] is not resumable: {self.reason}."


class WorkflowTaskNotRecoverableError(WorkflowError):
    """What a task needs to run again is gone from the store."""

    def __init__(self, task_id: str, reason: str = "") -> None:
        super().__init__(task_id, reason)
        self.task_id, self.reason = task_id, reason

    def __str__(self) -> str:
        return f"Workflow task[id={self.task_id}] is not recoverable{': ' + self.reason if self.reason else ''}."


class WorkflowStillActiveError(WorkflowError):
    """The operation needs a workflow that is not running or pending."""

    def __init__(self, operation: str, workflow_id: str) -> None:
        super().__init__(operation, workflow_id)
        self.operation, self.workflow_id = operation, workflow_id

    def __str__(self) -> str:
        return (
            f"{self.operation} could not be done: Workflow[id={self.workflow_id}] is still active. "
            f"Wait for it, or call workflow.cancel({self.workflow_id!r}) first."
        )


class WorkflowEndedError(WorkflowError):
    """The workflow has ended and takes nothing more."""

    def __init__(self, workflow_id: str, status: str) -> None:
        super().__init__(workflow_id, status)
        self.workflow_id, self.status = workflow_id, status

    def __str__(self) -> str:
        return f"Workflow[id={self.workflow_id}] is {self.status}: an event could reach nobody any more."


class WorkflowEventHandleError(WorkflowError):
    """An event could not be handed to its workflow."""

    def __init__(self, workflow_id: str, what_happened: str) -> None:
        super().__init__(workflow_id, what_happened)
        self.workflow_id, self.what_happened = workflow_id, what_happened

    def __str__(self) -> str:
        return f"the event for Workflow[id={self.workflow_id}] was not taken: {self.what_happened}"


class ExtraNotInstalledError(HoldfastError, ImportError):
    """Something needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str, reason: str) -> None:
        super().__init__(what, extra, reason)
        self.what, self.extra, self.reason = what, extra, reason

    def __str__(self) -> str:
        return f'{self.what} need the extra {self.extra!r}: pip install "holdfast[{self.extra}]" ({self.reason})'


class InvalidGraphError(WorkflowError, ValueError):
    """A graph that could never finish: empty, cyclic, or with an input that is not there."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}."


class InvalidWorkflowIdError(WorkflowError, ValueError):
    """A workflow id that cannot be used."""

    def __init__(self, shown_id: str, problem: str) -> None:
        super().__init__(shown_id, problem)
        self.shown_id, self.problem = shown_id, problem

    def __str__(self) -> str:
        return f"workflow_id {self.shown_id} {self.problem}. Use a non-empty string of at most 1,024 bytes in UTF-8."


class WorkflowDefectError(WorkflowError):
    """A workflow could not be worked on, through no fault of its own: a defect of Holdfast, or a damaged store."""

    def __init__(self, workflow_id: str, problem: str) -> None:
        super().__init__(workflow_id, problem)
        self.workflow_id, self.problem = workflow_id, problem

    def __str__(self) -> str:
        return (
            f"Holdfast could not go on with Workflow[id={self.workflow_id}], and gave it up after several tries: "
            f"{self.problem}. This is a defect of Holdfast or damage to its storage: please report it with the log "
            f"of the executor. workflow.resume({self.workflow_id!r}) tries again from what is stored."
        )


class ScheduleNotFoundError(WorkflowError, ValueError):
    """There is no schedule of this name."""

    def __init__(self, name: str, store_url: str = "") -> None:
        super().__init__(name, store_url)
        self.name, self.store_url = name, store_url

    def __str__(self) -> str:
        where = f" in {self.store_url}" if self.store_url else ""
        return f"there is no schedule {self.name!r}{where}. workflow.list_schedules() lists those there are."


class ScheduleExistsError(WorkflowError, ValueError):
    """There is a schedule of this name with another definition. It was left as it is."""

    def __init__(self, name: str, difference: str) -> None:
        super().__init__(name, difference)
        self.name, self.difference = name, difference

    def __str__(self) -> str:
        return (
            f"there is another schedule {self.name!r} already: {self.difference}. "
            "Give replace=True to change it, or another name."
        )


class StaleLeaseError(HoldfastError):
    """A write under an old epoch. The writer has been replaced and must stop; nothing was written."""

    def __init__(self, workflow_id: str, held: int, current: int) -> None:
        super().__init__(workflow_id, held, current)
        self.workflow_id, self.held, self.current = workflow_id, held, current

    def __str__(self) -> str:
        return f"workflow {self.workflow_id!r} is leased at epoch {self.current}; a write under {self.held} is refused"


class ExecutorReplacedError(HoldfastError):
    """Another process has taken this executor's place. The old one must end; nothing was written."""

    def __init__(self, executor: str) -> None:
        super().__init__(executor)
        self.executor = executor

    def __str__(self) -> str:
        return f"executor {self.executor!r} is another process now; this one must end"


class ExecutorNotFoundError(HoldfastError, TimeoutError):
    """Nobody answered for a workflow."""

    def __init__(self, workflow_id: str, executor: str, waited_s: float) -> None:
        super().__init__(workflow_id, executor, waited_s)
        self.workflow_id, self.executor, self.waited_s = workflow_id, executor, waited_s

    def __str__(self) -> str:
        whom = f"the one that drives it, {self.executor!r}," if self.executor else "the one to ask first"
        return (
            f"no executor answered for Workflow[id={self.workflow_id}] in {self.waited_s:.0f} s: {whom} is not to be "
            f"found. What was asked may have been done: look with workflow.get_status({self.workflow_id!r}), and ask "
            "again. workflow.platform_status() lists the executors that run; the logs of Ray say why one does not "
            "start."
        )


class TaskTimeoutError(HoldfastError, TimeoutError):
    """An attempt of a task took longer than its `timeout_s`."""

    def __init__(self, task_id: str, timeout_s: float) -> None:
        super().__init__(task_id, timeout_s)
        self.task_id, self.timeout_s = task_id, timeout_s

    def __str__(self) -> str:
        return f"task {self.task_id!r} ran longer than timeout_s={self.timeout_s:g} and was stopped"


class PlacementLostError(HoldfastError):
    """A task asks for a place (a placement group, a node) that is not in this cluster, or not any more."""

    def __init__(self, option: str, place: str) -> None:
        super().__init__(option, place)
        self.option, self.place = option, place

    def __str__(self) -> str:
        return (
            f"the Ray option {self.option!r} asks for {self.place}, which is not in this cluster: it was made in "
            "another one, or is gone. Workflows outlive clusters: choose nodes by resources={...} or "
            "label_selector={...} of your own, and submit the workflow again"
        )


class EventTimeoutError(TaskTimeoutError):
    """No event came within the `timeout_s` of a `wait_for_event`."""

    def __str__(self) -> str:
        return f"no event came for task {self.task_id!r} within timeout_s={self.timeout_s:g}"


class WorkerLostError(HoldfastError):
    """The worker process, or node, that ran a task died."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.task_id, self.reason = task_id, reason

    def __str__(self) -> str:
        return f"the worker that ran task {self.task_id!r} died: {self.reason}"


class ResultNotStoredError(HoldfastError, TypeError):
    """A value cannot be made durable: an actor handle, or something that cannot be pickled."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}"


class ResultNotLoadableError(HoldfastError):
    """A stored value cannot be unpickled by who asked for it. The value is stored as it was; nothing has changed."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return (
            f"{self.what} is stored but cannot be unpickled here: {self.reason}. "
            "Ask again from a process that has the modules it needs, or mend its class's __reduce__ or __setstate__."
        )


class TaskError(HoldfastError):
    """A task failed with an error that could not be carried over itself; this one tells all that is known of it."""

    def __init__(self, type_name: str, message: str, traceback_text: str = "") -> None:
        super().__init__(type_name, message, traceback_text)
        self.type_name, self.message, self.traceback_text = type_name, message, traceback_text

    def __str__(self) -> str:
        return (
            f"{self.type_name}: {self.message} (the error itself cannot be pickled: "
            "give its class a constructor that takes what `args` holds)"
        )


class UserCodeExitError(_KeepsCause, HoldfastError):
    """The code of a call ended with something that is no `Exception`, as `sys.exit` does. That is the `__cause__`."""

    def __init__(self, type_name: str, message: str, cause: BaseException | None = None) -> None:
        super().__init__(type_name, message, cause)
        self.type_name, self.message, self.cause = type_name, message, cause
        self.__cause__ = cause

    def __str__(self) -> str:
        said = f": {self.message}" if self.message else ""
        return (
            f"{self.type_name}{said} (it ended the call, and not the process that ran it, which others share: "
            "return, or raise an Exception)"
        )


class StepNotPicklableError(WorkflowError, ValueError):
    """A step `Workflow` was pickled, put, or passed to a plain Ray task."""

    def __init__(self, step_id: str) -> None:
        super().__init__(step_id)
        self.step_id = step_id

    def __str__(self) -> str:
        return (
            f"Workflow {self.step_id!r} cannot be pickled, put into the object store or passed to a plain Ray task: it "
            "is a plan, not a result, and a copy of it would run twice. Pass it to another step's .step(...), return "
            "it from a step, or call .run() and pass the value."
        )


class StorageError(HoldfastError):
    """Base of the errors about the storage folder."""

    def __init__(self, url: str, problem: str, fix: str) -> None:
        super().__init__(url, problem, fix)
        self.url, self.problem, self.fix = url, problem, fix

    def __str__(self) -> str:
        return f"storage {self.url}: {self.problem}. {self.fix}"


class StorageNotWritableError(StorageError):
    """The folder cannot be made or written."""


class StorageFullError(StorageError):
    """No space left; the operation was not done and the store is whole."""


class StorageFormatError(StorageError):
    """The folder has a format this version does not know."""


class StorageCorruptError(StorageError):
    """A file of the folder is truncated or not what it should be."""


class StorageLockedError(StorageError):
    """Another live platform has this folder open."""


class StorageMissingError(StorageError, KeyError):
    """A file that a record names is not in the folder."""


class OutputNotAvailableError(WorkflowExecutionError, ValueError):
    """A workflow or task has no output, because it failed. The task's error is the `__cause__`."""

    def __str__(self) -> str:
        return f"Workflow[id={self.workflow_id}] has no such output. {self.detail}"


class InvalidNumberError(HoldfastError, ValueError):
    """A number is out of range, or none that can be counted with (NaN, infinity)."""

    def __init__(self, parameter: str, rule: str, shown: str) -> None:
        super().__init__(parameter, rule, shown)
        self.parameter, self.rule, self.shown = parameter, rule, shown

    def __str__(self) -> str:
        return f"{self.parameter} must be {self.rule}, not {self.shown}"


class NotANumberError(InvalidNumberError, TypeError):
    """A number is asked for, and something of another type was given. Both a TypeError and a ValueError."""

    def __str__(self) -> str:
        converted = " (convert it: int(...), float(...))" if "(" in self.shown else ""
        return f"{super().__str__()}{converted}"


class MetadataTooLargeError(HoldfastError, ValueError):
    """User metadata is larger than what is kept with a workflow, task, schedule or call."""

    def __init__(self, parameter: str, nbytes: int, limit: int) -> None:
        super().__init__(parameter, nbytes, limit)
        self.parameter, self.nbytes, self.limit = parameter, nbytes, limit

    def __str__(self) -> str:
        return (
            f"{self.parameter} has {self.nbytes:,} bytes as JSON, and {self.limit:,} are taken: "
            "store what is larger elsewhere, and give its name"
        )


class NotJsonError(HoldfastError, ValueError):
    """A value, or a text, is not JSON as Holdfast takes it."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return f"{self.where} {self.problem}"


class SecretMissingError(HoldfastError):
    """A secret that was given by reference is not where it should be."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return f"{self.where} should hold a secret: {self.problem}. It is read on the node of the storage folder."


class KafkaNotReachedError(HoldfastError):
    """A Kafka cluster does not answer, or refuses us. It is tried again all the time."""

    def __init__(self, connection: str, server: str, problem: str, fix: str) -> None:
        super().__init__(connection, server, problem, fix)
        self.connection, self.server, self.problem, self.fix = connection, server, problem, fix

    def __str__(self) -> str:
        return f"the Kafka connection {self.connection!r} to {self.server} fails: {self.problem}. {self.fix}"


class DeadLetterNotFoundError(HoldfastError, KeyError):
    """There is no dead letter of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"no dead letter {self.number}. See workflow.dead_letters() for those there are."


class DeadLetterNotReplayableError(HoldfastError, ValueError):
    """A dead letter cannot be taken in as it is."""

    def __init__(self, number: int, reason: str, fix: str) -> None:
        super().__init__(number, reason, fix)
        self.number, self.reason, self.fix = number, reason, fix

    def __str__(self) -> str:
        return f"dead letter {self.number} cannot be replayed: {self.reason}. {self.fix}"
