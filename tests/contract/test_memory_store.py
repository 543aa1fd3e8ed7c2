"""What the in-memory store offers to tests beyond the contract."""

from __future__ import annotations

import pytest

from holdfast.storage.memory import MemoryStore, Operation


def content(store: MemoryStore) -> dict[bytes, bytes]:
    with store.read() as transaction:
        return dict(transaction.scan(b""))


def test_every_prefix_of_a_recorded_write_log_can_be_replayed() -> None:
    log: list[tuple[Operation, ...]] = []
    states = [{}]
    store = MemoryStore(on_commit=log.append)
    for number in range(8):
        with store.write() as transaction:
            transaction.put(b"k%d" % number, b"%d" % number)
            if number % 3 == 0:
                transaction.delete_prefix(b"k%d" % (number - 1))
        states.append(content(store))
    with store.write() as transaction:
        transaction.delete(b"not there")
    assert len(log) == 8
    for length, state in enumerate(states):
        replayed = MemoryStore()
        for operations in log[:length]:
            replayed.apply(operations)
        assert content(replayed) == state


def test_a_fork_goes_its_own_way_from_what_was_committed() -> None:
    store = MemoryStore()
    store.apply([(b"a", b"1"), (b"b", b"2")])
    with store.write() as transaction:
        transaction.put(b"c", b"3")
        transaction.delete(b"a")
        fork = store.fork()
    fork.apply([(b"d", b"4")])
    assert content(fork) == {b"a": b"1", b"b": b"2", b"d": b"4"}
    assert content(store) == {b"b": b"2", b"c": b"3"}


def test_nothing_is_recorded_of_a_transaction_that_raises() -> None:
    log: list[tuple[Operation, ...]] = []
    store = MemoryStore(on_commit=log.append)

    def write_and_raise() -> None:
        with store.write() as transaction:
            transaction.put(b"a", b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_raise()
    assert log == []
    assert len(store) == 0
