"""Names of parameters."""

from __future__ import annotations

import re


def without_address(value: object) -> str:
    """What the value says it is, without where it lies: processes that share the tests have to agree on their names."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
