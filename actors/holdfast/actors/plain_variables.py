"""Finds variables of a runtime environment whose values would be stored in plain text, and warns of them by name.

An environment is stored with its workflows: a value that is written out in it can be read by anybody who can read the
folder or a backup of it. One that refers to a variable (`${NAME}`) is looked up by Ray where the worker starts, and is
stored nowhere.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

log = logging.getLogger("holdfast")

_REFERENCE = re.compile(r"\$\w+|\$\{\w+\}")
_LONGEST_SWITCH = 3
"""Characters: of numbers of threads, levels and the like. No secret is as short."""

_warned_of: set[str] = set()


def plain_variables(environment: Mapping[str, Any]) -> list[str]:
    """Give the names of an environment's variables with values in plain text, in alphabetical order."""
    variables = environment.get("env_vars") or {}
    return sorted(
        str(name) for name, value in variables.items() if len(_REFERENCE.sub("", str(value))) > _LONGEST_SWITCH
    )


def warn_of_plain_variables(environment: Mapping[str, Any]) -> None:
    """Warn which variables are stored in plain text, each once in a process, without their values."""
    new = [name for name in plain_variables(environment) if name not in _warned_of]
    if new:
        _warned_of.update(new)
        log.warning(
            "storage.plain_env_vars names=%s: their values in runtime_env are stored in plain text. "
            'Give a secret by reference, as {"env_vars": {"%s": "${%s}"}}: Ray looks it up where the worker starts',
            ",".join(new),
            new[0],
            new[0],
        )


@lru_cache(maxsize=64)
def warn_of_serialized(environment: str) -> None:
    """Warn as `warn_of_plain_variables` does, of an environment in Ray's form. Cheap for one that was seen before."""
    warn_of_plain_variables(json.loads(environment))
