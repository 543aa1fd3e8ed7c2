"""Which names of classes are those of one class, so that an actor can be asked for under either."""

from __future__ import annotations

import pytest

from holdfast import workflow
from holdfast.actors.virtual.intake import check_called, newest_class
from holdfast.engine.virtual_actor_errors import OtherClassError
from holdfast.storage.actor_row import ActorRow, ActorSpec


def row(name: str, version: int = 1, *formerly: str) -> ActorRow:
    return ActorRow(seq=1, actor_id="7", spec=ActorSpec(class_name=name, class_version=version, formerly=formerly))


def spec(name: str, version: int = 1, *formerly: str) -> ActorSpec:
    return ActorSpec(class_name=name, code="new", class_version=version, formerly=formerly)


LOCAL, OTHER_FUNCTION = "shop.f.locals.Cart", "shop.g.locals.Cart"

SAME = {
    "the same name": (row("shop.Cart"), spec("shop.Cart")),
    "a later version": (row("shop.Cart"), spec("shop.Cart", 2)),
    "a script that is now a module": (row("__main__.Cart"), spec("shop.Cart")),
    "a module that is run as a script": (row("shop.Cart"), spec("__main__.Cart")),
    "what a function of a script defines": (row("__main__.f.locals.Cart"), spec(LOCAL)),
    "what another function defines, in a later version": (row(LOCAL), spec(OTHER_FUNCTION, 2)),
    "a name that the class says it had": (row("old.Cart"), spec("shop.Basket", 1, "older.Cart", "old.Cart")),
    "a script's name that the class says it had": (row("__main__.Cart"), spec("shop.Basket", 1, "old.Cart")),
}

OTHER = {
    "another name": (row("shop.Account"), spec("shop.Cart")),
    "another name in a later version": (row("shop.Account"), spec("shop.Cart", 2)),
    "another module": (row("shop.Cart"), spec("bakery.Cart")),
    "another module in a later version": (row("shop.Cart"), spec("bakery.Cart", 2)),
    "another name in a script": (row("__main__.Account"), spec("shop.Cart")),
    "a name that ends alike": (row("__main__.Cart"), spec("shop.ShoppingCart")),
    "what another function defines, in the same version": (row(LOCAL), spec(OTHER_FUNCTION)),
    "what a function of another package defines": (row(LOCAL), spec("bakery.g.locals.Cart", 2)),
    "what a function defines under another name": (row(LOCAL), spec("shop.f.locals.Account", 2)),
    "a later class that has said nothing": (row("shop.Basket", 1, "old.Cart"), spec("shop.Account")),
}


@pytest.mark.parametrize("case", SAME)
def test_the_class_takes_the_place_of_the_stored_one(case: str) -> None:
    stored, asked = SAME[case]
    newest = newest_class(stored, asked)
    assert (newest.class_name, newest.code) == (asked.class_name, "new")
    after = row(newest.class_name, newest.class_version, *newest.formerly)
    # Handles of both names go on, and whoever still asks under the old one is no reason to go back.
    check_called(after, stored.spec.class_name)
    check_called(after, asked.class_name)
    older = newest_class(after, stored.spec)
    assert older.class_version == newest.class_version
    assert older.class_name == newest.class_name or "__main__" in older.class_name + newest.class_name


@pytest.mark.parametrize("case", OTHER)
def test_another_class_is_refused_and_both_are_named(case: str) -> None:
    stored, asked = OTHER[case]
    with pytest.raises(OtherClassError) as refused:
        newest_class(stored, asked)
    assert repr(stored.spec.class_name) in str(refused.value)
    assert repr(asked.class_name) in str(refused.value)
    if "later version" not in case:
        with pytest.raises(OtherClassError):
            check_called(stored, asked.class_name)


def test_whoever_asks_under_an_old_name_does_not_bring_the_old_class_back() -> None:
    renamed = row("shop.Basket", 1, "shop.Cart")
    assert newest_class(renamed, spec("shop.Cart")) == renamed.spec


def test_an_older_version_does_not_take_the_place_of_a_newer_one() -> None:
    newer = row("shop.Cart", 3)
    assert newest_class(newer, spec("shop.Cart", 2)) == newer.spec


def test_a_class_is_known_by_the_names_that_it_says_and_as_a_later_version_of_its_bases() -> None:
    @workflow.virtual_actor(formerly="old.module.Cart")
    class Cart:
        pass

    @workflow.virtual_actor(version=2)
    class Basket(Cart):  # type: ignore[misc]
        pass

    @workflow.virtual_actor
    class Twin(Cart):  # type: ignore[misc]
        pass

    assert Cart.definition.formerly == ("old.module.Cart",)  # type: ignore[attr-defined]
    assert Basket.definition.formerly == (Cart.definition.name,)  # type: ignore[attr-defined]
    assert Twin.definition.formerly == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("formerly", [7, [7], "", [""], None])
def test_former_names_are_names(formerly: object) -> None:
    with pytest.raises(TypeError, match="formerly"):
        workflow.virtual_actor(formerly=formerly)(type("Cart", (), {}))  # type: ignore[call-overload]
