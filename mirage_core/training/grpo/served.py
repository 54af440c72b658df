"""Answers for GRPO from vLLM with this project's plug-in, in an environment of its own (mirage_vllm.rollouts).

Weights are pushed as safetensors in a folder of this machine, once a round; tokens, their log-probabilities and latents
come back, so that the policy is learned from as if it had answered here. Legend: n answers, m their tokens with a
latent_pad a latent, l their latents, D hidden.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mirage_core.config import LatentSettings, PromptSettings, Settings
from mirage_core.distributed.collectives import wait_for_all
from mirage_core.distributed.context import current_process
from mirage_core.errors import SettingsError, TrainingError
from mirage_core.generation.decode import DecodeSettings, Trajectory
from mirage_core.generation.latent_modes import LatentModes
from mirage_core.generation.trajectory import Recorder
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.loading import LoadedModel, save_weights
from mirage_core.types import Problem

_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
_OF_PICTURES = ("image_scale", "max_pixels", "background")
_TOKENS = ("latent_start", "latent_pad", "latent_end", "end_of_turn")


class ServedRollouts:
    """An engine at ``runtime.rollouts_url`` that answers with the weights of ``model``.

    ``folder``: of the weights on their way; the engine's process must be able to read it.
    """

    def __init__(self, model: LoadedModel, settings: Settings, decoding: DecodeSettings, folder: Path) -> None:
        """Ask the engine what it serves.

        SettingsError for a model whose answers need more than its weights, and for an engine of another kind of model
        or with other settings; TrainingError where none answers.
        """
        if model.readout is not None:
            raise SettingsError(
                "grpo.rollouts is served, and what the model feeds as latents is read off by a head, which is not "
                "pushed: set grpo.rollouts to here"
            )
        self._model, self._decoding, self._folder = model, decoding, folder
        self._url = str(settings.runtime.rollouts_url).rstrip("/")
        self._client = httpx.Client(
            base_url=self._url, timeout=float(settings.runtime.stall_timeout_s), trust_env=False
        )
        faults = [*self._faults(self._json("/about"), settings.prompt)]
        if faults:
            raise SettingsError(
                f"the engine at {self._url} serves another kind of model: {'; '.join(faults)}. Start "
                "`python -m mirage_vllm.rollouts` with the folder of the model that is trained"
            )

    def push(self, step: int) -> str:
        """Give the engine the weights, and return their name. Every process calls it, with all weights gathered."""
        name = f"{self._folder} step {step}"
        if current_process().is_main:
            try:
                save_weights(self._folder, self._model.backbone)
                self._json("/load", {"folder": str(self._folder.resolve()), "name": name})
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
        wait_for_all()
        return name

    def answers(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        weights: str,
    ) -> list[list[Trajectory]]:
        """Return an answer for every seed of every prompt, under the weights of this name.

        ``problems``: those of the prompts, whose pictures are sent. TrainingError where the engine does not answer, has
        other weights by now, or breaks the rules of spans.
        """
        if not problems:
            return []
        decoding = self._decoding
        asked = [
            {
                "ids": prompt.ids.tolist(),
                "pictures": [base64.b64encode(picture).decode() for picture in problem.images],
                "seeds": list(of_prompt),
            }
            for problem, prompt, of_prompt in zip(problems, prompts, seeds, strict=True)
        ]
        body = {
            "weights": weights,
            "prompts": asked,
            "temperature": decoding.temperature,
            "max_new_tokens": decoding.max_new_tokens,
            "latents": decoding.latents,
        }
        found = self._trajectories(self._ask("/sample", body))
        expected = [len(one) for one in seeds]
        if len(found) != sum(expected):
            raise TrainingError(f"the engine at {self._url} gave {len(found)} answers, expected {sum(expected)}")
        flat = iter(found)
        return [[next(flat) for _ in range(count)] for count in expected]

    def _trajectories(self, message: bytes) -> list[Trajectory]:
        backbone = self._model.backbone
        try:
            parts = load(message)
            latents = parts["latents"].to(backbone.device, backbone.dtype).split(parts["counts"].tolist())
            lengths = parts["lengths"].tolist()
            rows = zip(parts["tokens"].split(lengths), parts["log_probs"].split(lengths), latents, strict=True)
            return [trajectory(*row, self._model.ids, self._decoding) for row in rows]
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"the engine at {self._url} gave no answers of the expected form ({error}): install the mirage-vllm "
                "that belongs to this Mirage"
            ) from error

    def _faults(self, about: dict[str, Any], prompt: PromptSettings) -> Iterator[str]:
        """Yield what differs between the engine's model and this one."""
        config, ids = self._model.backbone.model.config.get_text_config(), self._model.ids
        wanted = {
            "sizes": {name: getattr(config, name) for name in _SIZES},
            "tokens": {name: getattr(ids, name) for name in _TOKENS},
            "dtype": str(self._model.backbone.dtype).removeprefix("torch."),
        }
        for name, value in wanted.items():
            if about.get(name) != value:
                yield f"{name} {about.get(name)}, expected {value}"
        try:
            latent = LatentSettings.model_validate(about.get("latent") or {})
            pictures = PromptSettings.model_validate(about.get("prompt") or {})
        except ValidationError as error:
            yield f"its mirage.json has settings that this version does not know ({error.error_count()})"
            return
        own = self._decoding
        its = DecodeSettings.of(
            latent, max_new_tokens=own.max_new_tokens, temperature=own.temperature, samples=own.samples,
            latents=own.latents,
        )  # fmt: skip
        if own.latents == "on" and about.get("latent") is None:
            yield "it never imagines"
        elif own.latents == "on" and its != own:
            yield f"latents as {_different(its, own)}"
        for name in _OF_PICTURES:
            if getattr(pictures, name) != getattr(prompt, name):
                yield f"prompt.{name} {getattr(pictures, name)}, expected {getattr(prompt, name)}"

    def _json(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        raw = self._ask(path, body)
        try:
            found: object = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TrainingError(
                f"{self._url}{path} answered with something other than JSON: is `python -m mirage_vllm.rollouts` there?"
            )
        return found

    def _ask(self, path: str, body: dict[str, Any] | None) -> bytes:
        try:
            reply = self._client.get(path) if body is None else self._client.post(path, json=body)
        except httpx.HTTPError as error:
            raise TrainingError(
                f"no engine answers at {self._url}{path} ({error}): start `python -m mirage_vllm.rollouts FOLDER` in "
                "vLLM's environment, look at runtime.rollouts_url, or set grpo.rollouts to here"
            ) from error
        if reply.is_error:
            raise TrainingError(f"the engine at {self._url} refused {path} ({reply.status_code}): {reply.text[:2000]}")
        return reply.content


def trajectory(
    tokens: Tensor, log_probs: Tensor, latents: Tensor, ids: TokenIds, decoding: DecodeSettings
) -> Trajectory:
    """Return an answer as ``decode`` would record it: ``tokens`` [m], of each its log-probability, and latents [l, D].

    An end of turn after ``max_new_tokens`` of text, which the engine adds, is left out. ValueError for tokens or
    latents that the rules of spans do not allow.
    """
    kept, pads = tokens.tolist(), tokens == ids.latent_pad
    if len(kept) - int(pads.sum()) > decoding.max_new_tokens:
        kept.pop()
    if len(latents) != int(pads.sum()) or len(kept) - len(latents) > decoding.max_new_tokens:
        raise ValueError(f"an answer of {len(tokens)} tokens has {int(pads.sum())} latents, and {len(latents)} came")
    modes = LatentModes(
        np.zeros(1, dtype=bool),
        np.zeros(1, dtype=np.int64),
        num_latents=decoding.span_limit,
        end_kind="open" if decoding.end == "near" else decoding.end,
        start=ids.latent_start,
        end=ids.latent_end,
    )
    recorder, row, number = Recorder(1), np.zeros(1, dtype=np.int64), 0
    for at, token in enumerate(kept):
        inputs = modes.advance(np.array([token]))
        is_latent = bool(inputs.is_latent[0])
        if is_latent != (token == ids.latent_pad) or (not is_latent and int(inputs.tokens[0]) != token):
            raise ValueError(f"the token {token} at {at} of an answer breaks the rules of spans")
        recorder.record(row, inputs, log_probs[at : at + 1], latents[number : number + 1])
        number += is_latent
    return recorder.pop(0, (ids.end_of_turn, ids.pad))


def _different(its: DecodeSettings, own: DecodeSettings) -> str:
    names = [name for name in DecodeSettings.__slots__ if getattr(its, name) != getattr(own, name)]
    return ", ".join(f"{name} {getattr(its, name)}, expected {getattr(own, name)}" for name in names)
