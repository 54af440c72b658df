"""What a server takes at most, and the errors by which it refuses more."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """The most of everything: answers decoded side by side (``rows``), requests that wait for them (``queue``), answers
    of a request (``choices``), its bytes, pictures, pixels a picture, tokens of its prompt and of an answer, the
    seconds in which its body must arrive, and the bytes of picture features that are kept.
    """

    rows: int = 32
    queue: int = 256
    choices: int = 8
    body_bytes: int = 32 * 2**20
    pictures: int = 16
    pixels: int = 40_000_000
    prompt_tokens: int = 16_384
    answer_tokens: int = 4_096
    body_s: float = 30.0
    feature_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise InputError(f"got {name} {getattr(self, name)}, expected more than 0")
        if self.choices > self.rows:
            raise InputError(f"got {self.choices} choices of a request for {self.rows} rows: give no more than rows")


class RequestError(InputError):
    """A request that is refused: its HTTP ``status``, and the field (``param``) that is at fault, if one is."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


class Busy(RequestError):
    """The queue is full; the same request may be taken later."""

    transient = True

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests wait already, try again in a second", status=429)


class EngineFailed(RequestError):
    """The engine failed while it decoded this request, or is stopped."""

    transient = True

    def __init__(self, message: str) -> None:
        super().__init__(message, status=503)
