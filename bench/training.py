"""What training steps take, of time and memory: stage 1, stage 2 and GRPO against plain fine-tuning, in one run.

``mirage bench training`` runs it. A recipe's own model with random weights, rows of random text as long as the recipe's
own, its engine and its settings, in one process: so 3B and 7B can be measured on any GPU, without weights or data. The
plan's memory stands beside what was measured: on a GPU the allocator's peak, on a CPU the bytes of live tensors
(planning/live.py; taken in a step of its own, since following tensors takes time).

GRPO's step draws its answers (each begins with latents, none ends early), computes the reference, and learns.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.live_memory import LiveBytes, tensors_of
from mirage_core.config import GRPOSettings, Settings, TrainSettings
from mirage_core.distributed.collectives import joined
from mirage_core.errors import InputError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.latent.collate_answers import AnswerBatch, collate_answers
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import IGNORED, EncodedPrompt
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import answers_forward
from mirage_core.planning.batch_shapes import Shape
from mirage_core.planning.memory import peak
from mirage_core.planning.random_model import StandInRows, random_model
from mirage_core.planning.sizes import sizes_of
from mirage_core.planning.stages import StageWork, stages_of
from mirage_core.planning.token_counts import RecipeRows, Row, recipe_rows
from mirage_core.training.engine.base import Engine, EngineSettings, Root
from mirage_core.training.engine.make_engine import make_engine
from mirage_core.training.grpo.loss import policy_terms
from mirage_core.training.grpo.reference_model import Reference
from mirage_core.training.sft.losses import grounding_loss, relaxation_loss, text_log_probs, text_loss

CASES = ("direct-sft", "grounding", "relaxation", "grpo")
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One line of the table: the median time of a step, over that of plain fine-tuning; bytes measured and planned."""

    case: str
    rows: int
    tokens: int
    checkpointing: bool
    seconds: float
    ratio: float
    peak_bytes: int
    planned_bytes: int
    planned_ratio: float


def measure(
    settings: Settings,
    told: Callable[[Measured], None],
    *,
    cases: Sequence[str] = CASES,
    rounds: int = 3,
    layers: int | None = None,
    row: Row | None = None,
    apart: bool | None = None,
) -> list[Measured]:
    """Time and memory of a step of each case, each ``told`` as it comes; plain fine-tuning first.

    ``layers``: only so many, where the whole model is too large; ``row``: instead of the recipe's longest rows;
    ``apart``: a process for every case, which is how it is on a GPU if nothing is said: DeepSpeed's hooks never let go
    of a model, and two may not fit. InputError for numbers below 1 and for a vision tower that learns, which rows of
    text do not show.
    """
    if rounds < 1 or (layers is not None and layers < 1):
        raise InputError(f"--rounds is {rounds} and --layers {layers}; both must be 1 or more")
    if settings.model.train_vision:
        raise InputError("model.train_vision is true, but rows of random text have no pictures; set it to false")
    alone = _one_process(settings)
    rows = alike(alone, row or _longest(recipe_rows(alone)))
    found: list[Measured] = []
    for case in ("direct-sft", *(case for case in cases if case != "direct-sft")):
        asked = (alone, rows, case, rounds, layers, found[0].seconds if found else None)
        one = _in_a_process(*asked) if apart or (apart is None and torch.cuda.is_available()) else _measured(*asked)
        told(one)
        found.append(one)
    return found


def _in_a_process(*asked: Any) -> Measured:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, *asked).result()


def alike(settings: Settings, row: Row) -> RecipeRows:
    """A recipe's rows as if all were alike."""
    return RecipeRows(rows=((row, 1.0),), train=settings.direct_sft.batch_size, test=1, notes=())


def _longest(rows: RecipeRows) -> Row:
    """As long as any in every part: what the plan takes for memory."""
    return Row(
        benchmark=rows.rows[0][0].benchmark,
        prompt=rows.most("prompt"),
        image=rows.most("image"),
        before=rows.most("before"),
        after=rows.most("after"),
        caption=rows.most("caption"),
        auxiliary=rows.most("auxiliary"),
    )


def _one_process(settings: Settings) -> Settings:
    """The recipe in one process."""
    runtime = settings.runtime.model_copy(update={"processes": 1, "hosts": ()})
    return settings.model_copy(update={"runtime": runtime})


def _measured(
    settings: Settings,
    rows: RecipeRows,
    case: str,
    rounds: int,
    layers: int | None,
    baseline: float | None,
) -> Measured:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = random_model(settings.model, device, layers=layers)
    work = _planned(settings, rows, case, backbone)
    with tempfile.TemporaryDirectory() as folder, joined(0, 1, Path(folder) / "rendezvous"):
        made = _step_of(settings, rows, case, backbone)
        # On a CPU the time of this process, so that other work on the machine does not count.
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        taken: list[float] = []
        for round_ in range(rounds + 1):
            began = clock()
            made.run()
            _wait(device)
            if round_:
                taken.append(clock() - began)
        seconds = statistics.median(taken)
        most, planned = peak_bytes(made.run, [*tensors_of(backbone), *made.kept()], device), _peak_of(work)
    return Measured(
        case=case,
        rows=work.at_once,
        tokens=round(work.tokens),
        checkpointing=made.section.gradient_checkpointing,
        seconds=round(seconds, 4),
        ratio=round(seconds / (baseline or seconds), 3),
        peak_bytes=most,
        planned_bytes=planned,
        planned_ratio=round(planned / most, 3),
    )


