"""Near duplicates: pictures that look alike by their perceptual hash, questions that read alike.

A perceptual hash keeps 64 bits of a picture's low frequencies ("phash" of ImageHash): scaled, re-encoded or slightly
brightened copies differ in a few bits only.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

NEAR_BITS = 6
_BLOCK = 512


def perceptual_hash(picture: Image.Image) -> int:
    """The 64-bit perceptual hash of a picture."""
    import imagehash

    return int(str(imagehash.phash(picture)), 16)


def perceptual_hash_of(data: bytes) -> int:
    """The hash of an encoded picture that was checked before."""
    return perceptual_hash(Image.open(io.BytesIO(data)))


def text_key(text: str) -> str:
    """Equal for texts that differ in case, spaces and punctuation only."""
    plain = "".join(letter for letter in text.casefold() if letter.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()[:20]


def near_pairs(first: Sequence[int], second: Sequence[int], bits: int = NEAR_BITS) -> Iterator[tuple[int, int]]:
    """Index pairs (i, j) whose hashes ``first[i]`` and ``second[j]`` differ in at most ``bits`` bits."""
    left, right = _words(first), _words(second)
    for begin in range(0, len(left), _BLOCK):
        apart = np.bitwise_count(left[begin : begin + _BLOCK, None] ^ right[None, :])
        for i, j in zip(*np.nonzero(apart <= bits), strict=True):
            yield begin + int(i), int(j)


def near_groups(hashes: Sequence[int], bits: int = NEAR_BITS) -> list[int]:
    """For each hash the lowest index of its group: hashes that are near, or linked by near ones, are one group."""
    group = list(range(len(hashes)))

    def find(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for i, j in near_pairs(hashes, hashes, bits):
        low, high = sorted((find(i), find(j)))
        group[high] = low
    return [find(index) for index in range(len(hashes))]


def _words(hashes: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(hashes, dtype=np.uint64)
