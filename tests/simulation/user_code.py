"""How simulated user code ends: in one of many ways, within the guard that all user code has."""

from __future__ import annotations

import asyncio

from holdfast.actors.user_code import user_code


class Panic(BaseException):
    """What an extension raises."""


ENDS: tuple[type[BaseException], ...] = (
    LookupError,
    SystemExit,
    asyncio.CancelledError,
    KeyboardInterrupt,
    Panic,
    StopIteration,
    GeneratorExit,
)


def is_told(number: int) -> bool:
    """End user code in the way that belongs to a number. Whether what ran it lives on, and can tell of it.

    As in event loops and thread pools: what is no `Exception` there ends what runs the code, and nobody hears of it.
    """
    try:
        with user_code:
            raise ENDS[number % len(ENDS)]("as planned")
    except Exception:
        return True
    except BaseException:
        return False
