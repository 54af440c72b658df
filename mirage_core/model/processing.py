"""The processor of a Qwen-VL model without torchvision: its image processor on PIL, and its tokenizer.

Qwen2.5-VL and Qwen3-VL differ only in sizes, which are read from the folder, and in videos, which are not used here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mirage_core.errors import SettingsError
from mirage_core.model.tokenizer import build_tokenizer

# One merged token of 28 x 28 px: a scaled map has at least one token a cell.
SMALLEST_IMAGE = 28 * 28
# From Qwen2.5-VL's preprocessor_config.json; the rest is the image processor's default.
PUBLISHED_IMAGES = {"min_pixels": 56 * 56, "max_pixels": 16384 * 28 * 28}
_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
# Loading adds these to the tokenizer's saved settings; a folder's bytes must not depend on that.
_LOADING_KEYS = ("is_local", "local_files_only")


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen's processor without its video part, which needs torchvision.

    It also loads from a folder that the stock processor saved.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Return its parts: no video processor."""
        return ["image_processor", "tokenizer"]


def build_processor(vocab_size: int, max_pixels: int = 1003520) -> ImageTextProcessor:
    """Build the processor of a from-scratch model; ``max_pixels`` bounds one image.

    Raises SettingsError when no tokenizer of ``vocab_size`` can be built.
    """
    tokenizer = build_tokenizer(vocab_size)
    images = Qwen2VLImageProcessorPil(min_pixels=SMALLEST_IMAGE, max_pixels=max_pixels)
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def load_processor(folder: Path, patches: Mapping[str, int] | None = None) -> ImageTextProcessor:
    """Load the processor of a folder that this project or stock code saved.

    ``patches``: sizes for the image processor of a folder without one (the released code saves none); the other
    settings are those published for Qwen2.5-VL, which that code trains.

    Raises SettingsError naming the folder when a part is missing or cannot be read.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        # Stock loading would silently build a tokenizer of one token.
        raise SettingsError(f"{folder} has no tokenizer.json (or vocab.json and merges.txt); fetch the folder again.")
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.chat_template = tokenizer.chat_template or _chat_template(folder)
        images = _image_processor(folder, patches)
    except Exception as error:
        # Missing files, broken JSON, fields of a wrong type: transformers raises errors of many kinds.
        raise SettingsError(
            f"No processor could be read from {folder}: {_first_line(error)} A model folder holds "
            "tokenizer.json and preprocessor_config.json; fetch it again, or set model.source to another."
        ) from error
    for key in _LOADING_KEYS:
        tokenizer.init_kwargs.pop(key, None)
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def _image_processor(folder: Path, patches: Mapping[str, int] | None) -> Qwen2VLImageProcessorPil:
    """Return the image processor of a folder, or the published one."""
    if patches is not None and not any((folder / name).is_file() for name in _IMAGE_FILES):
        return Qwen2VLImageProcessorPil(**PUBLISHED_IMAGES, **patches)
    return Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)


def _chat_template(folder: Path) -> str | None:
    """Return the chat template of a processor file, as some published folders have it; None where there is none.

    Without one only plain prompts can be encoded; stock code raises for a chat.
    """
    file = folder / "chat_template.json"
    return json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else None


def save_processor(folder: Path, processor: ImageTextProcessor) -> None:
    """Write tokenizer and image processor into ``folder``, for ``load_processor`` and stock classes."""
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
