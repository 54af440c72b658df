"""The cost of latents: training vs plain fine-tuning, decoding vs stock ``generate``, a group vs separate prompts.

``mirage bench latent`` runs it. All sides of a comparison run in this process in interleaved rounds, and medians are
compared. Float32, CPU, the random model of bench/model.py. With one thread the clock is the processor time of this
process, so that other work on the machine does not count; with more it is the wall clock.

- stage1, stage2, lvr, monet3, coconut, codi, tokens: time of a step (forward and backward, no optimizer) over that of
  plain fine-tuning on the same tokens. Every step encodes its images from pixels, without cached features: stage 1 also
  encodes the auxiliary image, which plain fine-tuning does not have. Rows of 560 tokens, 180 of them labelled; at batch
  4 the spans begin 30 tokens apart. Plain fine-tuning is this project's, which computes logits only at labels. lvr: k
  tokens of the problem's image are the latents; monet3: Monet's third stage, whose rows run twice, with 40 observed
  words; coconut: a row of a stage whose latents take the place of words; codi: this row and that with 40 words in their
  place; tokens: explicit visual tokens, k codes as text.
- decode: tokens a second over those of stock ``generate`` without latents: the same prompts (256 tokens, 192 of them
  the image), the same 64 steps (a latent counts as a token), images encoded in both.
- group: tokens a second of 8 samples of one prompt (560 tokens, 16 steps) over those of 8 separate prompts in one
  batch, both by ``decode``.
- answers: gradients of GRPO a second over 8 answers (64 tokens, one span each) to one prompt (256 tokens), over
  those of the same answers as whole rows, each with its prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench.model import IDS, Rows, random_backbone, with_words
from mirage_core.config import GroundingSettings, LatentSettings, LvrSettings, MonetTrainSettings
from mirage_core.errors import InputError
from mirage_core.generation.decode import DecodeSettings, decode
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.collate_answers import collate_answers
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import answers_forward, relaxation_forward
from mirage_core.training.monet.losses import latent_loss
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.codi import Teacher, cells_from_end
from mirage_core.training.sft.losses import cross_entropy, grounding_loss, relaxation_loss, text_loss
from mirage_core.training.sft.region_loss import region_loss
from mirage_core.types import LatentSpan

GROUP = 8
DECODED_PROMPT, DECODED_STEPS = 256, 64
GROUP_PROMPT, GROUP_STEPS = 560, 16
ANSWER = 64
OBSERVED = 40
BOXED = 8
"""Tokens from the one before the answer to the end of a row (CODI)."""
TRAINED, TRAINED_QUICK = ((1, 4), (1, 8), (4, 4)), ((1, 4), (1, 8))  # batch, k
DECODED, DECODED_QUICK = (1, 8, 32), (1, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. Times are medians of one step or one decoding, in milliseconds; ``ratio`` is of times for
    training (less is better), of throughputs for the others (more is better)."""

    case: str
    batch: int
    k: int
    ratio: float
    median_ms: float
    baseline_ms: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Functions to time against one baseline, by case; ``rate``: ratios are of throughputs."""

    batch: int
    k: int
    ours: Mapping[str, Callable[[], object]]
    baseline: Callable[[], object]
    rate: bool = False


def measure(repeats: int, on_row: Callable[[Row], None], *, quick: bool = False, threads: int = 1) -> list[Row]:
    """Measure all rows; ``on_row`` gets each at once; ``quick`` leaves out batch 4 of training and 32 of decoding.

    InputError for numbers below 1.
    """
    if repeats < 1 or threads < 1:
        raise InputError(f"--repeats is {repeats} and --threads {threads}; both must be 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    rows: list[Row] = []
    try:
        for comparison in comparisons(random_backbone(), quick=quick):
            for row in timed(comparison, repeats, clock):
                on_row(row)
                rows.append(row)
    finally:
        torch.set_num_threads(before)
    return rows


def comparisons(backbone: Backbone, *, quick: bool = False) -> Iterator[Comparison]:
    """Yield the comparisons, each built when it is needed."""
    for batch, k in TRAINED_QUICK if quick else TRAINED:
        yield training(backbone, batch, k)
    for batch in DECODED_QUICK if quick else DECODED:
        yield decoding(backbone, batch, 4)
    yield grouping(backbone, 4)
    yield answering(backbone, 4)


def timed(comparison: Comparison, repeats: int, clock: Callable[[], float]) -> list[Row]:
    """Time all sides in turn, after one warm-up round."""
    sides = {"": comparison.baseline, **comparison.ours}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, side in sides.items():
            start = clock()
            side()
            if round_:
                seconds[name].append(clock() - start)
    medians = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    baseline = medians.pop("")
    return [
        Row(
            case=name,
            batch=comparison.batch,
            k=comparison.k,
            ratio=round(baseline / median if comparison.rate else median / baseline, 3),
            median_ms=round(median, 2),
            baseline_ms=round(baseline, 2),
        )
        for name, median in medians.items()
    ]


def training(backbone: Backbone, batch: int, k: int) -> Comparison:
    """Compare a step of each method with plain fine-tuning."""
    rows = Rows()
    examples = [rows.example(k, before=40 + 30 * row) for row in range(batch)]
    aligned = collate(examples, IDS, backbone.position_ids)
    plain = collate(examples, IDS, backbone.position_ids, align=False)
    latent, grounding = LatentSettings(num_latents=k), GroundingSettings()
    losses: dict[str, Callable[[], LossParts]] = {
        "stage1": partial(grounding_loss, backbone, plain, grounding, latent),
        "stage2": partial(relaxation_loss, backbone, aligned),
        **others(backbone, examples, k),
    }
    ours = {name: partial(step, backbone, loss) for name, loss in losses.items()}
    return Comparison(batch, k, ours, partial(step, backbone, partial(text_loss, backbone, plain)))


def others(backbone: Backbone, examples: list[EncodedExample], k: int) -> dict[str, Callable[[], LossParts]]:
    """Return the losses of LVR, Monet's third stage, Coconut, CODI and visual tokens on the same rows."""
    bare = [replace(row, auxiliary_pixel_values=no_pixels(), auxiliary_grid_thw=no_grids()) for row in examples]
    shown = [replace(row, region_tokens=torch.arange(k)) for row in bare]
    observing = [replace(row, observed=torch.arange(len(row.ids)) >= len(row.ids) - OBSERVED) for row in bare]
    region = collate(shown, IDS, backbone.position_ids, align=False)
    observed = collate(observing, IDS, backbone.position_ids)
    depths = len(backbone.layers) + 1
    states = torch.randn(depths, k * len(examples), backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    monet = MonetTrainSettings()
    thoughts = collate(bare, IDS, backbone.position_ids)
    codes = collate([with_words(row, k + 2) for row in bare], IDS, backbone.position_ids, align=False)
    return {
        "coconut": partial(relaxation_loss, backbone, thoughts),
        "codi": partial(relaxation_loss, backbone, thoughts, teacher=taught(backbone, bare, thoughts)),
        "tokens": partial(text_loss, backbone, codes),
        "lvr": partial(region_loss, backbone, region, LvrSettings(), latent_end=IDS.latent_end),
        "monet3": partial(
            latent_loss,
            backbone,
            observed,
            states,
            observation_weight=monet.observation_weight,
            alignment_weight=monet.alignment_weight,
            axis=monet.alignment,
        ),
    }


def taught(backbone: Backbone, rows: list[EncodedExample], students: LatentBatch) -> Teacher:
    """Return CODI's other task of the rows: words in the place of their spans."""
    words = collate([with_words(row, OBSERVED) for row in rows], IDS, backbone.position_ids, align=False)
    before = [BOXED] * len(rows)
    weights = {"teacher": 1.0, "distillation": 1.0}
    return Teacher(weights, words, cells_from_end(words, before), cells_from_end(students, before))


def step(backbone: Backbone, loss: Callable[[], LossParts]) -> None:
    """Run forward and backward from empty gradients."""
    backbone.zero_grad(set_to_none=True)
    loss().total.backward()


def decoding(backbone: Backbone, batch: int, k: int) -> Comparison:
    """Compare greedy answers of k latents, latent_end and text with as many steps of stock ``generate``."""
    rows = Rows()
    prompts = [rows.prompt(DECODED_PROMPT, ends_in=(IDS.latent_start,)) for _ in range(batch)]
    ours = partial(decoded, backbone, prompts, endless(DECODED_STEPS, k))
    return Comparison(batch, k, {"decode": ours}, partial(generated, backbone, prompts, DECODED_STEPS), rate=True)


def grouping(backbone: Backbone, k: int) -> Comparison:
    """Compare samples of one prompt with as many copies of the prompt."""
    prompt = Rows().prompt(GROUP_PROMPT, ends_in=(IDS.latent_start,))
    ours = partial(decoded, backbone, [prompt], endless(GROUP_STEPS, k, temperature=1.0, samples=GROUP))
    separate = partial(decoded, backbone, [prompt] * GROUP, endless(GROUP_STEPS, k, temperature=1.0))
    return Comparison(GROUP, k, {"group": ours}, separate, rate=True)


def answering(backbone: Backbone, k: int) -> Comparison:
    """Compare GRPO's gradient over answers that share their prompt with the same answers as full rows."""
    rows = Rows()
    prompt = rows.prompt(DECODED_PROMPT)
    tokens = [[IDS.latent_start, IDS.latent_end, *rows.text(ANSWER - k - 2).tolist()] for _ in range(GROUP)]
    span = [LatentSpan(position=1, num_latents=k)]
    answers = [encode_rollout(prompt, ids, span, [True, False] + [True] * (len(ids) - 2), IDS) for ids in tokens]
    shared = collate_answers([(prompt, answers)], IDS, backbone.position_ids)
    full_rows = collate(answers, IDS, backbone.position_ids)

    def gradient(batch: LatentBatch, forward: Callable[[], Tensor]) -> None:
        backbone.zero_grad(set_to_none=True)
        cross_entropy(backbone, forward(), batch.labels).backward()

    ours = partial(gradient, shared.answers, lambda: answers_forward(backbone, shared))
    separate = partial(gradient, full_rows, lambda: relaxation_forward(backbone, full_rows).hidden)
    return Comparison(GROUP, k, {"answers": ours}, separate, rate=True)


def endless(steps: int, k: int, *, temperature: float = 0.0, samples: int = 1) -> DecodeSettings:
    """Return settings for answers of exactly ``steps`` steps after latent_start: k latents, then endless text."""
    return DecodeSettings(
        max_new_tokens=steps - k,
        num_latents=k,
        samples=samples,
        temperature=temperature,
        max_spans=1,
        banned=(IDS.end_of_turn, IDS.pad),
    )


def decoded(backbone: Backbone, prompts: list[EncodedPrompt], settings: DecodeSettings) -> None:
    """Decode once with this project."""
    decode(backbone, prompts, IDS, settings, torch.Generator().manual_seed(0))


@torch.inference_mode()
def generated(backbone: Backbone, prompts: list[EncodedPrompt], steps: int) -> None:
    """Decode once, greedily, with stock ``generate``: ``steps`` tokens for every prompt (all of one length)."""
    ids = torch.stack([prompt.ids for prompt in prompts])
    backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == IDS.image_pad).long(),
        pixel_values=torch.cat([prompt.pixel_values for prompt in prompts]),
        image_grid_thw=torch.cat([prompt.grid_thw for prompt in prompts]),
        do_sample=False,
        max_new_tokens=steps,
        min_new_tokens=steps,
    )