def memory_of(settings: Settings, row: Row, case: str) -> tuple[int, int]:
    """The bytes of a case's second step on the CPU, measured and planned, in this process alone (plain engine)."""
    alone, device = _one_process(settings), torch.device("cpu")
    rows, backbone = alike(alone, row), random_model(alone.model, device)
    made = _step_of(alone, rows, case, backbone)
    made.run()  # from then on the optimizer has its state
    most = peak_bytes(made.run, [*tensors_of(backbone), *made.kept()], device)
    return most, _peak_of(_planned(alone, rows, case, backbone))


def _planned(settings: Settings, rows: RecipeRows, case: str, backbone: Backbone) -> StageWork:
    works = stages_of(settings, sizes_of(backbone.model.config), rows, None)
    return next(work for work in works if work.name == case)


def _peak_of(work: StageWork) -> int:
    """The plan's peak; pictures are encoded before training, and there are none here."""
    return peak([moment for moment in work.moments if moment.name != "pictures"]).total


def peak_bytes(step: Callable[[], object], known: Iterable[Tensor], device: torch.device) -> int:
    """The most bytes of tensors there are during a step; ``known``: those that lie there before (on a CPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        _wait(device)
        return torch.cuda.max_memory_allocated(device)
    live = LiveBytes(known)
    with live:
        step()
    return live.peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step_of(settings: Settings, rows: RecipeRows, case: str, backbone: Backbone) -> SupervisedStep | PolicyStep:
    """A whole optimizer step of a case."""
    made = StandInRows(backbone, Shape.most(rows, settings), bottleneck=settings.latent.bottleneck)
    if case == "grpo":
        return PolicyStep(settings, backbone, made)
    sections = {"direct-sft": settings.direct_sft, "grounding": settings.grounding, "relaxation": settings.relaxation}
    return SupervisedStep(settings, sections[case], case, backbone, made)


def _engine(settings: Settings, section: TrainSettings | GRPOSettings, backbone: Backbone) -> Engine:
    runtime = settings.runtime
    told = EngineSettings(
        kind=runtime.engine,
        zero_stage=runtime.zero_stage,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        optimizer=section.optimizer,
        fused=runtime.fused_optimizer,
        offload_optimizer=runtime.offload_optimizer,
        offload_parameters=runtime.offload_parameters,
    )
    return make_engine(Root({"backbone": backbone}), told, None)


def state_of(engine: Engine) -> Iterator[Tensor]:
    """What the plain engine keeps between steps."""
    optimizer = getattr(engine, "_optimizer", None)
    if optimizer is not None:
        yield from getattr(engine, "_masters", ())
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


class SupervisedStep:
    """A step of a supervised stage, portion after portion."""

    def __init__(
        self, settings: Settings, section: TrainSettings, case: str, backbone: Backbone, made: StandInRows
    ) -> None:
        self.section = section
        self._settings, self._case, self._backbone = settings, case, backbone
        self._engine = _engine(settings, section, backbone)
        portion = section.micro_batch_size or section.batch_size
        self._batch = made.batch(case, min(portion, section.batch_size))
        self._portions = -(-section.batch_size // portion)

    def run(self) -> None:
        """Forward and backward passes, and the optimizer's step."""
        for _ in range(self._portions):
            self._engine.backward(self._engine.compute(self._loss))
        self._engine.step(1e-6)

    def kept(self) -> Iterator[Tensor]:
        """The batch, and the optimizer's state."""
        yield from (self._batch.input_ids, self._batch.labels, *self._batch.auxiliary_features)
        yield from state_of(self._engine)

    def _loss(self) -> Tensor:
        checkpointing = self.section.gradient_checkpointing
        if self._case == "direct-sft":
            return text_loss(self._backbone, self._batch, checkpointing=checkpointing).total
        if self._case == "relaxation":
            blank = self._settings.latent.fed == "blank"
            return relaxation_loss(self._backbone, self._batch, checkpointing=checkpointing, blank=blank).total
        return grounding_loss(self._backbone, self._batch, self._settings.grounding, self._settings.latent).total


