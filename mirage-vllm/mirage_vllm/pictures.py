"""Pictures as the model saw them in training: scaled as mirage.json says, and resized by Pillow."""

from __future__ import annotations

from typing import Any

from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLProcessingInfo
from vllm.model_executor.models.qwen2_vl import Qwen2VLMultiModalDataParser
from vllm.multimodal.media.base import MediaWithBytes
from vllm.multimodal.parse import ImageProcessorItems

from mirage_vllm.folder import folder_settings

_SCALED: Any = object()
"""Marks pictures that are scaled; no file's own information has such a key."""


class ScaledPicturesInfo(Qwen2_5_VLProcessingInfo):
    """What vLLM asks about the processor; for a folder without mirage.json vLLM's own."""

    def get_hf_processor(self, **kwargs: object) -> Any:
        """The folder's processor, with its image processor on Pillow, as in training."""
        processor = super().get_hf_processor(**kwargs)
        settings = folder_settings(self.ctx.model_config)
        if settings is not None and not isinstance(processor.image_processor, Qwen2VLImageProcessorPil):
            images = Qwen2VLImageProcessorPil.from_dict(processor.image_processor.to_dict())
            smallest = images.size["shortest_edge"]
            images.size = {"shortest_edge": smallest, "longest_edge": max(settings.pictures.max_pixels, smallest)}
            processor.image_processor = images
        return processor

    def get_data_parser(self) -> Qwen2VLMultiModalDataParser:
        """The parser of pictures, which scales them."""
        parser = super().get_data_parser()
        settings = folder_settings(self.ctx.model_config)
        if settings is None or settings.pictures.scale == 1.0:
            return parser
        return _ScalingParser(
            self.get_hf_config().vision_config.spatial_merge_size,
            settings.pictures.scale,
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )


class _ScalingParser(Qwen2VLMultiModalDataParser):
    """Resizes pictures to both sides times ``scale``, rounded; once, though vLLM parses what it has parsed again."""

    def __init__(self, merge_size: int, scale: float, **kwargs: Any) -> None:
        super().__init__(merge_size, video_needs_metadata=True, **kwargs)
        self._scale = scale

    def _parse_image_data(self, data: Any) -> Any:
        items = super()._parse_image_data(data)
        if items is None:
            return None
        if not isinstance(items, ImageProcessorItems):
            raise ValueError("embeddings instead of pictures cannot be scaled as the model wants them: give pictures")
        return ImageProcessorItems([self._scaled(item) for item in items.get_all()])

    def _scaled(self, item: Any) -> Image.Image:
        picture = item.media if isinstance(item, MediaWithBytes) else item
        if not isinstance(picture, Image.Image):
            raise ValueError(f"got a picture as {type(picture).__name__}, expected one of Pillow")
        if _SCALED in picture.info:
            return picture
        width, height = (max(1, round(side * self._scale)) for side in picture.size)
        scaled = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        scaled.info[_SCALED] = True
        return scaled
