"""From what users bind to the engine's graph, and back to call arguments."""

from __future__ import annotations

import threading

import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

from holdfast.actors.code import BOOK
from holdfast.actors.graph_builder import build
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.nodes import EventNode, SleepNode, StepNode, TaskRefNode, WaitNode
from holdfast.actors.task_options import WorkflowOptions
from holdfast.engine.errors import InvalidGraphError, ResultNotStoredError
from holdfast.engine.graph import NodeKind
from tests.ids import without_address


@ray.remote
def f(*args, **kwargs):
    return args, kwargs


@ray.remote
def one(x):
    return x


class _Interface:
    async def poll_for_event(self, *args, **kwargs):
        raise NotImplementedError

    async def event_checkpointed(self, event):
        return None


class Subscribed(_Interface):
    @classmethod
    def subscription(cls, topic, key):
        return type("Subscription", (), {"source": f"kafka/{topic}", "key": key})

    async def event_checkpointed(self, event):
        self.seen = event


class Timer(_Interface):
    @staticmethod
    def subscription(at):
        return type("Subscription", (), {"due_unix_s": at})


class Custom(_Interface):
    async def poll_for_event(self, key):
        return key


def sink_of(draft):
    return draft.graph.nodes[draft.graph.sink]


def arguments_of(draft, node, inputs=()):
    context = LoadContext(
        inputs=[lambda value=value: value for value in inputs],
        fetch_object=draft.objects.__getitem__,
        local_values=draft.local_values,
    )
    return load(node.arguments, context)


def ids(draft):
    return [node.task_id for node in draft.graph.nodes]


def named(name):
    return one.options(**WorkflowOptions(task_id=name))


def test_nodes_stand_in_the_order_of_building() -> None:
    third_user = f.options(**WorkflowOptions(task_id="sink"))
    a, b, c = named("a").bind(1), named("b").bind(2), named("c").bind(3)
    draft = build(third_user.bind(c, [b], x=a))
    assert ids(draft) == ["a", "b", "c", "sink"]
    assert draft.graph.sink == 3


def test_a_node_used_twice_is_one_node_and_one_object() -> None:
    shared = one.bind(1)
    draft = build(f.bind(shared, shared, x=shared))
    node = sink_of(draft)
    assert len(draft.graph.nodes) == 2
    assert node.inputs == (0,)
    args, kwargs = arguments_of(draft, node, [["same"]])
    assert args[0] is args[1] is kwargs["x"]


def test_the_dag_api_gives_values_at_top_level_and_refs_below(local_ray) -> None:
    top, nested = one.bind(1), one.bind(2)
    draft = build(f.bind(top, [nested], k={"n": nested}))
    args, kwargs = arguments_of(draft, sink_of(draft), ["top", "nested"])
    assert args[0] == "top"
    assert isinstance(args[1][0], ray.ObjectRef)
    assert args[1][0] is kwargs["k"]["n"]
    assert ray.get(args[1][0]) == "nested"


def test_object_refs_are_stored_with_the_graph_and_follow_the_same_rule(local_ray) -> None:
    ref = ray.put("content")
    draft = build(f.bind(ref, [ref, ref]))
    assert len(draft.objects) == 1
    args, _ = arguments_of(draft, sink_of(draft))
    assert args[0] == "content"
    assert args[1][0] is args[1][1]
    assert ray.get(args[1][0]) == "content"


def test_default_ids_name_module_and_function() -> None:
    @ray.remote
    def inner():
        return 1

    expected = f"{__name__}.test_default_ids_name_module_and_function.locals.inner"
    assert ids(build(inner.bind())) == [expected]


def test_code_is_given_once_per_function() -> None:
    draft = build(f.bind(*[one.bind(i) for i in range(5)]))
    assert len(draft.code) == 2
    digest = sink_of(draft).function
    assert BOOK.decode(digest, draft.code[digest])(1) == ((1,), {})


