"""Golden cases of Monet's released code, read from a folder: models, inputs, and what their code gave."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

OWN = Path(__file__).parent / "data" / "monet"
_STAGE_1 = ".stage1.inputs.safetensors"
Model = Literal["m1", "m2", "vlpo_new", "vlpo_ref"]


def monet_folder() -> Path:
    """The folder that MIRAGE_GOLDEN_MONET names, or the repository's own."""
    return Path(os.environ.get("MIRAGE_GOLDEN_MONET", OWN))


def monet_case_names() -> list[str]:
    """The cases of the folder, by name."""
    return [path.name.removesuffix(_STAGE_1) for path in sorted(monet_folder().glob("*" + _STAGE_1))]


@dataclass(frozen=True)
class MonetCase:
    """One case: its tensors by file, and its scalars."""

    name: str
    scalars: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a file of the case, such as stage2.inputs."""
        return load_file(monet_folder() / f"{self.name}.{part}.safetensors")

    def example(self, stage: int) -> EncodedExample:
        """The row of a stage, as our engine reads it."""
        inputs = self.tensors(f"stage{stage}.inputs")
        observed = torch.zeros(inputs["input_ids"].shape[1], dtype=torch.bool)
        observed[self.scalars[f"s{stage}_observation_positions"]] = True
        return EncodedExample(
            ids=inputs["input_ids"][0],
            labels=inputs["labels"][0],
            pixel_values=inputs["pixel_values"],
            grid_thw=inputs["image_grid_thw"],
            auxiliary_pixel_values=no_pixels(),
            auxiliary_grid_thw=no_grids(),
            observed=observed,
        )


class MonetGolden:
    """The tiny models of a folder of cases, vision frozen, and its special ids."""

    def __init__(self) -> None:
        self.folder = monet_folder()
        self.scalars = json.loads((self.folder / "scalars.json").read_text())
        self.config = json.loads((self.folder / "config.json").read_text())

    @property
    def ids(self) -> TokenIds:
        """The special ids under our names."""
        special, config = {name: ids[0] for name, ids in self.scalars["token_ids"].items()}, self.config
        return TokenIds(
            latent_start=special["abs_start"],
            latent_pad=special["abs_pad"],
            latent_end=special["abs_end"],
            image_pad=special["img_pad"],
            video_pad=config["video_token_id"],
            vision_start=special["v_start"],
            vision_end=special["v_end"],
            end_of_turn=config["eos_token_id"],
            pad=config["bos_token_id"],
        )

    def backbone(self, model: Model, attention: str = "sdpa") -> Backbone:
        """A model, new at every call."""
        config = Qwen2_5_VLConfig(**self.config)
        config._attn_implementation = attention
        stock = Qwen2_5_VLForConditionalGeneration(config)
        stock.load_state_dict(load_file(self.folder / f"model_{model}.safetensors"))
        backbone = Backbone(stock.eval())
        backbone.freeze_vision()
        return backbone

    def case(self, name: str) -> MonetCase:
        """A case by name."""
        return MonetCase(name, self.scalars[name])

    def batch(self, backbone: Backbone, *rows: EncodedExample) -> LatentBatch:
        """The rows laid out."""
        return collate(rows, self.ids, backbone.position_ids)
