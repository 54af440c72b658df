"""LoRA fine-tuning of CogVideoX on pairs of a description and a frame (a video of one frame).

The loss is that of CogVideoX's training: the mean squared error of the predicted velocity. Batches and noise are
functions of (seed, step), so a killed run continues from its checkpoint with the same losses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_core.config import SceneLoraSettings, SceneSettings, identity
from mirage_core.errors import InputError, SettingsError, TrainingError
from mirage_core.store.digests import fingerprint
from mirage_core.synthesis.scenes.checkpoint import load_checkpoint, save_checkpoint
from mirage_core.synthesis.scenes.pairs import ScenePair
from mirage_core.synthesis.scenes.pipeline import load_pipeline
from mirage_core.types import Progress, ProgressEvent

ABOUT = "mirage.json"


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An encoded pair: latents [1, C, H, W] of the frame, text embedding [T, D] of the description."""

    latents: Any
    words: Any


def finetune(
    pairs: Sequence[ScenePair], settings: SceneSettings, output: Path, seed: int, progress: Progress, device: str
) -> list[float]:
    """Train LoRA weights into ``output`` (safetensors, loadable as ``scenes.lora``); returns the loss of every step.

    Continues from ``output/checkpoint`` if it belongs to the same training. Raises InputError without pairs,
    SettingsError for modules the model lacks, TrainingError when the loss is not finite.
    """
    import torch

    if not pairs:
        raise InputError("got no pairs of a description and a frame, expected at least one")
    lora = settings.finetuning
    pipeline = load_pipeline(settings.model_copy(update={"lora": None})).to(device)
    if pipeline.scheduler.config.prediction_type != "v_prediction":
        raise SettingsError(f"{settings.model} predicts {pipeline.scheduler.config.prediction_type}, not velocity")
    encoded = [_encode(pipeline, pair, settings) for pair in pairs]
    weights = _with_lora(pipeline, lora, seed)
    optimizer = torch.optim.AdamW(weights.values(), lr=lora.learning_rate, weight_decay=lora.weight_decay)
    digest = _job_digest(pairs, settings, seed)
    losses = load_checkpoint(output / "checkpoint", digest, weights, optimizer)
    for step in range(len(losses), lora.steps):
        losses.append(_step(pipeline, encoded, weights, optimizer, lora, settings, seed, step))
        progress(ProgressEvent(stage="scenes", step=step + 1, total=lora.steps, metrics={"loss": losses[-1]}))
        if (step + 1) % lora.checkpoint_every == 0 and step + 1 < lora.steps:
            save_checkpoint(output / "checkpoint", digest, weights, optimizer, losses)
    _save(pipeline, settings, output, len(pairs), seed, losses)
    return losses


def _with_lora(pipeline: Any, lora: SceneLoraSettings, seed: int) -> dict[str, Any]:
    """Freeze everything and add LoRA to the transformer; return its trainable weights (in float32) by name."""
    import torch
    from peft import LoraConfig

    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
    torch.manual_seed(seed)
    try:
        pipeline.transformer.add_adapter(
            LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.target_modules))
        )
    except ValueError as error:
        raise SettingsError(f"auxiliary_images.scenes.finetuning.target_modules: {error}") from error
    if lora.gradient_checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    weights = {name: weight for name, weight in pipeline.transformer.named_parameters() if weight.requires_grad}
    for weight in weights.values():
        weight.data = weight.data.float()
    return weights


def _encode(pipeline: Any, pair: ScenePair, settings: SceneSettings) -> _Encoded:
    """Encode a pair once: neither the VAE nor the text encoder is trained."""
    import torch

    with torch.no_grad():
        words, _ = pipeline.encode_prompt(
            [pair.description], do_classifier_free_guidance=False, max_sequence_length=settings.max_text_tokens
        )
        frame = pair.frame.resize((settings.width, settings.height))
        pixels = torch.from_numpy(np.asarray(frame, dtype=np.float32) / 127.5 - 1.0).permute(2, 0, 1)
        video = pixels[None, :, None].to(pipeline.vae.device, pipeline.vae.dtype)  # [1, 3, F = 1, H, W]
        latents = pipeline.vae.encode(video).latent_dist.mode() * pipeline.vae.config.scaling_factor
    return _Encoded(latents[0].permute(1, 0, 2, 3), words[0])


