"""Code of a user's own that a kept folder has by value: loaded under a name and a path that no machine has.

Code by value is bytecode, good for one minor version of Python.
"""

from __future__ import annotations

import sys
import types
from typing import Any

_NAME = "kept_by_value"
_FILE = "/kept/kept_by_value.py"

_SOURCE = """
import kept_code


class Receipt:
    def __init__(self, total):
        self.total = total


def issue(total):
    kept_code.note("issue")
    return Receipt(total)


def check(receipt, gate):
    import kept_carried

    kept_code.note("check")
    assert isinstance(receipt, Receipt)
    return kept_carried.show(receipt.total)


def plain():
    return 1
"""

CARRIED = '''
"""A module of the user's own that code imports when it runs."""


def show(total):
    return f"{total} paid"
'''


def load() -> Any:
    """The module, as its users import it."""
    if _NAME not in sys.modules:
        module = types.ModuleType(_NAME)
        module.__file__ = _FILE
        exec(compile(_SOURCE, _FILE, "exec"), module.__dict__)
        sys.modules[_NAME] = module
    return sys.modules[_NAME]
