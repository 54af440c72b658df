"""The processor of a Qwen2.5-VL without torchvision: its image processor on PIL, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mirage_core.errors import SettingsError
from mirage_core.model.tokenizer import build_tokenizer

# One merged token of 28 px a side: a scaled map has one token a cell, however small it is.
SMALLEST_IMAGE = 28 * 28
# How it was loaded would be saved with the tokenizer; a folder's bytes must not depend on that.
_TRACES_OF_LOADING = ("is_local", "local_files_only")


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which alone needs torchvision.

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


def load_processor(folder: Path) -> ImageTextProcessor:
    """The processor stored in a folder, by this project or by stock code.

    Raises SettingsError naming the folder when a part is missing or cannot be read.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        # Stock loading would silently make a tokenizer of one token.
        raise SettingsError(f"{folder} has no tokenizer.json (or vocab.json and merges.txt); fetch the folder again.")
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except Exception as fault:
        # Missing files, broken JSON, fields of a wrong type: transformers raises errors of many kinds.
        raise SettingsError(
            f"No processor could be read from {folder}: {_first_line(fault)} A Qwen2.5-VL folder holds "
            "tokenizer.json and preprocessor_config.json; fetch it again, or set model.source to another."
        ) from fault
    for trace in _TRACES_OF_LOADING:
        tokenizer.init_kwargs.pop(trace, None)
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def save_processor(folder: Path, processor: ImageTextProcessor) -> None:
    """Write tokenizer and image processor into ``folder``, where ``load_processor`` and stock classes find them."""
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
