"""Decides whether two names are of one class of virtual actors: the one that is asked for, and the actor's own.

A name is `<module>.<qualname>`, with `<locals>` as `locals`. Nothing here knows the classes themselves.
"""

from __future__ import annotations

from collections.abc import Collection

_SCRIPTS = frozenset({"__main__", "__mp_main__"})
_LOCAL = ".locals."


def is_known_as(asked_for: str, class_name: str, formerly: Collection[str]) -> bool:
    """Whether an actor may be asked for under the name of a class.

    Args:
        asked_for: The name.
        class_name: Of the actor's class.
        formerly: Names under which its class was known before.
    """
    return asked_for == class_name or any(_is_same(asked_for, name) for name in (class_name, *formerly))


def is_later_class(
    asked_for: str, asked_version: int, asked_formerly: Collection[str], class_name: str, class_version: int
) -> bool:
    """Whether a class of another name is a later form of an actor's class.

    Args:
        asked_for, asked_version: The class that the actor is asked for as.
        asked_formerly: Names that it says it had before.
        class_name, class_version: The actor's class.
    """
    if any(_is_same(class_name, name) for name in asked_formerly):
        return True
    # What a function defines has no name by which it could be imported: its own one, in a higher version, will do.
    local = _LOCAL in asked_for and _LOCAL in class_name
    same_own_name = asked_for.rpartition(".")[2] == class_name.rpartition(".")[2]
    return local and same_own_name and asked_version > class_version and _same_package(asked_for, class_name)


def _is_same(one: str, other: str) -> bool:
    # A script is a module under another name.
    return one == other or _in_script(one, other) or _in_script(other, one)


def _in_script(one: str, other: str) -> bool:
    module, _, qualname = one.partition(".")
    return module in _SCRIPTS and other.endswith(f".{qualname}")


def _same_package(one: str, other: str) -> bool:
    packages = {one.partition(".")[0], other.partition(".")[0]}
    return len(packages) == 1 or not packages.isdisjoint(_SCRIPTS)