def test_inputs_of_the_run_become_plain_values() -> None:
    with InputNode() as given:
        dag = f.bind(given[0], [given["k"], {"x": given.k}], y=given[1])
    draft = build(dag, args=(1, 2), kwargs={"k": 3})
    assert len(draft.graph.nodes) == 1
    assert arguments_of(draft, sink_of(draft)) == ((1, [3, {"x": 3}]), {"y": 2})


def test_a_single_input_is_the_input() -> None:
    with InputNode() as given:
        dag = f.bind(given, [given["a"]])
    draft = build(dag, args=({"a": 1},))
    assert arguments_of(draft, sink_of(draft)) == (({"a": 1}, [1]), {})


def test_a_missing_input_is_refused() -> None:
    with InputNode() as given:
        dag = f.bind(given[2])
    with pytest.raises(TypeError, match="input 2"):
        build(dag, args=(1, 2))


def test_a_large_input_is_stored_once() -> None:
    large = b"x" * 100_000
    with InputNode() as given:
        dag = f.bind(one.bind(given[0]), one.bind(given[0]), [given[0]])
    draft = build(dag, args=(large, 1))
    assert len(draft.objects) == 1
    assert all(node.arguments.nbytes < 1000 for node in draft.graph.nodes)
    args, _ = arguments_of(draft, sink_of(draft), ["a", "b"])
    assert args == ("a", "b", [large])


@pytest.mark.parametrize("root", [3, "dag", None, f, [f]], ids=without_address)
def test_what_is_no_node_is_refused(root) -> None:
    with pytest.raises(TypeError, match=type(root).__name__):
        build(root)


def test_actors_in_a_graph_are_refused() -> None:
    @ray.remote
    class Counter:
        def get(self):
            return 1

    with pytest.raises(TypeError, match="actor"):
        build(Counter.bind())
    with pytest.raises(TypeError, match="actor"):
        build(one.bind(Counter.bind().get.bind()))
    with pytest.raises(TypeError, match="actor"):
        build(one.bind([Counter.bind()]))


def test_an_input_node_alone_cannot_be_run() -> None:
    with InputNode() as given, pytest.raises(TypeError, match="InputNode"):
        build(given, args=(1,))


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"y": 1}), ((), {"y": 1})])
def test_arguments_that_do_not_fit_are_refused_by_name(args, kwargs) -> None:
    with pytest.raises(TypeError, match=r"test_graph_builder\.one\(x\)"):
        build(f.bind(one.bind(*args, **kwargs)))


def test_a_circle_is_refused() -> None:
    held: list = []
    node = one.bind(held)
    held.append(node)
    with pytest.raises(InvalidGraphError, match="cyclic"):
        build(node)


def test_a_value_that_cannot_be_pickled_is_named_with_its_place() -> None:
    with pytest.raises(ResultNotStoredError, match=r"'lock' at \[0\]\[1\]\['k'\] of .*'holder'"):
        build(f.options(**WorkflowOptions(name="holder")).bind(1, {"k": threading.Lock()}))


def test_an_in_place_task_may_take_what_lives_in_this_process_only() -> None:
    lock, below = threading.Lock(), one.bind(1)
    dag = f.options(**WorkflowOptions(allow_inplace=True)).bind(below, 2, {"lock": lock})
    draft = build(dag, allow_local=True)
    node = sink_of(draft)
    assert node.process_local
    assert not draft.graph.nodes[0].process_local
    args, _ = arguments_of(draft, node, ["below"])
    assert args[:2] == ("below", 2)
    assert args[2]["lock"] is lock
    with pytest.raises(ResultNotStoredError):
        build(dag)
    with pytest.raises(LookupError, match="that worker is gone"):
        load(node.arguments, LoadContext(inputs=[lambda: 0]))


def test_a_multi_output_node_gives_its_list() -> None:
    draft = build(MultiOutputNode([one.bind(1), one.bind(2)]))
    node = sink_of(draft)
    args, kwargs = arguments_of(draft, node, ["a", "b"])
    assert BOOK.decode(node.function, draft.code[node.function])(*args, **kwargs) == ["a", "b"]


