"""Near duplicates: images with similar perceptual hashes, questions that differ in punctuation only.

A perceptual hash has 64 bits of an image's low frequencies ("phash" of ImageHash): scaled, re-encoded or slightly
brightened copies differ in a few bits only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from mirage_core.image_files import read_rgb

NEAR_BITS = 6
_BLOCK = 512


def perceptual_hash(image: Image.Image) -> int:
    """The 64-bit perceptual hash of an image."""
    import imagehash

    return int(str(imagehash.phash(image)), 16)


def perceptual_hash_of(data: bytes) -> int:
    """The hash of an encoded image that was checked before."""
    return perceptual_hash(read_rgb(data, "an image"))


def text_key(text: str) -> str:
    """A key that is equal for texts that differ in case, spaces and punctuation only."""
    plain = "".join(letter for letter in text.casefold() if letter.isalnum())
    return hashlib.sha256(plain.encode()).hexdigest()[:20]


def near_pairs(first: Sequence[int], second: Sequence[int], bits: int = NEAR_BITS) -> Iterator[tuple[int, int]]:
    """Yield index pairs (i, j) whose hashes ``first[i]`` and ``second[j]`` differ in at most ``bits`` bits."""
    left, right = _as_uint64(first), _as_uint64(second)
    for begin in range(0, len(left), _BLOCK):
        distances = np.bitwise_count(left[begin : begin + _BLOCK, None] ^ right[None, :])
        for i, j in zip(*np.nonzero(distances <= bits), strict=True):
            yield begin + int(i), int(j)


def near_groups(hashes: Sequence[int], bits: int = NEAR_BITS) -> list[int]:
    """The lowest index of each hash's group: hashes that are near, or linked by near ones, form a group."""
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


def _as_uint64(hashes: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(hashes, dtype=np.uint64)
