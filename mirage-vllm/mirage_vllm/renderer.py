"""What a prompt may hold: no token of spans, whether it comes as text, as a conversation or as ids.

A prompt with latent_pad would pass for an answer with latents, and could get another answer's from the prefix cache.
"""

from __future__ import annotations

from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer

from mirage_vllm.folder import check_engine, folder_settings


class CheckedRenderer(HfRenderer):
    """vLLM's renderer, which also refuses tokens of spans; for a folder without mirage.json vLLM's own."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        """SettingsError for a folder, or an engine, that cannot be served: here first, before anything is loaded."""
        super().__init__(config, tokenizer)
        settings = folder_settings(config.model_config)
        if settings is not None:
            check_engine(config)
        self._reserved = frozenset() if settings is None else settings.spans.reserved

    def process_for_engine(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the input of the engine. VLLMValidationError for reserved tokens."""
        self._check(prompt)
        return super().process_for_engine(prompt, *args, **kwargs)

    async def process_for_engine_async(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the input of the engine. VLLMValidationError for reserved tokens."""
        self._check(prompt)
        return await super().process_for_engine_async(prompt, *args, **kwargs)

    def _check(self, prompt: Any) -> None:
        found = self._reserved.intersection(prompt.get("prompt_token_ids", ()))
        if found:
            names = self.get_tokenizer().convert_ids_to_tokens(sorted(found))
            raise VLLMValidationError(
                f"the prompt holds {', '.join(names)}, which only answers may hold: leave it out", parameter="messages"
            )
