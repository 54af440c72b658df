"""The steps of a caption: what Coconut replaces by latents, one after the other (arXiv 2412.06769)."""

from __future__ import annotations

import re
from typing import Literal

FRAME_END = ", "
"""What stands between two frames in the caption of a film."""
_STEPS = {
    "film": re.compile(rf".+?(?:{FRAME_END}|$)", re.DOTALL),
    "image": re.compile(r".+?(?:[.!?\n]\s+|$)", re.DOTALL),
}


def reasoning_steps(caption: str, of: Literal["image", "film"]) -> list[str]:
    """Split a caption into its steps: the frames of a film, the sentences of other captions (``captions.of``).

    A step keeps what ends it, so that the steps, one after the other, are the caption.
    """
    return _STEPS[of].findall(caption)
