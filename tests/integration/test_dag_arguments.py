"""What may be passed to a task and returned by it in the DAG API, and how it arrives."""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data

from holdfast import workflow
from holdfast.actors.values import object_key
from tests.integration.traces import mark, marks

# Above this, values are stored in files and not with the records.
LARGE = 1_000_000


@ray.remote
def kinds(*args, **kwargs):
    return [type(arg).__name__ for arg in args], {name: type(value).__name__ for name, value in kwargs.items()}


@ray.remote
def same(value):
    return value


@ray.remote
def trace(path, value):
    mark(path)
    return value


@ray.remote
def total(refs):
    return sum(ray.get(list(refs)))


@pytest.mark.usefixtures("platform")
class TestArrival:
    def test_a_node_or_ref_at_top_level_arrives_as_its_value(self) -> None:
        dag = kinds.bind(same.bind(1), ray.put("text"), x=same.bind([2]), y=ray.put({}))
        assert workflow.run(dag) == (["int", "str"], {"x": "list", "y": "dict"})

    def test_nodes_and_refs_in_containers_arrive_as_refs(self) -> None:
        @ray.remote
        def look(a, b, c):
            parts = [a[0], b["k"][0], c[1][0]]
            return [isinstance(part, ray.ObjectRef) for part in parts], ray.get(parts), [a[1], c[0]]

        dag = look.bind([same.bind(1), 9], {"k": (same.bind(2),)}, (8, [ray.put(3)]))
        assert workflow.run(dag) == ([True] * 3, [1, 2, 3], [9, 8])

    def test_a_node_used_twice_runs_once(self, tmp_path) -> None:
        node = trace.bind(tmp_path / "traces", 5)
        assert workflow.run(total.bind([node, same.bind(node), node])) == 15
        assert len(marks(tmp_path / "traces")) == 1

    def test_both_uses_of_a_node_see_one_object(self) -> None:
        @ray.remote
        def one_object(a, b, refs):
            return a is b, refs[0] == refs[1]

        node = same.bind({"k": [1]})
        assert workflow.run(one_object.bind(node, node, [node, node])) == (True, True)

    def test_both_uses_of_a_ref_see_one_object(self) -> None:
        @ray.remote
        def one_object(a, b):
            return a is b

        ref = ray.put({"k": [1]})
        assert workflow.run(one_object.bind(ref, ref)) is True

    def test_a_ref_of_a_ref_arrives_one_level_down(self) -> None:
        @ray.remote
        def look(value):
            return isinstance(value, ray.ObjectRef) and ray.get(value)

        @ray.remote
        def gives_ref():
            return ray.put("inner")

        assert workflow.run(look.bind(gives_ref.bind())) == "inner"
        assert workflow.run(look.bind(gives_ref.remote())) == "inner"
        assert ray.get(workflow.run(same.bind(gives_ref.bind()))) == "inner"
        given = workflow.run(gives_ref.bind())
        assert isinstance(given, ray.ObjectRef)
        assert ray.get(given) == "inner"

    def test_a_container_of_refs_passes_between_tasks_and_out(self) -> None:
        @ray.remote
        def make(n):
            return {"refs": [ray.put(i) for i in range(n)], "deep": (ray.put([ray.put("x")]),)}

        @ray.remote
        def use(made):
            return sum(ray.get(made["refs"])), ray.get(ray.get(made["deep"][0])[0]), made

        count, text, made = workflow.run(use.bind(make.bind(4)))
        assert (count, text) == (6, "x")
        assert ray.get(made["refs"]) == [0, 1, 2, 3]

    def test_a_ref_whose_task_failed_fails_the_submission(self) -> None:
        @ray.remote(max_retries=0)
        def fails():
            raise KeyError("lost")

        with pytest.raises((KeyError, ray.exceptions.RayTaskError)):
            workflow.run(same.bind(fails.remote()))

    def test_an_actor_handle_is_a_type_error_that_says_so(self, wid) -> None:
        @ray.remote(num_cpus=0)
        class Counter:
            def one(self):
                return 1

        counter = Counter.remote()
        for value in (counter, [counter], {"k": (1, counter)}):
            with pytest.raises(TypeError, match="actor handle"):
                workflow.run_async(same.bind(value), workflow_id=wid)
        with pytest.raises(TypeError, match="actor"):
            workflow.run_async(same.bind(Counter.bind()), workflow_id=wid)
        with pytest.raises(TypeError, match="actor"):
            workflow.run_async(Counter.bind().one.bind(), workflow_id=wid)
        assert wid not in dict(workflow.list_all())

        @ray.remote
        def returns_actor():
            return {"k": [Counter.remote()]}

        with pytest.raises(workflow.WorkflowExecutionError) as failure:
            workflow.run(returns_actor.bind(), workflow_id=wid)
        assert isinstance(failure.value.__cause__, TypeError)
        assert "actor handle" in str(failure.value.__cause__)
        ray.kill(counter)

    def test_what_cannot_be_pickled_is_named_with_its_place(self, wid) -> None:
        with pytest.raises(TypeError, match="lock"):
            workflow.run_async(same.bind({"k": [threading.Lock()]}), workflow_id=wid)

        @ray.remote
        def returns_lock():
            return [1, threading.Lock()]

        with pytest.raises(workflow.WorkflowExecutionError) as failure:
            workflow.run(returns_lock.bind(), workflow_id=wid)
        assert isinstance(failure.value.__cause__, TypeError)
        assert "lock" in str(failure.value.__cause__)

    def test_a_value_that_does_not_load_fails_the_task_and_nothing_else(self, wid) -> None:
        class Broken:
            def __reduce__(self):
                return int, ("not a number",)

        with pytest.raises(workflow.WorkflowExecutionError):
            workflow.run(same.bind(Broken()), workflow_id=wid)
        assert workflow.run(same.bind(1)) == 1

    def test_values_of_classes_of_the_users_own_come_back_as_that_class(self) -> None:
        @ray.remote
        def move(point):
            assert isinstance(point, Point)
            return Point(point.x + 1)

        moved = workflow.run(move.bind(move.bind(Point(1))))
        assert isinstance(moved, Point)
        assert moved.x == 3


