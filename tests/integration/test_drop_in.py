"""Programs as users of `ray.workflow` wrote them: one import changes, nothing else."""

from __future__ import annotations

import operator
import random
import textwrap
from typing import Any

import pytest
import ray

from holdfast import workflow

pytestmark = pytest.mark.usefixtures("platform")

# Each program is written for `from ray import workflow` and leaves what it found in `result`.
PROGRAMS: dict[str, tuple[str, Any]] = {
    "a pipeline": (
        """
        @ray.remote
        def load(count):
            return list(range(count))

        @ray.remote
        def square(numbers):
            return [number ** 2 for number in numbers]

        @ray.remote
        def reduce(numbers):
            return sum(numbers)

        dag = reduce.bind(square.bind(load.bind(10)))
        result = workflow.run(dag), ray.get(workflow.run_async(dag))
        """,
        (285, 285),
    ),
    "a diamond with a list of nodes": (
        """
        @ray.remote
        def source():
            return 3

        @ray.remote
        def times(number, factor):
            return number * factor

        @ray.remote
        def gather(refs):
            return ray.get(refs)

        once = source.bind()
        result = workflow.run(gather.bind([times.bind(once, factor) for factor in range(4)]))
        """,
        [0, 3, 6, 9],
    ),
    "an input node": (
        """
        from ray.dag import InputNode

        @ray.remote
        def greet(greeting, name):
            return f"{greeting}, {name}"

        with InputNode() as user:
            dag = greet.bind(user[0], user.name)
        result = workflow.run(dag, "hello", name="world")
        """,
        "hello, world",
    ),
    "a recursive function": (
        """
        @ray.remote
        def multiply(a, b):
            return a * b

        @ray.remote
        def factorial(n):
            if n == 1:
                return 1
            return workflow.continuation(multiply.bind(n, factorial.bind(n - 1)))

        result = workflow.run(factorial.bind(10))
        """,
        3628800,
    ),
    "a loop by continuation": (
        """
        @ray.remote
        def search(low, high, target):
            middle = (low + high) // 2
            if middle == target:
                return f"found {middle}"
            bounds = (low, middle) if middle > target else (middle, high)
            return workflow.continuation(search.bind(*bounds, target))

        result = workflow.run(search.bind(0, 1024, 700))
        """,
        "found 700",
    ),
    "a function that is a task here and plain there": (
        """
        @ray.remote
        def twice(x):
            return 2 * x

        @ray.remote(num_cpus=0)
        def both(x):
            return workflow.continuation(twice.bind(x))

        result = workflow.run(both.bind(4)), ray.get(both.remote(4))
        """,
        (8, 8),
    ),
    "a booking that is undone when a later part fails": (
        """
        @ray.remote
        def book(what):
            if what == "hotel":
                raise RuntimeError("no rooms")
            return what

        @ray.remote
        def undo(what, outcome):
            booked, error = outcome
            return workflow.continuation(report.bind(f"cancelled {what}: {error}")) if error else booked

        @ray.remote
        def report(text):
            return text

        flight = book.bind("flight")
        hotel = book.options(**workflow.options(catch_exceptions=True)).bind("hotel")
        result = workflow.run(undo.bind(flight, hotel))
        """,
        "cancelled flight: no rooms",
    ),
    "retries of a flaky task": (
        """
        import pathlib, tempfile

        runs = pathlib.Path(tempfile.mkdtemp()) / "runs"

        @ray.remote
        def flaky():
            with runs.open("a") as file:
                file.write("x")
            if len(runs.read_text()) < 3:
                raise ConnectionError("try again")
            return len(runs.read_text())

        result = workflow.run(flaky.options(max_retries=5, retry_exceptions=True).bind())
        """,
        3,
    ),
    "names, metadata and outputs of tasks": (
        """
        @workflow.options(task_id="first", metadata={"owner": "a"})
        @ray.remote
        def one():
            return 1

        @ray.remote
        def two(x):
            return x + 1

        dag = two.options(**workflow.options(task_id="second")).bind(one.bind())
        workflow.run(dag, workflow_id="named tasks", metadata={"env": "test"})
        told = workflow.get_metadata("named tasks")
        result = (
            workflow.get_output("named tasks", task_id="first"),
            workflow.get_output("named tasks", task_id="second"),
            workflow.get_metadata("named tasks", "first")["user_metadata"],
            told["status"], told["user_metadata"], sorted(told["stats"]),
        )
        """,
        (1, 2, {"owner": "a"}, "SUCCESSFUL", {"env": "test"}, ["end_time", "start_time"]),
    ),
    "management": (
        """
        @ray.remote
        def hard(ok):
            if not ok.exists():
                raise OSError("not there")
            return "there"

        import pathlib, tempfile

        ok = pathlib.Path(tempfile.mkdtemp()) / "ok"
        seen = []
        try:
            workflow.run(hard.bind(ok), workflow_id="managed")
        except workflow.WorkflowExecutionError as error:
            seen.append(type(error.__cause__).__name__)
        seen.append(workflow.get_status("managed") == workflow.WorkflowStatus.FAILED)
        seen.append(("managed", "FAILED") in workflow.list_all({"FAILED", workflow.WorkflowStatus.RUNNING}))
        ok.touch()
        seen.append({name: ray.get(ref) for name, ref in workflow.resume_all(include_failed=True)}["managed"])
        seen.append(workflow.get_output("managed"))
        workflow.delete("managed")
        seen.append("managed" in dict(workflow.list_all()))
        result = seen
        """,
        ["OSError", True, True, "there", "there", False],
    ),
    "an event between two tasks": (
        """
        import time
        from ray.workflow.event_listener import TimerListener

        @ray.remote
        def after(event, value):
            return value

        begun = time.time()
        event = workflow.wait_for_event(TimerListener, begun + 0.3)
        result = workflow.run(after.bind(event, "woken")), time.time() - begun >= 0.3
        """,
        ("woken", True),
    ),
    "a sleep": (
        """
        import time

        @ray.remote
        def after(_, begun):
            return time.time() - begun >= 0.2

        result = workflow.run(after.bind(workflow.sleep(0.2), time.time()))
        """,
        True,
    ),
    "a listener of one's own": (
        """
        import asyncio
        from ray import workflow as module

        class Soon(workflow.EventListener):
            def __init__(self):
                self.calls = 0

            async def poll_for_event(self, value):
                self.calls += 1
                await asyncio.sleep(0.01)
                return value, self.calls

        @ray.remote
        def handle(event):
            return event

        result = workflow.run(handle.bind(module.wait_for_event(Soon, "event")))
        """,
        ("event", 1),
    ),
    "steps of the older API": (
        """
        @workflow.step
        def make(n):
            return [grow.step(i) for i in range(n)]

        @workflow.step
        def grow(i):
            return i + 1

        @workflow.step
        def add_up(parts):
            return sum(parts)

        result = add_up.step([grow.step(i) for i in range(4)]).run(), grow.step(1).run_async() is not None
        """,
        (10, True),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_with_one_import_changed(name) -> None:
    source, expected = PROGRAMS[name]
    program = "import ray\nfrom ray import workflow\n" + textwrap.dedent(source)
    program = program.replace("from ray import workflow", "from holdfast import workflow")
    program = program.replace("from ray.workflow", "from holdfast.workflow")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, f"<{name}>", "exec"), names)
    assert names["result"] == expected


