"""Golden cases read from a folder: the model they share, inputs, and what the authors' code gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from mirage_core.latent.examples import EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

_INPUTS, _OUTPUTS = ".inputs.safetensors", ".outputs.safetensors"


def case_names(folder: Path) -> list[str]:
    """Cases with inputs and outputs, by name."""
    names = [path.name.removesuffix(_INPUTS) for path in sorted(folder.glob("*" + _INPUTS))]
    return [name for name in names if (folder / (name + _OUTPUTS)).is_file()]


@dataclass(frozen=True)
class Case:
    """One case: its inputs, the official outputs, and its scalars."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    scalars: dict[str, Any]

    @property
    def example(self) -> EncodedExample:
        """The case as our engine reads it."""
        own, auxiliary = self._images(""), self._images("_latent")
        return EncodedExample(
            ids=self.inputs["input_ids"][0],
            labels=self.inputs["labels"][0],
            pixel_values=own[0],
            grid_thw=own[1],
            auxiliary_pixel_values=auxiliary[0],
            auxiliary_grid_thw=auxiliary[1],
        )

    def prompt(self, new_tokens: list[int], forced: int) -> EncodedPrompt:
        """The prompt, with the first ``forced`` new tokens (text before the span, and latent_start) already in it."""
        example = self.example
        ids = torch.cat([example.ids[: self.scalars["prompt_len"]], torch.tensor(new_tokens[:forced])])
        return EncodedPrompt(ids=ids, pixel_values=example.pixel_values, grid_thw=example.grid_thw)

    def _images(self, suffix: str) -> tuple[Tensor, Tensor]:
        pixels = self.inputs.get("pixel_values" + suffix, no_pixels())
        return pixels, self.inputs.get("image_grid_thw" + suffix, no_grids())


class Golden:
    """The tiny model of a folder of cases, under stock names, vision frozen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = json.loads((folder / "config.json").read_text())
        self.special: dict[str, int] = config.pop("token_ids")
        self.scalars = json.loads((folder / "scalars.json").read_text())
        self.names: dict[str, str] = json.loads((folder / "name_map_fork_to_5x.json").read_text())
        self.config = config
        self.weights = load_file(folder / "model_fork_names.safetensors")
        self._backbones: dict[str, Backbone] = {}

    @property
    def ids(self) -> TokenIds:
        """The special ids under our names."""
        names = {
            "latent_start": "lstart", "latent_pad": "lpad", "latent_end": "lend", "image_pad": "image",
            "video_pad": "video", "vision_start": "vstart", "vision_end": "vend", "end_of_turn": "im_end", "pad": "pad",
        }  # fmt: skip
        return TokenIds(**{ours: self.special[theirs] for ours, theirs in names.items()})

    def backbone(self, attention: str = "sdpa") -> Backbone:
        """The model on stock transformers."""
        if attention not in self._backbones:
            config = Qwen2_5_VLConfig(**self.config)
            config._attn_implementation = attention
            model = Qwen2_5_VLForConditionalGeneration(config)
            model.load_state_dict({self.names[name]: weight for name, weight in self.weights.items()})
            self._backbones[attention] = Backbone(model.eval())
            self._backbones[attention].freeze_vision()
        return self._backbones[attention]

    def case(self, name: str) -> Case:
        """A case by name."""
        inputs, outputs = (load_file(self._folder / (name + suffix)) for suffix in (_INPUTS, _OUTPUTS))
        return Case(inputs, outputs, self.scalars[name])
