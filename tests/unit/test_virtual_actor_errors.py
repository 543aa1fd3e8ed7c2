"""Errors about virtual actors name the actor and the fix, and are the same on the other side of a process border."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from holdfast.engine import virtual_actor_errors as errors
from holdfast.engine.errors import HoldfastError, WorkflowNotFoundError

EXAMPLES: dict[type[HoldfastError], tuple[tuple[Any, ...], tuple[str, ...]]] = {
    errors.VirtualActorError: (("what happened",), ("what happened",)),
    errors.VirtualActorNotFoundError: (("cart", "/srv/hf"), ("'cart'", "/srv/hf", "get_or_create")),
    errors.IdTakenError: (("cart", "workflow"), ("'cart'", "workflow.delete('cart')")),
    errors.VirtualActorNotInitializedError: (("cart",), ("'cart'", "actor.ready()")),
    errors.MailboxFullError: (("cart", 7), ("'cart'", "7 calls", "mailbox_limit")),
    errors.VirtualActorQuarantinedError: (
        ("cart", "shop.Cart", "add", 3),
        ("'cart'", "shop.Cart.add", "3 times", "workflow.resume('cart')"),
    ),
    errors.VirtualActorCycleError: ((("a", "b", "a"),), ("a -> b -> a", "run_async")),
    errors.VirtualActorNotResumableError: (
        ("cart", "it is sound", "add_1"),
        ("'cart'", "it is sound", "workflow.cancel('cart/add_1')"),
    ),
    errors.CallNotWithdrawnError: (("cart", "add_1"), ("'cart'", "add_1")),
    errors.CallWithdrawnError: (("cart", "add_1"), ("'cart'", "add_1")),
    errors.CallCancelledError: (("cart", "add_1"), ("'cart'", "'add_1'", "cancelled")),
    errors.CallNotFoundError: (("cart", "add_1"), ("'cart'", "'add_1'", "workflow.describe('cart')")),
    errors.VirtualActorNotCancellableError: (
        ("cart", "add_1"),
        ("'cart'", "workflow.cancel('cart/add_1')", "workflow.reset_actor('cart')"),
    ),
    errors.VirtualActorBusyError: (("DELETE", "cart", "add_1"), ("'cart'", "workflow.cancel('cart/add_1')")),
    errors.VirtualActorVersionError: (("cart", 3, 4), ("'cart'", "version 4", "not 3", "workflow.describe('cart')")),
    errors.AttemptAbandonedError: (("cart", "add_1"), ("'cart'", "'add_1'", "not done")),
    errors.CallOverError: (("cart", "add", 4), ("'cart'", "add", "call 4")),
    errors.CallOutcomeForgottenError: (("cart", "add_1"), ("'cart'", "add_1", "1,000")),
    errors.ReminderNotFoundError: (("cart", "hourly"), ("'cart'", "'hourly'")),
    errors.VirtualActorStateError: (
        ("cart", "shop.Cart", 2, "no module named shop", "Install it."),
        ("'cart'", "'shop.Cart'", "version 2", "no module named shop", "Install it."),
    ),
    errors.OtherClassError: (
        ("cart", "shop.Cart", "shop.Device"),
        ("'cart'", "'shop.Cart'", "'shop.Device'", "different ids"),
    ),
    errors.OutOfTurnError: (("cart", 8, 7), ("'cart'", "event 8", "event 7")),
    errors.HostReplacedError: (("host-0",), ("host-0", "must end")),
}


def test_every_error_has_an_example() -> None:
    defined = {
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, HoldfastError) and found.__module__ == errors.__name__
    }
    assert defined == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_an_error_names_what_it_is_about_and_survives_pickling(kind: type[HoldfastError]) -> None:
    arguments, named = EXAMPLES[kind]
    error = kind(*arguments)
    for part in named:
        assert part in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, str(copy)) == (kind, error.args, str(error))


def test_who_asks_for_workflows_is_told_of_actors_in_the_same_way() -> None:
    assert issubclass(errors.VirtualActorNotFoundError, WorkflowNotFoundError)
