"""What a step would launch on a GPU, counted on a CPU by pass and by layer (``mirage bench launches`` runs it).

A small random model in Qwen2.5-VL's layout (biases of queries, keys and values, grouped queries, M-RoPE) with tiny
widths and many layers; the rule of what is a launch is in bench/launch_counter.py. A step is counted with all layers
and with half of them, so that what is of a layer is known for the backward pass and the optimizer too. No time is
measured.

- plain: a step of fine-tuning, one pass of 36 tokens a row, 12 of them the image, 16 labelled;
- stage2: the same rows with k latents: the pass of what is before them (prefill), a pass of one token for each latent
  but the last, and the pass of the last latent with the text after it;
- film: stage 2 with the heads of stepwise grounding, each latent held to its frame;
- decode: prompts of 20 tokens, k latents and as many tokens of text: a pass of one token for each.

A step of training is forward, backward, clipping and AdamW in torch's fused form, as on a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.latent import decoded, endless
from bench.launch_counter import LaunchCounter
from bench.model import IDS, VOCABULARY, Rows, random_backbone
from mirage_core.config import ArchitectureSettings, LoRASettings, StepwiseSettings
from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.model.backbone import Backbone
from mirage_core.model.lora import add_adapters
from mirage_core.training.engine.optimizers import make_optimizer
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.losses import relaxation_loss, text_loss
from mirage_core.training.stepwise.batch import step_batch
from mirage_core.training.stepwise.heads import StepHeads, StepLoss
from mirage_core.training.stepwise.targets import StepTargets

CASES = ("plain", "stage2", "film", "decode")
SINGLE = "single-token pass"
IMAGE = (3, 4)  # merged patches: 12 image tokens
PROMPT, ANSWER = 20, 16
PLACES, KINDS = 5, 3


@dataclass(frozen=True, slots=True)
class Row:
    """The launches of one ``part`` of a step, which occurs ``times``: of one occurrence, and of each layer in it.

    ``fused``: with ``runtime.fused``.
    Parts: ``prefill``, ``single-token pass``, ``text pass`` (several columns after latents), ``around passes`` (vision
    tower, embedding, masks, heads, loss; sampling), ``backward``, ``optimizer``.
    """

    case: str
    fused: bool
    part: str
    times: int
    launches: float
    per_layer: float


def measure(*, layers: int = 8, batch: int = 4, latents: int = 4, lora: bool = False) -> list[Row]:
    """Count all cases, without and with ``runtime.fused``; ``lora``: training is of adapters.

    InputError for fewer than two layers or latents, or no row.
    """
    if layers < 2 or latents < 2 or batch < 1:
        raise InputError(
            f"--layers is {layers}, --latents {latents} and --batch {batch}; expected at least 2, 2 and 1."
        )
    rows: list[Row] = []
    for case, fused in itertools.product(CASES, (False, True)):
        deep, half = (counted(case, depth, batch, latents, lora=lora, fused=fused) for depth in (layers, layers // 2))
        rows += rows_of(case, fused, deep, half, layers - layers // 2)
    return rows


def rows_of(case: str, fused: bool, deep: LaunchCounter, half: LaunchCounter, more_layers: int) -> list[Row]:
    """Return the rows of a case from its counts with all layers, and with ``more_layers`` fewer."""
    rows = []
    for part in deep.counts:
        times = max(1, deep.times[part])
        once, fewer = deep.total(part) / times, half.total(part) / times
        rows.append(Row(case, fused, part, times, round(once, 2), round((once - fewer) / more_layers, 2)))
    return rows


def counted(
    case: str, layers: int, batch: int, latents: int, *, lora: bool = False, fused: bool = False
) -> LaunchCounter:
    """Count one step of a case, after one that is not counted: it fills caches of plans."""
    backbone = small_backbone(layers)
    if lora and case != "decode":
        add_adapters(backbone, LoRASettings(), IDS, seed=0)
    if fused:
        backbone.fuse()
    run = decoding(backbone, batch, latents) if case == "decode" else training(case, backbone, batch, latents)
    run(LaunchCounter())
    counter = LaunchCounter("around passes")
    count_passes(backbone, counter)
    with counter.running():
        run(counter)
    return counter


def small_backbone(layers: int) -> Backbone:
    """Build the model in float32 on the CPU with a frozen vision tower."""
    sizes = ArchitectureSettings(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        mrope_section=(2, 3, 3),
        vision_depth=1,
        vision_hidden_size=32,
        vision_intermediate_size=48,
        vision_num_heads=2,
    )
    return random_backbone(sizes=sizes).train()


def count_passes(backbone: Backbone, counter: LaunchCounter) -> None:
    """Have every pass of a backbone counted by what it is."""
    stock = backbone.hidden

    def hidden(inputs: Any, rotary: Any, bias: Any, cache: Any = None, **options: Any) -> torch.Tensor:
        packing = options.get("packing")
        columns = inputs.shape[1] if packing is None else packing.columns
        later = counter.times["prefill"] > 0
        with counter.counting(SINGLE if columns == 1 else "text pass" if later else "prefill"):
            return stock(inputs, rotary, bias, cache, **options)

    backbone.hidden = hidden  # type: ignore[method-assign]


def training(case: str, backbone: Backbone, batch: int, latents: int) -> Callable[[LaunchCounter], None]:
    """Return a step of training."""
    source = Rows(image=IMAGE)
    examples = [source.example(latents, before=2, prompt=PROMPT, answer=ANSWER) for _ in range(batch)]
    rows = collate(examples, IDS, backbone.position_ids, align=case != "plain")
    steps = film_heads(backbone, rows) if case == "film" else None
    trained = nn.ModuleList([backbone] if steps is None else [backbone, steps.heads])
    parameters = {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}
    optimizer = make_optimizer(parameters, weight_decay=0.1, fused=True)
    optimizer.param_groups[0]["lr"] = 1e-4

    def loss() -> LossParts:
        return text_loss(backbone, rows) if case == "plain" else relaxation_loss(backbone, rows, stepwise=steps)

    def step(counter: LaunchCounter) -> None:
        optimizer.zero_grad(set_to_none=True)
        total = loss().total
        with counter.counting("backward"):
            total.backward()
        with counter.counting("optimizer"):
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()

    return step


def film_heads(backbone: Backbone, rows: LatentBatch) -> StepLoss:
    """Return heads over labels of places and kinds, with random targets of every latent."""
    random = torch.Generator().manual_seed(0)
    heads = StepHeads(backbone.hidden_size, StepwiseSettings(where="cell", what="kind"), PLACES, KINDS)
    lengths = rows.span_lengths.tolist()

    def classes(count: int, width: int) -> torch.Tensor:
        return nn.functional.one_hot(torch.randint(0, width, (count,), generator=random), width).float()

    targets = [StepTargets(classes(length, PLACES), classes(length, KINDS)) for length in lengths]
    return StepLoss(heads, step_batch(rows, targets, None, heads.widths), max(lengths))


def decoding(backbone: Backbone, batch: int, latents: int) -> Callable[[LaunchCounter], None]:
    """Return a decoding of ``latents`` latents and as many tokens."""
    source = Rows(image=IMAGE)
    prompts = [source.prompt(PROMPT, ends_in=(IDS.latent_start,)) for _ in range(batch)]
    settings = endless(2 * latents, latents)
    backbone.eval()
    return lambda _: decoded(backbone, prompts, settings)