class Point:
    def __init__(self, x):
        self.x = x


@pytest.mark.usefixtures("platform")
class TestLargeValues:
    def test_an_array_of_128_mb_passes_in_through_and_out(self) -> None:
        @ray.remote
        def make(mb):
            return np.ones(mb * 1024 * 1024, dtype=np.uint8)

        @ray.remote
        def measure(array):
            return array.nbytes, int(array[-1]), array

        nbytes, last, array = workflow.run(measure.bind(make.bind(128)))
        assert (nbytes, last, array.nbytes) == (128 << 20, 1, 128 << 20)
        del array
        gc.collect()

    def test_an_array_of_100_mb_passes_as_an_argument(self) -> None:
        given = np.arange(100 * 1024 * 1024 // 8)

        @ray.remote
        def check(array):
            return int(array[-1]), array.nbytes

        assert workflow.run(check.bind(given)) == (len(given) - 1, given.nbytes)
        assert workflow.run(check.bind(ray.put(given))) == (len(given) - 1, given.nbytes)

    def test_a_large_result_is_read_in_place(self) -> None:
        @ray.remote
        def make():
            return np.zeros(LARGE)

        @ray.remote
        def look(a, b):
            # The file, or the copy of it in memory that is there for its first reader.
            mapped = re.search(r"/blobs/|/dev/shm/holdfast-\d+-blobs-", Path("/proc/self/maps").read_text()) is not None
            return a is b, a.flags.writeable, a.flags.owndata, mapped

        node = make.bind()
        assert workflow.run(look.bind(node, node)) == (True, False, False, True)

    def test_the_value_of_run_is_not_copied_into_the_driver(self) -> None:
        @ray.remote
        def make():
            return np.zeros(LARGE)

        value = workflow.run(make.bind())
        assert not value.flags.writeable
        assert not value.flags.owndata

    def test_an_object_is_stored_once_for_all_its_uses(self, platform) -> None:
        def stored() -> set[str]:
            return {
                os.path.join(folder, name)
                for folder, _, names in os.walk(platform / "blobs")
                for name in names
                if os.path.getsize(os.path.join(folder, name)) >= LARGE
            }

        before = stored()
        ref = ray.put(np.ones(LARGE, dtype=np.uint8))

        @ray.remote
        def size(array, refs):
            return array.nbytes + sum(ray.get(one).nbytes for one in refs)

        dag = total.bind([size.bind(ref, [ref]), size.bind(ref, [ref, ref]), size.bind(1 and ref, [])])
        assert workflow.run(dag) == 6 * LARGE
        assert len(stored() - before) == 1


@pytest.mark.usefixtures("platform")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # Ray warns of its own defaults.
def test_a_dataset_passes() -> None:
    @ray.remote
    def make(n):
        return ray.data.range(n, override_num_blocks=2)

    @ray.remote
    def double(data):
        return data.map(lambda row: {"id": row["id"] * 2}).materialize()

    @ray.remote
    def add_up(data):
        return sum(row["id"] for row in data.take_all())

    assert workflow.run(add_up.bind(double.bind(make.bind(10)))) == 90
    assert workflow.run(add_up.bind(ray.data.range(10, override_num_blocks=2))) == 45


# -- after the cluster is gone ---------------------------------------------------------------------------------------


@pytest.fixture
def clusters(tmp_path):
    """Starts one cluster after another on the same storage folder."""
    ray.shutdown()

    def start() -> None:
        if ray.is_initialized():
            ray.shutdown()
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        workflow.init(str(tmp_path / "storage"))

    yield start
    workflow.shutdown()
    ray.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # Ray warns of its own defaults.
def test_contents_of_refs_are_valid_after_the_cluster_is_gone(clusters, tmp_path) -> None:
    clusters()
    gate = tmp_path / "gate"

    @ray.remote
    def make():
        return [ray.put("small"), ray.put(np.full(LARGE, 7, dtype=np.uint8)), ray.put([ray.put("nested")])]

    @ray.remote
    def use(made, given, held):
        if not gate.exists():
            raise FileNotFoundError(gate)
        small, large, nested = ray.get(made)
        return small, int(large.sum()), ray.get(nested[0]), int(given[0]), ray.get(ray.get(held)["k"])

    @ray.remote
    def make_data():
        return ray.data.range(5, override_num_blocks=2).materialize()

    given, held = ray.put(np.full(LARGE, 3, dtype=np.uint8)), [ray.put({"k": ray.put("deep")})]

    @ray.remote
    def unpack(refs):
        return refs[0]

    assert len(workflow.run(make.bind(), workflow_id="made")) == 3
    workflow.run(make_data.bind(), workflow_id="data")
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(use.bind(make.bind(), given, unpack.bind(held)), workflow_id="used")
    key = object_key(given)
    del given, held

    clusters()
    gate.touch()
    assert workflow.get_status("used") == "FAILED"
    assert workflow.resume("used") == ("small", 7 * LARGE, "nested", 3, "deep")
    small, large, nested = workflow.get_output("made")
    assert ray.get(small) == "small"
    assert ray.get(large).sum() == 7 * LARGE
    assert ray.get(ray.get(nested)[0]) == "nested"
    assert [row["id"] for row in workflow.get_output("data").take_all()] == [0, 1, 2, 3, 4]
    # ObjectRef ids repeat from cluster to cluster; the names of what is stored do not.
    assert object_key(ray.put("another")) != key
