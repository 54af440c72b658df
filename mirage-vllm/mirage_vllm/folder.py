"""The settings of the model that vLLM is to serve, and what of vLLM's own settings they do not go with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.transformers_utils.repo_utils import file_or_path_exists, get_hf_file_to_dict

from mirage_vllm.settings import (
    ABOUT_FILE,
    READOUT_FILE,
    PictureSettings,
    SettingsError,
    SpanSettings,
    picture_settings,
    span_settings,
)

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """How the model of a folder with a mirage.json runs; ``readout``: the file of what reads its latents."""

    spans: SpanSettings
    pictures: PictureSettings
    readout: Path | None


def folder_settings(model: ModelConfig) -> FolderSettings | None:
    """Return the settings of the model's folder; None for one without a mirage.json.

    SettingsError for what cannot be served.
    """
    about = _about(str(model.model), model.revision)
    if about is None:
        return None
    if model.architecture != ARCHITECTURE:
        raise SettingsError(
            f"{model.model} has a {ABOUT_FILE} and is a {model.architecture}, and the vLLM plug-in runs {ARCHITECTURE} "
            "only: serve the model with `mirage serve`"
        )
    readout = Path(model.model) / READOUT_FILE
    if not readout.is_file() and file_or_path_exists(model.model, READOUT_FILE, model.revision):
        raise SettingsError(f"{model.model} has a {READOUT_FILE}: fetch it, and serve the folder that it is in")
    vocabulary = cached_tokenizer_from_config(model).get_vocab()
    return FolderSettings(
        span_settings(about, vocabulary), picture_settings(about), readout if readout.is_file() else None
    )


def check_engine(config: VllmConfig) -> None:
    """SettingsError for settings of vLLM under which latents would be lost."""
    parallel, faults = config.parallel_config, []
    if not config.use_v2_model_runner:
        faults.append("Model Runner V1 (VLLM_USE_V2_MODEL_RUNNER=1 chooses V2, which needs Triton)")
    if config.speculative_config is not None:
        faults.append("speculative decoding (leave --speculative-config out): drafts know nothing of latents")
    if parallel.pipeline_parallel_size > 1:
        faults.append(
            "pipeline parallelism (use --tensor-parallel-size): hidden states are on the last rank, embeddings on the "
            "first"
        )
    if parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1:
        faults.append("context parallelism (use --tensor-parallel-size)")
    if config.scheduler_config.policy != "fcfs":
        faults.append("--scheduling-policy other than fcfs: preempted answers could lose their latents")
    if config.kv_transfer_config is not None:
        faults.append("--kv-transfer-config: keys and values would come without their latents")
    if config.lora_config is not None:
        faults.append("--enable-lora (merge the adapter: `mirage export`)")
    if config.model_config.enable_prompt_embeds:
        faults.append("--enable-prompt-embeds")
    if faults:
        raise SettingsError(f"a model of Mirage cannot be served under {'; nor under '.join(faults)}")


@lru_cache
def _about(model: str, revision: str | None) -> dict[str, Any] | None:
    try:
        about: object = get_hf_file_to_dict(ABOUT_FILE, model, revision)
    except ValueError as error:
        raise SettingsError(
            f"{ABOUT_FILE} of {model} is not JSON ({error}): take the folder as it was saved"
        ) from error
    if about is not None and not isinstance(about, dict):
        raise SettingsError(f"{ABOUT_FILE} of {model} holds a {type(about).__name__}, expected an object")
    return about
