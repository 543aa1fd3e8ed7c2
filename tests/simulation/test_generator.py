"""The generator meets every feature often, and the evaluator agrees with itself."""

from __future__ import annotations

from collections import Counter
from random import Random

from holdfast.engine.graph import NodeKind
from tests.simulation.evaluator import Evaluator
from tests.simulation.generator import generate
from tests.simulation.plans import Does, Plan

SEEDS = 400


def features(plan: Plan) -> list[str]:
    """What a plan is an example of."""
    options = plan.options
    found = {
        plan.kind.value: True,
        plan.does.name if plan.kind is NodeKind.CALL else f"poll {plan.poll.name}": True,
        "catches": options.catch_exceptions,
        "not stored": not options.checkpoint,
        "in place": options.in_place,
        "back-off": options.retry is not None,
        "shared budget": options.budget.shared and plan.dies > 0,
        "separate budget": not options.budget.shared and plan.flaky > 0,
        "worker deaths": plan.dies > 0,
        "more deaths than forgiven": plan.dies > options.budget.deaths >= 0 and options.retry is None,
        "time limit of an attempt": plan.slow > 0,
        "time limit of a wait": plan.wait_s is not None,
    }
    return [name for name, holds in found.items() if holds]


def test_every_feature_is_met_often() -> None:
    met: Counter[str] = Counter()
    for seed in range(SEEDS):
        program = generate(Random(seed))
        met.update({name for key in range(len(program.book)) for name in features(program.book[key])})
        met.update(["process-local"] * any(_is_local(program.book[key]) for key in range(len(program.book))))
    expected = {kind.value for kind in NodeKind} | {does.name for does in Does}
    expected |= {"poll EVENT", "poll STREAM", "poll DUE", "process-local", "catches", "not stored", "in place"}
    expected |= {"back-off", "shared budget", "separate budget", "worker deaths", "more deaths than forgiven"}
    expected |= {"time limit of an attempt", "time limit of a wait"}
    rare = {name: met[name] for name in expected if met[name] < SEEDS // 100}
    assert not rare


def test_a_seed_gives_the_same_workflow_and_the_same_outcome_each_time() -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(SEEDS):
        first, second = generate(Random(seed)), generate(Random(seed))
        assert first.graph == second.graph
        outcome = Evaluator(first.book).outcome(first.sink)
        assert outcome == Evaluator(second.book).outcome(second.sink)
        outcomes["fails" if isinstance(outcome, tuple) and outcome[0] == "failed" else "succeeds"] += 1
    assert min(outcomes["fails"], outcomes["succeeds"]) > SEEDS // 100


def _is_local(plan: Plan) -> bool:
    return plan.graph is not None and any(node.process_local for node in plan.graph.nodes)
