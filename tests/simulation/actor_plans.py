"""What the methods of simulated virtual actors do, and how they do it again after a crash: the same.

The state of an actor is the list of the marks of the calls that took effect, so that any state tells its history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import orjson

from holdfast.engine.graph import Graph, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.virtual_actor_records import CallSpec
from holdfast.storage.actor_row import ActorState, SubRequest
from holdfast.storage.payload import Payload

ERROR = Payload(b"an error")


def load_state(state: ActorState | None) -> list[str]:
    """The marks of the calls that took effect."""
    if state is None:
        return []
    assert isinstance(state.base, Payload)
    marks: list[str] = orjson.loads(bytes(state.base.inband))
    return marks


def dump_state(marks: list[str]) -> ActorState:
    """The state that `load_state` makes this of."""
    return ActorState(Payload(orjson.dumps(marks)), json=True)


def value_of(marks: list[str]) -> Payload:
    """What a call returns: how many had taken effect, itself included."""
    return Payload(orjson.dumps(len(marks)))


@dataclass(slots=True)
class Plan:
    """What one call does.

    Attributes:
        mark: The call's nonce: what it adds to the state.
        takes_s: How long an attempt takes.
        raises: So many attempts raise.
        kills: So many attempts end their host.
        continues: It goes on as a workflow.
        sub_fails: That workflow fails, until it is resumed.
        parts: Marks of the calls that are parts of it.
        options: Of the call.
    """

    mark: str
    takes_s: float = 0.01
    raises: int = 0
    kills: int = 0
    continues: bool = False
    sub_fails: bool = False
    parts: tuple[str, ...] = ()
    options: TaskOptions = field(default_factory=TaskOptions)

    @property
    def succeeds(self) -> bool:
        """Whether it takes effect in the end, if nobody withdraws it and no mailbox is held up."""
        return self.raises <= self.retries

    @property
    def retries(self) -> int:
        """How many attempts may raise."""
        policy = self.options.retry
        return self.options.budget.errors if policy is None else policy.max_attempts - 1


def make_plan(random: Random, mark: str, *, inner: bool = False) -> Plan:
    """What a call does, drawn at random."""
    plan = Plan(mark=mark, takes_s=random.choice((0.0, 0.01, random.uniform(0, 3))))
    kind = random.random()
    if kind < 0.12:
        plan.raises = random.choice((1, 1, 2, 9))
        if not inner and random.random() < 0.7:
            retry = RetryPolicy(max_attempts=3, initial_s=random.choice((0.0, 1.0)), jitter=0.5)
            budget = RetryBudget(errors=2, shared=False)
            policies = random.random() < 0.5
            plan.options = TaskOptions(retry=retry if policies else None, budget=budget)
        if random.random() < 0.3:
            plan.options = TaskOptions(retry=plan.options.retry, budget=plan.options.budget, catch_exceptions=True)
    elif kind < 0.16:
        plan.kills = random.choice((1, 2, 6))
    elif kind < 0.2 and not inner:
        plan.options = TaskOptions(timeout_s=random.choice((0.5, 5.0)))
    elif kind < 0.3 and not inner:
        plan.continues = True
        plan.sub_fails = random.random() < 0.3
        plan.parts = tuple(f"{mark}{part:02x}" for part in range(random.choice((0, 0, 1, 2))))
    return plan


def sub_request(plan: Plan) -> SubRequest:
    """The workflow that a call goes on as."""
    return SubRequest(graph=Graph(nodes=(NodeSpec(task_id=plan.mark),), sink=0))


def spec_of(plan: Plan, *, key: str = "", inside: int | None = None, nonce: str = "") -> CallSpec:
    """The call."""
    return CallSpec(method="m", nonce=nonce or plan.mark, key=key, options=plan.options, inside=inside)
