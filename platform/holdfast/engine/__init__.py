"""The engine: decides. Pure state machines; no Ray, asyncio, LMDB, clock or I/O in here."""

from holdfast.engine.errors import HoldfastError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.queueing import Admission, Limits
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.run import Run
from holdfast.engine.run_image import RunImage
from holdfast.engine.step import Step
from holdfast.engine.transitions import TRANSITIONS, StatusSignal, WorkflowStatus, next_status
from holdfast.engine.values import Split, Value

__all__ = [
    "TRANSITIONS",
    "Admission",
    "Graph",
    "HoldfastError",
    "Limits",
    "NodeKind",
    "NodeSpec",
    "RetryBudget",
    "RetryPolicy",
    "Run",
    "RunImage",
    "Split",
    "StatusSignal",
    "Step",
    "TaskOptions",
    "Value",
    "WorkflowStatus",
    "next_status",
]
