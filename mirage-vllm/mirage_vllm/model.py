"""Qwen2.5-VL that imagines: vLLM's own class with a state of its own and rules for its logits."""

from __future__ import annotations

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.model_states.interface import ModelState

from mirage_vllm.folder import check_engine, folder_settings
from mirage_vllm.latent_state import LatentState
from mirage_vllm.pictures import ScaledPicturesInfo


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5_VLMultiModalProcessor, info=ScaledPicturesInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class LatentQwen2_5_VL(Qwen2_5_VLForConditionalGeneration):  # noqa: N801  (vLLM's spelling)
    """Qwen2.5-VL whose hidden states are its next inputs within spans; for a folder without mirage.json vLLM's own."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """SettingsError for a folder, or an engine, that cannot be served."""
        settings = folder_settings(vllm_config.model_config)
        if settings is not None:
            check_engine(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.mirage = settings
        # Heads and codebooks of training lie beside the weights in a model folder.
        self.allow_patterns_overrides = None if settings is None else ["model*.safetensors"]
        self.latent_state: LatentState | None = None

    def get_model_state_cls(self) -> type[ModelState]:
        """The state that Model Runner V2 keeps of requests."""
        return DefaultModelState if self.mirage is None else LatentState

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits [n, V] of last hidden states [n, D]; within spans those of the only token that may follow."""
        logits = super().compute_logits(hidden_states)
        if self.latent_state is not None:
            self.latent_state.after_forward(hidden_states, logits)
        return logits