def test_wait_and_sleep_become_nodes_of_their_kind() -> None:
    a, b = one.bind(1), StepNode(one._function, (2,))
    draft = build(f.bind(WaitNode([a, b], num_returns=2, timeout=1.5), SleepNode(3)))
    _, _, wait, sleep, sink = draft.graph.nodes
    assert (wait.kind, wait.inputs, wait.num_returns, wait.duration_s) == (NodeKind.WAIT, (0, 1), 2, 1.5)
    assert (sleep.kind, sleep.inputs, sleep.duration_s) == (NodeKind.SLEEP, (), 3.0)
    assert sink.inputs == (2, 3)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: WaitNode(one.bind(1)), TypeError),
        (lambda: WaitNode([one.bind(1), 3]), TypeError),
        (lambda: WaitNode([one.bind(1)], num_returns=2), ValueError),
        (lambda: WaitNode([one.bind(1)], num_returns=0), ValueError),
        (lambda: WaitNode([one.bind(1)], num_returns="1"), TypeError),
        (lambda: WaitNode([one.bind(1)], timeout=-1), ValueError),
        (lambda: WaitNode([one.bind(1)] * 2), ValueError),
        (lambda: SleepNode(-1), ValueError),
        (lambda: SleepNode(float("nan")), ValueError),
        (lambda: SleepNode("1"), TypeError),
        (lambda: EventNode(3), TypeError),
        (lambda: EventNode(dict), TypeError),
    ],
)
def test_nodes_that_make_no_sense_are_refused_when_built(make, error) -> None:
    with pytest.raises(error):
        make()


def test_a_task_that_exists_is_a_negative_input() -> None:
    existing = TaskRefNode("wf", 7, "t")
    draft = build(f.bind(existing, WaitNode([existing, one.bind(1)])))
    assert sink_of(draft).inputs == (-8, 1)
    assert draft.graph.nodes[1].inputs == (-8, 0)
    assert draft.workflow_ids == {"wf"}


def test_a_task_that_exists_can_be_the_whole_graph() -> None:
    draft = build(ray.cloudpickle.loads(ray.cloudpickle.dumps(TaskRefNode("wf", 0, "t"))))
    assert sink_of(draft).inputs == (-1,)
    args, kwargs = arguments_of(draft, sink_of(draft), ["value"])
    assert BOOK.decode(sink_of(draft).function, b"")(*args, **kwargs) == "value"


def test_a_listener_says_itself_what_it_reads() -> None:
    node = sink_of(build(EventNode(Subscribed, ("orders",), {"key": "k"})))
    assert (node.kind, node.stream, node.due_unix_s) == (NodeKind.EVENT, ("kafka/orders", "k"), None)
    assert node.acknowledge
    node = sink_of(build(EventNode(Timer, (12.5,))))
    assert (node.stream, node.due_unix_s, node.acknowledge) == (None, 12.5, False)


def test_a_listener_whose_arguments_are_not_known_yet_is_asked_later() -> None:
    draft = build(EventNode(Subscribed, ("orders", one.bind(1))))
    node = sink_of(draft)
    assert node.stream is None
    assert node.inputs == (0,)
    assert arguments_of(draft, node, ["k"]) == (("orders", "k"), {})
    assert BOOK.decode(node.function, draft.code[node.function]) is Subscribed


def test_arguments_of_a_listener_are_checked() -> None:
    with pytest.raises(TypeError, match="poll_for_event"):
        build(EventNode(Custom, (1, 2)))


def test_a_step_nested_in_a_dag_arrives_as_its_value() -> None:
    draft = build(f.bind([StepNode(one._function, (1,))]))
    args, _ = arguments_of(draft, sink_of(draft), ["value"])
    assert args == (["value"],)


def test_a_long_chain_needs_no_stack() -> None:
    node = one.bind(0)
    for _ in range(10_000):
        node = one.bind(node)
    draft = build(node)
    assert len(draft.graph.nodes) == 10_001
    assert draft.graph.sink == 10_000
    assert draft.graph.nodes[5].inputs == (4,)


def test_a_fan_out_of_a_thousand_carries_each_function_once() -> None:
    draft = build(f.bind([one.bind(i) for i in range(1000)]))
    assert len(draft.graph.nodes) == 1001
    assert len(draft.code) == 2
