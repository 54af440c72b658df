"""Whose latents lie where: a preempted request finds its own again, whatever ends in between."""

from __future__ import annotations

import random

import pytest
from mirage_vllm.seats import Seats


@pytest.mark.parametrize("running", [1, 2, 5])
def test_first_come_first_served_every_preempted_request_comes_back_to_its_seat(running: int) -> None:
    chance, seats, own = random.Random(running), Seats(running), dict[str, int]()
    waiting, active = [str(number) for number in range(400)], list[str]()
    comes_back = 0
    while waiting or active:
        while waiting and len(active) < running and chance.random() < 0.7:
            name = waiting.pop(0)
            seat, kept = seats.take(name)
            assert kept == (name in own) and own.get(name, seat) == seat
            comes_back += kept
            assert seat not in [own[other] for other in active]
            own[name] = seat
            active.append(name)
        for name in [name for name in active if chance.random() < 0.3]:
            active.remove(name)
            seats.leave(name)
            del own[name]
        if active and chance.random() < 0.4:
            waiting.insert(0, active.pop())
            seats.leave(waiting[0])
    assert comes_back > 50


def test_who_has_no_seat_leaves_none() -> None:
    seats = Seats(1)
    seats.leave("unknown")
    seat, _ = seats.take("a")
    seats.leave("a")
    seats.leave("a")
    assert seats.take("a") == (seat, True)
