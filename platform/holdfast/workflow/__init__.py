"""Durable workflows on Ray: the public API.

`from holdfast import workflow` stands where `from ray import workflow` stood.
"""

from holdfast.actors.task_options import Retry
from holdfast.actors.task_options import WorkflowOptions as options
from holdfast.engine.errors import WorkflowCancellationError, WorkflowError, WorkflowExecutionError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.interface import EventListener
from holdfast.workflow import aio, exceptions
from holdfast.workflow import common as common
from holdfast.workflow import event_listener as event_listener
from holdfast.workflow import http_event_provider as http_event_provider
from holdfast.workflow import virtual_actor_class as virtual_actor_class
from holdfast.workflow import workflow_context as workflow_context
from holdfast.workflow.actor_events import subscribe
from holdfast.workflow.api import (
    cancel,
    delete,
    get_metadata,
    get_output,
    get_output_async,
    get_status,
    list_all,
    resume,
    resume_all,
    resume_async,
    run,
    run_async,
    send_event,
    submit,
)
from holdfast.workflow.graph_functions import Workflow, continuation, create, sleep, wait, wait_for_event
from holdfast.workflow.opening import init
from holdfast.workflow.outside_sources import (
    DeadLetter,
    EventSource,
    dead_letters,
    delete_dead_letter,
    event_sources,
    replay_dead_letter,
    show_dead_letter,
)
from holdfast.workflow.platform import platform_status, shutdown
from holdfast.workflow.reminders import cancel_reminder, list_reminders, remind
from holdfast.workflow.schedules import (
    delete_schedule,
    describe_schedule,
    list_schedules,
    pause_schedule,
    resume_schedule,
    schedule,
    trigger_schedule,
)
from holdfast.workflow.step_api import step
from holdfast.workflow.subscriptions import (
    EventSubscription,
    delete_event_subscription,
    list_event_subscriptions,
    on_event,
)
from holdfast.workflow.virtual_actors import (
    VirtualActor,
    VirtualActorHandle,
    describe,
    get_actor,
    list_actors,
    migrate,
    reset_actor,
    virtual_actor,
)

NONE = WorkflowStatus.NONE
RUNNING = WorkflowStatus.RUNNING
CANCELED = WorkflowStatus.CANCELED
SUCCESSFUL = WorkflowStatus.SUCCESSFUL
FAILED = WorkflowStatus.FAILED
RESUMABLE = WorkflowStatus.RESUMABLE
PENDING = WorkflowStatus.PENDING

__all__ = [
    "CANCELED",
    "FAILED",
    "NONE",
    "PENDING",
    "RESUMABLE",
    "RUNNING",
    "SUCCESSFUL",
    "DeadLetter",
    "EventListener",
    "EventSource",
    "EventSubscription",
    "Retry",
    "VirtualActor",
    "VirtualActorHandle",
    "Workflow",
    "WorkflowCancellationError",
    "WorkflowError",
    "WorkflowExecutionError",
    "WorkflowStatus",
    "aio",
    "cancel",
    "cancel_reminder",
    "continuation",
    "create",
    "dead_letters",
    "delete",
    "delete_dead_letter",
    "delete_event_subscription",
    "delete_schedule",
    "describe",
    "describe_schedule",
    "event_sources",
    "exceptions",
    "get_actor",
    "get_metadata",
    "get_output",
    "get_output_async",
    "get_status",
    "init",
    "list_actors",
    "list_all",
    "list_event_subscriptions",
    "list_reminders",
    "list_schedules",
    "migrate",
    "on_event",
    "options",
    "pause_schedule",
    "platform_status",
    "remind",
    "replay_dead_letter",
    "reset_actor",
    "resume",
    "resume_all",
    "resume_async",
    "resume_schedule",
    "run",
    "run_async",
    "schedule",
    "send_event",
    "show_dead_letter",
    "shutdown",
    "sleep",
    "step",
    "submit",
    "subscribe",
    "trigger_schedule",
    "virtual_actor",
    "wait",
    "wait_for_event",
]
