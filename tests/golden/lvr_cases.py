"""Golden cases of LVR's released code: stage 1, decoding, and the replay of its GRPO (see data/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.regions import region_tokens
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone
from mirage_core.model.readout import LatentReadout
from tests.golden.cases import Golden, case_names

INNER = 128
_HEADS = {
    "simple": {"ln_q": "head.0", "mlp.0": "head.1", "mlp.2": "head.3"},
    "glu": {"gate_proj": "head.gate_proj", "up_proj": "head.up_proj", "down_proj": "head.down_proj"},
}


def lvr_cases(folder: Path) -> list[str]:
    """The cases of stage 1."""
    return [name for name in case_names(folder) if name not in ("decode", "grpo")]


class LvrGolden:
    """The tiny model, which is that of the Mirage cases, and the cases of a folder."""

    def __init__(self, folder: Path, shared: Golden) -> None:
        self.folder = folder
        self.special: dict[str, int] = json.loads((folder / "config.json").read_text())["token_ids"]
        self.names = shared.names
        self.extra = load_file(folder / "lvr_extra_weights.safetensors")
        self.backbone: Backbone = Golden.backbone(shared)
        self.stop_token = self.special["lvr_latent_end"]

    @property
    def ids(self) -> TokenIds:
        names = {
            "latent_start": "lvr_start", "latent_pad": "lvr", "latent_end": "lvr_end", "image_pad": "image",
            "video_pad": "video", "vision_start": "vstart", "vision_end": "vend", "end_of_turn": "im_end", "pad": "pad",
        }  # fmt: skip
        return TokenIds(**{ours: self.special[theirs] for ours, theirs in names.items()})

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def scalars(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"scalars_{name}.json").read_text())
        return found

    def examples(self, case: str, *, learns_stop: bool = False) -> list[EncodedExample]:
        """The rows of a case as our engine reads them; ``learns_stop``: the stop token is no label."""
        inputs = self.tensors(f"{case}.inputs")
        grids, mask = inputs["image_grid_thw"], inputs["attention_mask"].bool()
        pixels = inputs["pixel_values"].split(grids.prod(1).tolist())
        labels = inputs["labels"].masked_fill(inputs["labels"] == self.ids.latent_pad, IGNORED)
        if learns_stop:
            labels = labels.masked_fill(labels == self.stop_token, IGNORED)
        regions = self._regions(inputs)
        crops = (inputs.get("lvr_tokens", no_pixels()), inputs.get("lvr_tokens_thw", no_grids()))
        return [
            EncodedExample(
                ids=inputs["input_ids"][row][mask[row]],
                labels=labels[row][mask[row]],
                pixel_values=pixels[row],
                grid_thw=grids[row : row + 1],
                auxiliary_pixel_values=crops[0],
                auxiliary_grid_thw=crops[1],
                **({"region_tokens": regions[row]} if regions else {}),
            )
            for row in range(len(mask))
        ]

    def _regions(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The tokens that our rule finds for the boxes; checked against theirs."""
        if "lvr_token_indices" not in inputs:
            return []
        grids = inputs["image_grid_thw"].tolist()
        boxes = zip(inputs["boxes"].tolist(), inputs["box_rows"].tolist(), strict=True)
        found = [region_tokens((tuple(box),), grids[row], 2) for box, row in boxes]
        assert torch.equal(torch.cat(found), inputs["lvr_token_indices"])
        return found

    def batch(self, case: str, *, learns_stop: bool = False) -> LatentBatch:
        examples = self.examples(case, learns_stop=learns_stop)
        return collate(examples, self.ids, self.backbone.position_ids, align=False)

    def readout(self, head: str, *, stops: bool) -> LatentReadout | None:
        """The head and the stop vector of the golden weights."""
        if head == "none" and not stops:
            return None
        readout = LatentReadout(self.backbone.hidden_size, head, INNER, stops=stops)  # type: ignore[arg-type]
        weights = {}
        for name, tensor in self.extra.items():
            if name.startswith(f"lvr_head.{head}."):
                layer, _, part = name.removeprefix(f"lvr_head.{head}.").rpartition(".")
                weights[f"{_HEADS[head][layer]}.{part}"] = tensor
        if stops:
            weights["stop.weight"] = self.extra["lvr_latent_end_emb"].reshape(1, -1)
        readout.load_state_dict(weights)
        return readout

    def prompt(self) -> EncodedPrompt:
        """The prompt of the decoding cases, which ends in latent_start."""
        tensors = self.tensors("decode.outputs")
        return EncodedPrompt(
            ids=tensors["prompt.input_ids"][0],
            pixel_values=tensors["prompt.pixel_values"],
            grid_thw=tensors["prompt.image_grid_thw"],
        )
