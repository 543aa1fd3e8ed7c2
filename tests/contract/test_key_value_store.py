"""What every store promises, run on each backend."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.engine.errors import StorageError
from holdfast.storage.interface import MAX_KEY_BYTES, KeyValueStore

KEYS = st.binary(min_size=1, max_size=4) | st.sampled_from(
    [b"\xff", b"\xff\xff", b"a\xff", b"a\xff\xff", b"b", b"k" * MAX_KEY_BYTES, b"\xff" * MAX_KEY_BYTES]
)
BOUNDS = KEYS | st.just(b"")
STEPS = st.lists(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=6) | st.just(b"v" * 9000))
    | st.tuples(st.just("delete"), KEYS)
    | st.tuples(st.just("delete_prefix"), BOUNDS)
    | st.tuples(st.just("get"), KEYS)
    | st.tuples(st.just("scan"), BOUNDS, st.none() | BOUNDS, st.booleans())
    | st.tuples(st.just("commit"))
    | st.tuples(st.just("abort")),
    max_size=40,
)


class Abandoned(Exception):
    pass


def expected_scan(
    model: dict[bytes, bytes], prefix: bytes, start: bytes | None, reverse: bool
) -> list[tuple[bytes, bytes]]:
    inside = (pair for pair in model.items() if pair[0].startswith(prefix))
    if start is not None:
        inside = (pair for pair in inside if (pair[0] <= start if reverse else pair[0] >= start))
    return sorted(inside, reverse=reverse)


def fill(store: KeyValueStore, *keys: bytes) -> None:
    with store.write() as transaction:
        for key in keys:
            transaction.put(key, b"value of " + key)


def all_keys(store: KeyValueStore, prefix: bytes = b"", **options: object) -> list[bytes]:
    with store.read() as transaction:
        return [key for key, _ in transaction.scan(prefix, **options)]  # type: ignore[arg-type]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_store_is_a_sorted_dict_with_transactions(store: KeyValueStore, steps: list[tuple[object, ...]]) -> None:
    with store.write() as transaction:
        transaction.delete_prefix(b"")
    committed: dict[bytes, bytes] = {}
    rest = list(steps)
    while rest:
        model = dict(committed)
        try:
            with store.write() as transaction:
                while rest:
                    step, *values = rest.pop(0)
                    if step == "put":
                        key, value = values
                        transaction.put(key, value)
                        model[key] = value
                    elif step == "delete":
                        assert transaction.delete(values[0]) == (model.pop(values[0], None) is not None)
                    elif step == "delete_prefix":
                        doomed = [key for key in model if key.startswith(values[0])]
                        assert transaction.delete_prefix(values[0]) == len(doomed)
                        for key in doomed:
                            del model[key]
                    elif step == "get":
                        assert transaction.get(values[0]) == model.get(values[0])
                    elif step == "scan":
                        prefix, start, reverse = values
                        seen = list(transaction.scan(prefix, start=start, reverse=reverse))
                        assert seen == expected_scan(model, prefix, start, reverse)
                        with store.read() as snapshot:
                            seen = list(snapshot.scan(prefix, start=start, reverse=reverse))
                        assert seen == expected_scan(committed, prefix, start, reverse)
                    elif step == "abort":
                        raise Abandoned
                    else:
                        break
            committed = model
        except Abandoned:
            pass
        with store.read() as snapshot:
            assert list(snapshot.scan(b"")) == sorted(committed.items())


def test_what_raises_writes_nothing(store: KeyValueStore) -> None:
    fill(store, b"a", b"b", b"c")

    def write_and_raise() -> None:
        with store.write() as transaction:
            transaction.put(b"a", b"other")
            transaction.put(b"d", b"new")
            transaction.delete(b"b")
            transaction.put(b"b", b"again")
            transaction.delete_prefix(b"c")
            raise Abandoned

    with pytest.raises(Abandoned):
        write_and_raise()
    with store.read() as transaction:
        assert list(transaction.scan(b"")) == [(key, b"value of " + key) for key in (b"a", b"b", b"c")]


def test_an_empty_value_is_a_value(store: KeyValueStore) -> None:
    with store.write() as transaction:
        transaction.put(b"k", b"")
    with store.read() as transaction:
        assert transaction.get(b"k") == b""
        assert transaction.get(b"other") is None


def test_a_snapshot_does_not_move_while_others_commit(store: KeyValueStore) -> None:
    fill(store, b"a", b"b", b"d")
    with store.read() as before:
        scan = before.scan(b"")
        assert next(scan)[0] == b"a"
        with store.write() as transaction:
            transaction.put(b"a", b"changed")
            transaction.put(b"c", b"new")
            transaction.delete(b"d")
        with store.read() as after:
            assert [key for key, _ in after.scan(b"")] == [b"a", b"b", b"c"]
            assert before.get(b"a") == b"value of a"
            assert [key for key, _ in scan] == [b"b", b"d"]
            assert before.get(b"c") is None


def test_a_snapshot_begun_during_a_write_sees_nothing_of_it(store: KeyValueStore) -> None:
    fill(store, b"a")
    with store.write() as transaction:
        transaction.put(b"a", b"changed")
        transaction.put(b"b", b"new")
        with store.read() as snapshot:
            assert list(snapshot.scan(b"")) == [(b"a", b"value of a")]
            transaction.put(b"c", b"new")
            assert list(snapshot.scan(b"")) == [(b"a", b"value of a")]
        assert transaction.get(b"b") == b"new"
    assert all_keys(store) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_may_be_deleted_and_written_while_they_are_scanned(store: KeyValueStore, reverse: bool) -> None:
    names = [b"k%03d" % number for number in range(0, 600, 2)]
    fill(store, *names, b"j", b"l")
    with store.write() as transaction:
        met = []
        for key, _ in transaction.scan(b"k", reverse=reverse):
            met.append(key)
            number = int(key[1:])
            # Not as many deleted as written, or positions would be right by accident.
            if number % 3 == 0:
                assert transaction.delete(key)
            behind = number + 1 if reverse else number - 1
            transaction.put(b"k%03d-behind" % behind if behind > 0 else b"k-behind", b"")
            if number == 300:
                transaction.put(b"k299" if reverse else b"k301", b"ahead")
                transaction.delete(b"k298" if reverse else b"k302")
    expected = {*names, b"k299" if reverse else b"k301"} - {b"k298" if reverse else b"k302"}
    assert met == sorted(expected, reverse=reverse)
    left = {key for key in expected if int(key[1:]) % 3}
    assert {key for key in all_keys(store) if not key.endswith(b"-behind")} == {b"j", b"l", *left}


@pytest.mark.parametrize(
    ("prefix", "start", "reverse", "expected"),
    [
        (b"b", None, False, [b"b", b"b1", b"b2", b"b\xff"]),
        (b"b", None, True, [b"b\xff", b"b2", b"b1", b"b"]),
        (b"b", b"b1", False, [b"b1", b"b2", b"b\xff"]),
        (b"b", b"b1", True, [b"b1", b"b"]),
        (b"b", b"b15", False, [b"b2", b"b\xff"]),
        (b"b", b"b15", True, [b"b1", b"b"]),
        (b"b", b"a", False, [b"b", b"b1", b"b2", b"b\xff"]),
        (b"b", b"a", True, []),
        (b"b", b"z", False, []),
        (b"b", b"z", True, [b"b\xff", b"b2", b"b1", b"b"]),
        (b"\xff", None, True, [b"\xff\xff", b"\xff"]),
        (b"\xff", b"\xff", False, [b"\xff", b"\xff\xff"]),
        (b"x", None, False, []),
        (b"x", None, True, []),
    ],
)
def test_a_scan_keeps_to_its_prefix_and_start(
    store: KeyValueStore, prefix: bytes, start: bytes | None, reverse: bool, expected: list[bytes]
) -> None:
    fill(store, b"a", b"b", b"b1", b"b2", b"b\xff", b"c", b"\xff", b"\xff\xff")
    assert all_keys(store, prefix, start=start, reverse=reverse) == expected
    with store.write() as transaction:
        assert [key for key, _ in transaction.scan(prefix, start=start, reverse=reverse)] == expected


@pytest.mark.parametrize("key", [b"", b"k" * (MAX_KEY_BYTES + 1)], ids=["empty", "long"])
def test_keys_no_backend_can_hold_are_refused(store: KeyValueStore, key: bytes) -> None:
    with store.write() as transaction:
        for use in (lambda: transaction.put(key, b""), lambda: transaction.delete(key), lambda: transaction.get(key)):
            with pytest.raises(ValueError, match=f"1 to {MAX_KEY_BYTES} bytes, not {len(key)}"):
                use()
        transaction.put(b"k" * MAX_KEY_BYTES, b"fits")
    with store.read() as transaction:
        assert transaction.get(b"k" * MAX_KEY_BYTES) == b"fits"
        with pytest.raises(ValueError, match="at most"):
            transaction.scan(b"k" * (MAX_KEY_BYTES + 1))


def test_writers_on_many_threads_take_turns(store: KeyValueStore) -> None:
    fill(store)

    def add() -> None:
        for _ in range(50):
            with store.write() as transaction:
                count = int(transaction.get(b"count") or b"0")
                transaction.put(b"count", b"%d" % (count + 1))
            with store.read() as transaction:
                assert int(transaction.get(b"count") or b"0") > count

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as transaction:
        assert transaction.get(b"count") == b"200"


def test_a_write_inside_a_write_of_one_thread_is_refused(store: KeyValueStore) -> None:
    with store.write() as transaction:
        transaction.put(b"a", b"")
        with pytest.raises(StorageError, match="already writing"), store.write():
            raise AssertionError("it must not begin")
    fill(store, b"b")
    assert all_keys(store) == [b"a", b"b"]


def test_a_transaction_that_is_over_says_so(store: KeyValueStore) -> None:
    fill(store, b"a", b"b")
    with store.read() as reader:
        scan = reader.scan(b"")
        next(scan)
    with store.write() as writer:
        pass
    uses: list[Callable[[], object]] = [
        lambda: reader.get(b"a"),
        lambda: next(scan),
        lambda: writer.put(b"a", b""),
        lambda: writer.delete(b"a"),
    ]
    for use in uses:
        with pytest.raises(StorageError, match="transaction is over"):
            use()


def test_a_closed_store_says_so_and_closes_again(store: KeyValueStore) -> None:
    store.close()
    store.close()
    for begin in (store.read, store.write):
        with pytest.raises(StorageError, match="it is closed"), begin():
            raise AssertionError("it must not begin")