class PolicyStep:
    """A step of GRPO: draw groups of answers, ask the reference, learn from them."""

    def __init__(self, settings: Settings, backbone: Backbone, made: StandInRows) -> None:
        self.section = self._grpo = settings.grpo
        self._settings, self._backbone, self._made = settings, backbone, made
        kl = self._grpo.kl_weight > 0
        self._reference = Reference(backbone, offload=settings.runtime.offload_reference) if kl else None
        self._engine = _engine(settings, self._grpo, backbone)
        self._prompts = [made.prompt() for _ in range(self._grpo.prompts_per_step)]
        ids = made.ids
        self._drawing = DecodeSettings(
            max_new_tokens=self._grpo.max_new_tokens,
            num_latents=settings.latent.num_latents,
            temperature=self._grpo.temperature,
            samples=self._grpo.group_size,
            max_spans=settings.latent.max_spans,
            banned=(ids.end_of_turn, ids.pad, ids.latent_start),
            bottleneck=settings.latent.bottleneck,
            fed=settings.latent.fed,
        )
        self._rules = sampling_rules(ids, replace(self._drawing, banned=()))

    def run(self) -> None:
        """Draw, and learn in portions."""
        groups = self._drawn()
        size = self._grpo.group_size
        portion = max(1, (self._grpo.micro_batch_size or len(groups) * size) // size)
        for first in range(0, len(groups), portion):
            self._learn(groups[first : first + portion])
        self._engine.step(1e-6)

    def kept(self) -> Iterator[Tensor]:
        """The reference's weights, and the optimizer's state."""
        if self._reference is not None and self._reference._copy is not None:
            yield from tensors_of(self._reference._copy)
        yield from state_of(self._engine)

    def _begun(self, prompt: EncodedPrompt) -> EncodedPrompt:
        """A prompt whose answer has begun a span: weights by chance would hardly ever draw latent_start."""
        return replace(prompt, ids=torch.cat([prompt.ids, torch.tensor([self._made.ids.latent_start])]))

    def _from_start(self, answer: Trajectory) -> Trajectory:
        """The answer with that latent_start, as if it had been drawn."""
        return replace(
            answer,
            token_ids=(self._made.ids.latent_start, *answer.token_ids),
            spans=tuple(replace(span, position=span.position + 1) for span in answer.spans),
            sampled=(True, *answer.sampled),
            log_probs=(0.0, *answer.log_probs),
        )

    def _drawn(self) -> list[tuple[EncodedPrompt, list[Trajectory]]]:
        """Groups of answers, so many at once."""
        at_once = self._settings.runtime.generation_batch_size
        groups = max(1, at_once // self._grpo.group_size) if at_once else len(self._prompts)
        found: list[tuple[EncodedPrompt, list[Trajectory]]] = []
        self._backbone.eval()
        for first in range(0, len(self._prompts), groups):
            prompts = self._prompts[first : first + groups]
            begun = [self._begun(prompt) for prompt in prompts]
            answers = decode(self._backbone, begun, self._made.ids, self._drawing)
            found += [
                (prompt, [self._from_start(one) for one in group])
                for prompt, group in zip(prompts, answers, strict=True)
            ]
        found[0][1][0] = _shorter(found[0][1][0])  # answers differ in length, as real ones do
        return found

    def _learn(self, groups: Sequence[tuple[EncodedPrompt, list[Trajectory]]]) -> None:
        layout = collate_answers(
            [
                (
                    prompt,
                    [encode_rollout(prompt, one.token_ids, one.spans, one.sampled, self._made.ids) for one in held],
                )
                for prompt, held in groups
            ],
            self._made.ids,
            self._backbone.position_ids,
            bottleneck=self._drawing.bottleneck,
        ).to(self._backbone.device)
        mask = layout.answers.labels != IGNORED
        drawn = torch.zeros(mask.shape, device=mask.device)
        values = [
            value
            for _, held in groups
            for one in held
            for value, own in zip(one.log_probs, one.sampled, strict=True)
            if own
        ]
        drawn = drawn.masked_scatter(mask, torch.tensor(values, device=mask.device))
        reference = self._of_reference(layout)

        def loss() -> Tensor:
            current = self._log_probs(self._backbone, layout)
            gains = torch.linspace(-1.0, 1.0, len(mask), device=mask.device)
            terms = policy_terms(
                current, drawn, reference, gains, mask, clip=self._grpo.clip, kl_weight=self._grpo.kl_weight
            )
            return terms.loss.mean()

        self._engine.backward(self._engine.compute(loss))

    def _of_reference(self, layout: AnswerBatch) -> Tensor | None:
        if self._reference is None:
            return None
        with self._reference.at_hand() as reference:
            return self._log_probs(reference, layout)

    def _log_probs(self, backbone: Backbone, layout: AnswerBatch) -> Tensor:
        blank = self._drawing.fed == "blank"
        hidden = answers_forward(backbone, layout, checkpointing=self._grpo.gradient_checkpointing, blank=blank)
        return text_log_probs(backbone, layout.answers, hidden, self._rules)


def _shorter(answer: Trajectory) -> Trajectory:
    """An answer without its last token."""
    return replace(
        answer, token_ids=answer.token_ids[:-1], log_probs=answer.log_probs[:-1], sampled=answer.sampled[:-1]
    )