# -- any graph ---------------------------------------------------------------------------------------------------------


@ray.remote
def combine(*values, more=()):
    """Adds up numbers, and the refs inside containers."""
    refs = [ref for part in more for ref in (part if isinstance(part, list) else [part])]
    return (sum(values) * 3 + sum(ray.get(refs))) % 1_000_003


@ray.remote
def by_continuation(*values, more=()):
    return workflow.continuation(combine.bind(*values, more=more))


def grow(seed: int) -> tuple[Any, int]:
    """A random graph, and the value it must have."""
    rng = random.Random(seed)
    grown: list[tuple[Any, int]] = []
    for _ in range(rng.randint(1, 12)):
        inputs = [rng.choice(grown) for _ in range(rng.randint(0, 3)) if grown]
        inside = [rng.choice(grown) for _ in range(rng.randint(0, 3)) if grown]
        number = rng.randint(0, 99)
        function = rng.choice((combine, combine, by_continuation))
        options = {"checkpoint": rng.random() > 0.2}
        if rng.random() < 0.3:
            options["task_id"] = "repeated"
        nodes = [node for node, _ in inside]
        more = [nodes[:1], *nodes[1:], ray.put(number)]
        node = function.options(**workflow.options(**options)).bind(number, *(node for node, _ in inputs), more=more)
        value = (number + sum(value for _, value in inputs)) * 3 + sum(value for _, value in inside) + number
        grown.append((node, value % 1_000_003))
    return max(grown[-2:], key=operator.itemgetter(1))


@pytest.mark.parametrize("seed", range(8))
def test_any_graph_has_the_value_that_plain_python_gives_it(seed) -> None:
    dag, expected = grow(seed)
    workflow_id = f"graph-{seed}"
    assert workflow.run(dag, workflow_id=workflow_id) == expected
    assert workflow.run(dag, workflow_id=workflow_id) == expected
    assert workflow.get_output(workflow_id) == expected
