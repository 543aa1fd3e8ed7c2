"""User values to payloads and back."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import pickle
import sys
import threading
import traceback
import weakref

import numpy as np
import pytest
import ray

from holdfast.actors.error_values import RemoteTraceback, dump_error, load_error
from holdfast.actors.local_frames import NotHereError
from holdfast.actors.sealed import InFile, Sealed
from holdfast.actors.values import LoadContext, ValueOf, dump, load, object_key, render, set_cluster_nonce
from holdfast.engine.errors import HoldfastError, ResultNotStoredError, TaskError
from holdfast.storage.blobs import BlobStore


@pytest.fixture(scope="module")
def actor(local_ray):
    @ray.remote(num_cpus=0)
    class Holder:
        def give(self, payload, objects=None, caught=False, wraps=0):
            return Sealed(payload, objects, caught=caught, wraps=wraps)

        def loaded_modules(self):
            return list(sys.modules)

    return Holder.remote()


def round_trip(value):
    objects: dict = {}
    return load(dump(value, objects=objects), LoadContext(fetch_object=objects.__getitem__))


class Stubborn(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Held(Exception):
    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught, traceback.format_exc()


@pytest.mark.parametrize(
    "value",
    [
        None,
        ((1,), {}),
        {"a": [1, 2.5, "x", b"y", None, True]},
        list(range(1000)),
        {(1, 2): {3}},
        {1: {2: {3: {4: {5: {6: {7: {8: "deep"}}}}}}}},
        "x" * 100_000,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_plain_values_come_back_equal(value) -> None:
    assert round_trip(value) == value


def test_a_list_within_itself_comes_back_so() -> None:
    value: list = [1]
    value.append(value)
    again = round_trip(value)
    assert again[1] is again


def test_a_lambda_and_a_local_class_come_back() -> None:
    class Point:
        x = 3

    assert round_trip(lambda: Point().x)() == 3


def test_large_arrays_are_not_copied_in_either_direction() -> None:
    array = np.arange(1_000_000)
    payload = dump({"a": array}, objects={})
    assert len(payload.inband) < 1000
    assert payload.nbytes > array.nbytes
    assert np.shares_memory(np.frombuffer(payload.buffers[0], dtype=array.dtype), array)
    assert np.shares_memory(load(payload)["a"], array)


def test_what_was_pickled_is_free_as_soon_as_its_payload_is() -> None:
    array = np.ones(1_000_000, dtype=np.uint8)
    watched = weakref.ref(array)
    gc.disable()
    try:
        payload = dump(array, objects={})
        del array
        assert watched() is not None
        del payload
        assert watched() is None
    finally:
        gc.enable()


def test_what_was_loaded_is_free_as_soon_as_nobody_has_it() -> None:
    payload = dump([np.ones(1_000_000, dtype=np.uint8)], objects={})
    loaded = load(payload, LoadContext())
    watched = weakref.ref(loaded[0])
    gc.disable()
    try:
        del loaded
        assert watched() is None
    finally:
        gc.enable()


def test_small_arrays_stay_in_the_pickle() -> None:
    payload = dump([np.arange(10)], objects={})
    assert payload.buffers == ()
    assert load(payload)[0].sum() == 45


def test_the_content_of_a_ref_is_stored_once_and_comes_back_as_one_ref(local_ray) -> None:
    ref, objects = ray.put({"x": 1}), {}
    payload = dump([ref, {"again": ref}], objects=objects)
    assert list(objects) == [object_key(ref)]
    value = load(payload, LoadContext(fetch_object=objects.__getitem__))
    assert value[0] is value[1]["again"]
    assert value[0] != ref
    assert ray.get(value[0]) == {"x": 1}


def test_refs_of_refs_and_containers_of_refs_are_followed(local_ray) -> None:
    inner = ray.put("inner")
    middle = ray.put([inner, "beside"])
    outer = ray.remote(lambda held: held[0]).remote([middle])
    objects: dict = {}
    value = load(dump(outer, objects=objects), LoadContext(fetch_object=objects.__getitem__))
    assert len(objects) == 3
    assert ray.get(ray.get(ray.get(value))[0]) == "inner"


def test_a_ref_may_be_asked_for_as_its_value(local_ray) -> None:
    ref, objects = ray.put([1]), {}
    payload = dump((ValueOf(ref), ref), objects=objects)
    value = load(payload, LoadContext(fetch_object=objects.__getitem__))
    assert value[0] == [1]
    assert ray.get(value[1]) == [1]
    assert len(objects) == 1


def test_a_ref_whose_content_is_stored_already_is_not_fetched(local_ray) -> None:
    ref = ray.put(1)
    stored = dump("stored before", objects={})
    objects = {object_key(ref): stored}
    dump([ref], objects=objects)
    assert objects == {object_key(ref): stored}


def test_keys_of_objects_differ_from_cluster_to_cluster(local_ray) -> None:
    ref = ray.put(1)
    set_cluster_nonce("one")
    first = object_key(ref)
    set_cluster_nonce("two")
    assert object_key(ref) != first


def test_a_marker_whose_object_cannot_be_fetched_says_so(local_ray) -> None:
    with pytest.raises(LookupError, match="nothing here can fetch it"):
        load(dump([ray.put(1)], objects={}))
    with pytest.raises(LookupError, match="not with plain pickle"):
        pickle.loads(dump([ray.put(1)], objects={}).inband)


def test_actor_handles_are_refused_with_the_fix(actor) -> None:
    for value in (actor, [1, {"k": actor}], actor.give):
        with pytest.raises(TypeError, match=r"actor handle.*ray\.get_actor it inside the task") as refused:
            dump(value, objects={})
        assert isinstance(refused.value, ResultNotStoredError)
    with pytest.raises(TypeError, match=r"at \[1\]\['k'\] of the result"):
        dump([1, {"k": actor}], objects={}, where="the result")


def test_what_cannot_be_pickled_is_named_with_type_and_place() -> None:
    class Service:
        def __init__(self):
            self.guards = [None, threading.Lock()]

    with pytest.raises(ResultNotStoredError, match=r"'lock' at \['s'\]\.guards\[1\] of the result.*inside the task"):
        dump({"s": Service()}, objects={}, where="the result")


def test_a_reduce_that_raises_is_reported_with_its_reason() -> None:
    class Broken:
        def __reduce__(self):
            raise RuntimeError("not today")

    with pytest.raises(ResultNotStoredError, match=r"Broken.*not today"):
        dump([Broken()], objects={})


@pytest.mark.parametrize(
    ("caught", "wraps", "expected"),
    [(False, 0, "x"), (True, 0, (None, "x")), (False, 1, ("x", None)), (True, 2, (((None, "x"), None), None))],
)
def test_rendering_adds_what_catching_tasks_add(caught, wraps, expected) -> None:
    assert render("x", caught=caught, wraps=wraps) == expected


def test_inputs_are_loaded_once_and_only_when_asked_for() -> None:
    calls = []
    context = LoadContext(inputs=[lambda: calls.append(0) or "a", lambda: calls.append(1)])
    assert context.value(0) == "a"
    assert context.value(0) == "a"
    assert calls == [0]


def test_an_error_comes_back_as_itself_with_its_remote_traceback() -> None:
    error, text = raised(ValueError("broken", 3))
    again = load_error(dump_error(error, text))
    assert type(again) is ValueError
    assert again.args == ("broken", 3)
    assert isinstance(again.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(again))
    assert "in raised" in shown
    assert shown.rstrip().endswith("ValueError: ('broken', 3)")


def test_an_error_keeps_its_own_cause_and_takes_the_traceback_as_a_note() -> None:
    error, text = raised(ValueError("outer"), KeyError("inner"))
    again = load_error(dump_error(error, text))
    assert type(again.__cause__) is KeyError
    assert again.__cause__.args == ("inner",)
    assert "in raised" in "".join(again.__notes__)


@pytest.mark.parametrize("error", [Stubborn(1, 2), Held("locked")], ids=["constructor", "lock"])
def test_an_error_that_cannot_be_pickled_is_described(error) -> None:
    again = load_error(dump_error(*raised(error)))
    assert isinstance(again, TaskError)
    assert isinstance(again, HoldfastError)
    assert again.type_name == type(error).__qualname__
    assert again.message == str(error)
    assert "in raised" in again.traceback_text
    assert again.message in str(again)


def test_an_error_whose_str_raises_is_described_too() -> None:
    class Mute(Exception):
        def __init__(self, a, b):
            super().__init__()

        def __str__(self):
            raise RuntimeError

    again = load_error(dump_error(Mute(1, 2), "text"))
    assert "RuntimeError" in again.message


def test_an_error_is_still_readable_when_its_class_is_gone() -> None:
    payload = dump_error(TaskError("T", "m"), "text")
    broken = dataclasses.replace(payload, inband=payload.inband.replace(b"TaskError", b"GoneError"))
    again = load_error(broken)
    assert isinstance(again, TaskError)
    assert isinstance(again.__cause__, AttributeError)


def test_a_sealed_value_becomes_itself_where_it_arrives(actor) -> None:
    array = np.arange(200_000)
    got = ray.get(actor.give.remote(dump({"a": array, "n": 1}, objects={})))
    assert got["n"] == 1
    assert np.array_equal(got["a"], array)
    assert not got["a"].flags.owndata


def test_a_sealed_value_brings_the_objects_it_refers_to(actor) -> None:
    inner = ray.put([ray.put("deep")])
    objects: dict = {}
    payload = dump({"ref": inner}, objects=objects)
    got = ray.get(actor.give.remote(payload, objects))
    assert ray.get(ray.get(got["ref"])[0]) == "deep"


def test_a_sealed_error_arrives_caught_and_wrapped(actor) -> None:
    error, text = raised(ValueError("broken"))
    (nothing, again), last = ray.get(actor.give.remote(dump_error(error, text), None, True, 1))
    assert (nothing, last) == (None, None)
    assert type(again) is ValueError


def test_a_sealed_value_read_back_from_a_mapped_file_can_be_sent(actor) -> None:
    payload = dump([np.arange(2000), "x"], objects={})
    mapped = dataclasses.replace(payload, inband=memoryview(payload.inband))
    assert pickle.loads(pickle.dumps(Sealed(mapped), 5, buffer_callback=(kept := []).append), buffers=kept)[1] == "x"


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Order:\n    amount: int\n\n"
        "def is_order(value):\n    return isinstance(value, Order)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def test_a_sealed_value_in_a_file_is_read_by_who_receives_it(tmp_path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    array = np.arange(1_000_000)
    key = blobs.write("a0", dump(array, objects={}))
    sent = pickle.dumps(Sealed(InFile(str(blobs.root), key, 8_000_000), wraps=1), 5)
    assert len(sent) < 1_000
    received, error = pickle.loads(sent)
    assert error is None
    assert np.array_equal(received, array)
    # In place: it is the file, mapped.
    assert not received.flags.writeable
    assert not received.flags.owndata
    blobs.delete_group("a0")
    with pytest.raises(NotHereError):
        pickle.loads(sent)


def test_who_reads_a_value_gets_his_own_imported_class_after_a_restart(user_module) -> None:
    payload = dump(user_module.Order(3), objects={})
    sys.modules.pop(user_module.__name__)
    again = importlib.import_module(user_module.__name__)
    assert load(payload, LoadContext(prefer_import=True)) == again.Order(3)


def test_a_task_gets_the_class_its_function_carries(user_module) -> None:
    from holdfast.actors.code import CodeBook

    digest, pickled = CodeBook().encode(user_module.is_order)
    payload = dump(user_module.Order(3), objects={})
    name, order = user_module.__name__, user_module.Order
    sys.modules.pop(name)
    importlib.import_module(name)
    is_order = CodeBook().decode(digest, pickled)
    value = load(payload)
    assert is_order(value)
    assert type(value) is order


def test_a_value_outlives_the_module_of_its_class(user_module, tmp_path) -> None:
    payload = dump([user_module.Order(3)], objects={})
    sys.modules.pop(user_module.__name__)
    (tmp_path / f"{user_module.__name__}.py").unlink()
    importlib.invalidate_caches()
    assert load(payload, LoadContext(prefer_import=True))[0].amount == 3


def test_the_actor_that_hands_out_a_value_never_imports_its_class(actor, user_module) -> None:
    got = ray.get(actor.give.remote(dump(user_module.Order(5), objects={})))
    assert got == user_module.Order(5)
    assert user_module.__name__ not in ray.get(actor.loaded_modules.remote())
