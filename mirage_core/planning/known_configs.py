"""Configurations of the models of the recipes, so that a plan needs no download.

The sizes are those of config.json in https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct and
https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct; built from them the models have the 3,754,622,976 and 8,292,166,656
parameters that their pages state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IDS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652}
_ROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}
_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "window_size": 112,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "rope_parameters": _ROPE,
            "tie_word_embeddings": True,
        },
        "vision_config": {**_VISION, "out_hidden_size": 2048},
        **_IDS,
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": False,
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "rope_parameters": _ROPE,
            "tie_word_embeddings": False,
        },
        "vision_config": {**_VISION, "out_hidden_size": 3584},
        **_IDS,
    },
}
