"""Who sits where in the memory of latents: a request keeps its seat when it is preempted, and comes back to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping


class Seats:
    """Twice as many seats as requests that run side by side: as many requests may wait, preempted, to go on.

    The engine does not say whether a request that it removes has ended or comes back. Both leave the same way, and
    newcomers take the seats that were left first. First come, first served, a preempted request goes on before any
    newcomer begins; until then at most those leave that ran beside it. So its seat is still its own.
    """

    def __init__(self, running: int) -> None:
        self._taken: dict[str, int] = {}
        self._left: OrderedDict[str | int, int] = OrderedDict((seat, seat) for seat in range(2 * running))

    def take(self, request: str) -> tuple[int, bool]:
        """Seat a request; returns the seat, and whether it is the one that it left."""
        kept = request in self._left
        seat = self._left.pop(request) if kept else self._left.popitem(last=False)[1]
        self._taken[request] = seat
        return seat, kept

    @property
    def taken(self) -> Mapping[str, int]:
        """The seats of the requests that run, by request."""
        return self._taken

    def leave(self, request: str) -> None:
        """A request has ended, or is preempted; nothing for one that has no seat."""
        seat = self._taken.pop(request, None)
        if seat is not None:
            self._left[request] = seat
