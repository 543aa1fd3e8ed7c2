"""In which host a listener polls, by what has happened to it before.

All begin in one. A listener that is known to have ended its process goes on in
a ward, so that those who did nothing lose their host to it once. Where hosts
die and nobody knows through whom, those who were in them are spread over
the wards, another way each time: after a few times the guilty one has lost its
host each time, and of the others hardly anybody. Nothing here knows Ray.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

WARDS = 4
"""How many hosts there are, at most, beside the first one of an environment."""

MOST_LOST = 4
"""So many hosts that were lost one soon after the other count as one that the listener ended."""

STEADY_S = 30.0
"""A listener whose host lived for so long with it is not the reason why it died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a listener that polls.

    Attributes:
        key: Whose it is: (workflow, task).
        mark: The attempt's own: nobody tells a host's word of this attempt from one of an earlier without it.
        deaths: How many hosts it has ended.
        lost: How many it has lost one soon after the other, nobody knows through whom.
    """

    key: tuple[int, int]
    mark: int
    deaths: int = 0
    lost: int = 0

    @property
    def ward(self) -> int:
        """Where it polls: a ward from 1 on, or 0 for the host where all begin. A first loss may have any reason."""
        lost_more = max(0, self.lost - 1)
        if self.deaths == lost_more == 0:
            return 0
        # A checksum would not do: it takes who is together once to be together the next time.
        digest = hashlib.blake2b(f"{self.key}/{self.deaths}/{lost_more}".encode(), digest_size=4).digest()
        return 1 + int.from_bytes(digest, "big") % WARDS

    def lost_again(self, lived_s: float) -> Standing | None:
        """How it stands when its host has died and nobody knows through whom; None when that was too often.

        Args:
            lived_s: For how many seconds it had been there.
        """
        lost = 1 if lived_s >= STEADY_S else self.lost + 1
        return None if lost >= MOST_LOST else replace(self, lost=lost)
