"""The processor of a Qwen-VL model without torchvision: its image processor on PIL, and its tokenizer.

Qwen2.5-VL and Qwen3-VL differ only in sizes, which the folder says, and in videos, which are not used here.
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

# One merged token of 28 px a side: a scaled map has one token a cell, however small it is.
SMALLEST_IMAGE = 28 * 28
# Of Qwen2.5-VL's preprocessor_config.json; the rest is the image processor's default.
PUBLISHED_IMAGES = {"min_pixels": 56 * 56, "max_pixels": 16384 * 28 * 28}
_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
# How it was loaded would be saved with the tokenizer; a folder's bytes must not depend on that.
_TRACES_OF_LOADING = ("is_local", "local_files_only")


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen's processor without its video half, which alone needs torchvision.

    Saves to and loads from a folder of its own, also from a folder that the stock processor saved.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts it is made of: no video processor."""
        return ["image_processor", "tokenizer"]


def build_processor(vocab_size: int, max_pixels: int = 1003520) -> ImageTextProcessor:
    """The processor of a from-scratch model; ``max_pixels`` bounds one picture.

    Raises SettingsError when ``vocab_size`` fits no tokenizer.
    """
    tokenizer = build_tokenizer(vocab_size)
    images = Qwen2VLImageProcessorPil(min_pixels=SMALLEST_IMAGE, max_pixels=max_pixels)
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def load_processor(folder: Path, patches: Mapping[str, int] | None = None) -> ImageTextProcessor:
    """The processor stored in a folder, by this project or by stock code.

    ``patches``: sizes for the image processor of a folder that has none, as the released code leaves it out; the rest
    is as published for Qwen2.5-VL, which that code trains.

    Raises SettingsError naming the folder when a part is missing or cannot be read.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        # Stock loading would silently make a tokenizer of one token.
        raise SettingsError(f"{folder} has no tokenizer.json (or vocab.json and merges.txt); fetch the folder again.")
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.chat_template = tokenizer.chat_template or _processors_template(folder)
        images = _image_processor(folder, patches)
    except Exception as fault:
        # Missing files, broken JSON, fields of a wrong type: transformers raises errors of many kinds.
        raise SettingsError(
            f"No processor could be read from {folder}: {_first_line(fault)} A model folder holds "
            "tokenizer.json and preprocessor_config.json; fetch it again, or set model.source to another."
        ) from fault
    for trace in _TRACES_OF_LOADING:
        tokenizer.init_kwargs.pop(trace, None)
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def _image_processor(folder: Path, patches: Mapping[str, int] | None) -> Qwen2VLImageProcessorPil:
    """The image processor of a folder, or the published one."""
    if patches is not None and not any((folder / name).is_file() for name in _IMAGE_FILES):
        return Qwen2VLImageProcessorPil(**PUBLISHED_IMAGES, **patches)
    return Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)


def _processors_template(folder: Path) -> str | None:
    """The chat template where only a processor's file has it, as in some published folders; None where there is none.

    Without one a chat cannot be encoded, which stock code says when it is asked to; prompts of one's own can.
    """
    file = folder / "chat_template.json"
    return json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else None


def save_processor(folder: Path, processor: ImageTextProcessor) -> None:
    """Write tokenizer and image processor into ``folder``, where ``load_processor`` and stock classes find them."""
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
