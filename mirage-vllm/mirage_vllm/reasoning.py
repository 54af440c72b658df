"""The reasoning parser ``mirage``: thoughts as ``reasoning``, latents in the usage, and what requests may not ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning.abs_reasoning_parsers import ReasoningParser

from mirage_vllm.requests import fault_of
from mirage_vllm.settings import SPAN_TOKENS
from mirage_vllm.thoughts import Part, ThoughtSplitter, split


class ThoughtParser(ReasoningParser):
    """Text within ``<think>`` is reasoning, wherever it stands; tokens of reasoning are latents."""

    engine_based_streaming = True  # it holds text back, and is asked for it at the end

    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        self._splitter = ThoughtSplitter()
        self._pads = {self.vocab[pad] for _, pad, _ in SPAN_TOKENS if pad in self.vocab}

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:  # noqa: ARG002
        """Return the thoughts and the answer in a whole text; the answer is never None."""
        parts = split(model_output)
        return parts.thoughts or None, parts.answer

    def extract_reasoning_streaming(
        self,
        previous_text: str,  # noqa: ARG002
        current_text: str,  # noqa: ARG002
        delta_text: str,
        previous_token_ids: Sequence[int],  # noqa: ARG002
        current_token_ids: Sequence[int],  # noqa: ARG002
        delta_token_ids: Sequence[int],  # noqa: ARG002
    ) -> DeltaMessage | None:
        """Return what a piece of text adds."""
        return _delta(self._splitter.add(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """Return what was held back."""
        return _delta(self._splitter.flush())

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:  # noqa: ARG002
        """Never: a thought may follow."""
        return False

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """Return all tokens: thoughts are told by their text, not by their tokens."""
        return input_ids

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Return the number of latents."""
        return sum(token in self._pads for token in token_ids)

    def adjust_request(self, request: Any) -> Any:
        """Return the request. ValueError for arguments of spans that are wrong, and for a grammar."""
        fault = fault_of(request.vllm_xargs or {})
        if fault is not None:
            raise ValueError(f"vllm_xargs: {fault}")
        form = getattr(request, "response_format", None)
        if getattr(request, "structured_outputs", None) is not None or (form is not None and form.type != "text"):
            raise ValueError("a grammar (response_format, structured_outputs) forbids latents: leave it out")
        return request


def _delta(part: Part) -> DeltaMessage | None:
    if not part.thoughts and not part.answer:
        return None
    return DeltaMessage(reasoning=part.thoughts or None, content=part.answer or None)