def _step(
    pipeline: Any,
    encoded: Sequence[_Encoded],
    weights: dict[str, Any],
    optimizer: Any,
    lora: SceneLoraSettings,
    settings: SceneSettings,
    seed: int,
    step: int,
) -> float:
    """Run one optimizer step; return its loss."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = lora.learning_rate * min(1.0, (step + 1) / max(1, lora.warmup_steps))
    loss = _loss(pipeline, _batch(encoded, lora.batch_size, seed, step), settings, seed, step)
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss of step {step + 1} is {float(loss)}: lower finetuning.learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(weights.values()), lora.max_grad_norm)
    optimizer.step()
    return float(loss.detach())


def _batch(encoded: Sequence[_Encoded], size: int, seed: int, step: int) -> list[_Encoded]:
    """Return the pairs of a step: every epoch has its own order of all pairs."""
    count = len(encoded)
    indices = range(step * size, (step + 1) * size)
    orders = {index // count: np.random.default_rng([seed, index // count]).permutation(count) for index in indices}
    return [encoded[int(orders[index // count][index % count])] for index in indices]


def _loss(pipeline: Any, batch: Sequence[_Encoded], settings: SceneSettings, seed: int, step: int) -> Any:
    """Return the mean squared error of the velocity at random noise levels, in float32."""
    import torch

    device, dtype = pipeline.transformer.device, pipeline.transformer.dtype
    latents = torch.stack([pair.latents for pair in batch]).to(device, dtype)  # [B, 1, C, H, W]
    words = torch.stack([pair.words for pair in batch]).to(device, dtype)
    generator = torch.Generator("cpu").manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
    noise = torch.randn(latents.shape, generator=generator).to(device, dtype)
    levels = pipeline.scheduler.config.num_train_timesteps
    times = torch.randint(0, levels, (len(batch),), generator=generator).to(device)
    noisy = pipeline.scheduler.add_noise(latents, noise, times)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        predicted = pipeline.transformer(
            hidden_states=noisy,
            encoder_hidden_states=words,
            timestep=times,
            image_rotary_emb=_rotary(pipeline, settings, latents.shape[1], device),
            return_dict=False,
        )[0]
    target = pipeline.scheduler.get_velocity(latents, noise, times)
    return torch.nn.functional.mse_loss(predicted.float(), target.float())


def _rotary(pipeline: Any, settings: SceneSettings, frames: int, device: Any) -> Any:
    if not pipeline.transformer.config.use_rotary_positional_embeddings:
        return None
    return pipeline._prepare_rotary_positional_embeddings(settings.height, settings.width, frames, device)


def _job_digest(pairs: Sequence[ScenePair], settings: SceneSettings, seed: int) -> str:
    """Return the fingerprint of everything the training depends on; it identifies its checkpoints."""
    content = hashlib.sha256()
    for pair in pairs:
        content.update(pair.description.encode())
        content.update(hashlib.sha256(pair.frame.tobytes()).digest())
    stored_settings = identity(settings.model_copy(update={"lora": None, "descriptions": None}))
    return fingerprint("scene-lora", 1, {"settings": stored_settings, "seed": seed, "pairs": content.hexdigest()}, {})


def _save(pipeline: Any, settings: SceneSettings, output: Path, pairs: int, seed: int, losses: Sequence[float]) -> None:
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(pipeline.transformer)
    pipeline.save_lora_weights(str(output), transformer_lora_layers=state, safe_serialization=True)
    about = {
        "base": settings.model,
        "finetuning": identity(settings.finetuning),
        "pairs": pairs,
        "seed": seed,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    (output / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
