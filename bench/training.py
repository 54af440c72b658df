"""Time and memory of training steps: stage 1, stage 2 and GRPO compared with plain fine-tuning.

``mirage bench training`` uses a recipe's model with random weights, rows of random text as long as the recipe's, its
engine and settings, in one process: 3B and 7B can be measured on any GPU without weights or data. The planned memory is
shown beside the measured one: the allocator's peak on a GPU, live tensors on a CPU (bench/live_memory.py, in a separate
step because tracking tensors takes time). A GRPO step samples its answers (each begins with latents, none ends early),
runs the reference model, and updates the policy.
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
from mirage_core.distributed.collectives import torch_process_group
from mirage_core.errors import InputError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.latent.collate_answers import AnswerBatch, collate_answers
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import IGNORED, EncodedPrompt
from mirage_core.methods import TRAIN_STAGES
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import answers_forward
from mirage_core.planning.batch_shapes import Shape
from mirage_core.planning.memory import peak
from mirage_core.planning.random_model import RandomRows, random_model
from mirage_core.planning.sizes import sizes_of
from mirage_core.planning.stages import StageWork, stage_work
from mirage_core.planning.token_counts import RecipeRows, Row, recipe_rows
from mirage_core.training.engine.base import Engine, EngineSettings, Root
from mirage_core.training.engine.make_engine import make_engine
from mirage_core.training.grpo.log_probs import text_log_probs
from mirage_core.training.grpo.loss import policy_terms
from mirage_core.training.grpo.reference_model import ReferenceModel
from mirage_core.training.sft.losses import grounding_loss, relaxation_loss, text_loss

CASES = ("direct-sft", "grounding", "relaxation", "grpo")
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of the table: median seconds of a step, their ratio to plain fine-tuning, bytes measured and planned."""

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
    on_row: Callable[[Measured], None],
    *,
    cases: Sequence[str] = CASES,
    rounds: int = 3,
    layers: int | None = None,
    row: Row | None = None,
    apart: bool | None = None,
) -> list[Measured]:
    """Measure time and memory of a step of each case, plain fine-tuning first; ``on_row`` gets each row at once.

    ``layers``: at most that many, for a model that is too large; ``row``: used instead of the recipe's longest row;
    ``apart``: a process for every case, by default on a GPU: DeepSpeed's hooks never release a model, and two may not
    fit. InputError for numbers below 1 and for a trained vision tower, which rows of text cannot show.
    """
    if rounds < 1 or (layers is not None and layers < 1):
        raise InputError(f"--rounds is {rounds} and --layers {layers}; both must be 1 or more")
    if settings.model.train_vision:
        raise InputError("model.train_vision is true, but rows of random text have no images; set it to false")
    alone = _one_process(settings)
    rows = equal_rows(alone, row or _longest(recipe_rows(alone)))
    results: list[Measured] = []
    for case in ("direct-sft", *(case for case in cases if case != "direct-sft")):
        arguments = (alone, rows, case, rounds, layers, results[0].seconds if results else None)
        separate = torch.cuda.is_available() if apart is None else apart
        result = _in_a_process(*arguments) if separate else _measure_case(*arguments)
        on_row(result)
        results.append(result)
    return results


def _in_a_process(*arguments: Any) -> Measured:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_case, *arguments).result()


def equal_rows(settings: Settings, row: Row) -> RecipeRows:
    """Return the rows of a recipe whose examples all equal ``row``."""
    return RecipeRows(rows=((row, 1.0),), train=settings.direct_sft.batch_size, test=1, notes=())


def _longest(rows: RecipeRows) -> Row:
    """Return the maximum of every part, which the plan uses for memory."""
    return Row(
        benchmark=rows.rows[0][0].benchmark,
        prompt=rows.max("prompt"),
        image=rows.max("image"),
        before=rows.max("before"),
        after=rows.max("after"),
        caption=rows.max("caption"),
        auxiliary=rows.max("auxiliary"),
    )


def _one_process(settings: Settings) -> Settings:
    """Return the settings for one process."""
    runtime = settings.runtime.model_copy(update={"processes": 1, "hosts": ()})
    return settings.model_copy(update={"runtime": runtime})


def _measure_case(
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
    with tempfile.TemporaryDirectory() as folder, torch_process_group(Path(folder) / "rendezvous"):
        step = _step_of(settings, rows, case, backbone)
        # On a CPU the processor time of this process, so that other work on the machine does not count.
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        times: list[float] = []
        for round_ in range(rounds + 1):
            start = clock()
            step.run()
            _wait(device)
            if round_:
                times.append(clock() - start)
        seconds = statistics.median(times)
        peak_measured = peak_bytes(step.run, [*tensors_of(backbone), *step.resident()], device)
        planned = _peak_of(work)
    return Measured(
        case=case,
        rows=work.at_once,
        tokens=round(work.tokens),
        checkpointing=step.section.gradient_checkpointing,
        seconds=round(seconds, 4),
        ratio=round(seconds / (baseline or seconds), 3),
        peak_bytes=peak_measured,
        planned_bytes=planned,
        planned_ratio=round(planned / peak_measured, 3),
    )


def memory_of(settings: Settings, row: Row, case: str) -> tuple[int, int]:
    """Return the bytes of a case's second step on the CPU, measured and planned, in this process (plain engine)."""
    alone, device = _one_process(settings), torch.device("cpu")
    rows, backbone = equal_rows(alone, row), random_model(alone.model, device)
    step = _step_of(alone, rows, case, backbone)
    step.run()  # creates the optimizer state
    measured = peak_bytes(step.run, [*tensors_of(backbone), *step.resident()], device)
    return measured, _peak_of(_planned(alone, rows, case, backbone))


def _planned(settings: Settings, rows: RecipeRows, case: str, backbone: Backbone) -> StageWork:
    works = stage_work(settings, sizes_of(backbone.model.config), rows, None)
    return next(work for work in works if work.name == case)


def _peak_of(work: StageWork) -> int:
    """Return the planned peak without image encoding, which happens before training."""
    return peak([moment for moment in work.moments if moment.name != "pictures"]).total


def peak_bytes(step: Callable[[], object], known: Iterable[Tensor], device: torch.device) -> int:
    """Return the peak bytes of tensors during a step; ``known``: those that exist before (used on a CPU)."""
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
    """Return the optimizer step of a case."""
    rows_source = RandomRows(backbone, Shape.longest(rows, settings), bottleneck=settings.latent.bottleneck)
    if case == "grpo":
        return PolicyStep(settings, backbone, rows_source)
    section = settings.section(TRAIN_STAGES[case].program.name, TrainSettings)
    return SupervisedStep(settings, section, case, backbone, rows_source)


def _engine(settings: Settings, section: TrainSettings | GRPOSettings, backbone: Backbone) -> Engine:
    runtime = settings.runtime
    engine_settings = EngineSettings(
        kind=runtime.engine,
        zero_stage=runtime.zero_stage,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        optimizer=section.optimizer,
        fused=runtime.fused_optimizer,
        fused_on_cpu=runtime.portable_math,
        offload_optimizer=runtime.offload_optimizer,
        offload_parameters=runtime.offload_parameters,
    )
    return make_engine(Root({"backbone": backbone}), engine_settings, None)


def state_of(engine: Engine) -> Iterator[Tensor]:
    """Yield the optimizer state that the plain engine holds between steps."""
    optimizer = getattr(engine, "_optimizer", None)
    if optimizer is not None:
        yield from getattr(engine, "_masters", ())
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


class SupervisedStep:
    """A step of a supervised stage, one micro-batch after another."""

    def __init__(
        self, settings: Settings, section: TrainSettings, case: str, backbone: Backbone, rows: RandomRows
    ) -> None:
        self.section = section
        self._settings, self._case, self._backbone = settings, case, backbone
        self._engine = _engine(settings, section, backbone)
        micro_batch = section.micro_batch_size or section.batch_size
        self._batch = rows.batch(case, min(micro_batch, section.batch_size))
        self._micro_batches = -(-section.batch_size // micro_batch)

    def run(self) -> None:
        """Run the forward and backward passes, and the optimizer step."""
        for _ in range(self._micro_batches):
            self._engine.backward(self._engine.compute(self._loss))
        self._engine.step(1e-6)

    def resident(self) -> Iterator[Tensor]:
        """Yield the batch and the optimizer state."""
        yield from (self._batch.input_ids, self._batch.labels, *self._batch.auxiliary_features)
        yield from state_of(self._engine)

    def _loss(self) -> Tensor:
        checkpointing = self.section.gradient_checkpointing
        if self._case == "direct-sft":
            return text_loss(self._backbone, self._batch, checkpointing=checkpointing).total
        if self._case == "relaxation":
            blank = self._settings.latent.input == "blank"
            return relaxation_loss(self._backbone, self._batch, checkpointing=checkpointing, blank=blank).total
        return grounding_loss(self._backbone, self._batch, self._settings.grounding, self._settings.latent).total


class PolicyStep:
    """A step of GRPO: sample groups of answers, run the reference model, update the policy."""

    def __init__(self, settings: Settings, backbone: Backbone, rows: RandomRows) -> None:
        self.section = self._grpo = settings.grpo
        self._settings, self._backbone, self._rows = settings, backbone, rows
        kl = self._grpo.kl_weight > 0
        self._reference = ReferenceModel(backbone, offload=settings.runtime.offload_reference) if kl else None
        self._engine = _engine(settings, self._grpo, backbone)
        self._prompts = [rows.prompt() for _ in range(self._grpo.prompts_per_step)]
        ids = rows.ids
        self._decoding = DecodeSettings.of(
            settings.latent,
            max_new_tokens=self._grpo.max_new_tokens,
            temperature=self._grpo.temperature,
            samples=self._grpo.group_size,
            end="exact",
            banned=(ids.end_of_turn, ids.pad, ids.latent_start),
        )
        self._rules = sampling_rules(ids, replace(self._decoding, banned=()))

    def run(self) -> None:
        """Sample the answers, and update the policy one micro-batch after another."""
        groups = self._sample()
        size = self._grpo.group_size
        at_once = max(1, (self._grpo.micro_batch_size or len(groups) * size) // size)
        for first in range(0, len(groups), at_once):
            self._learn(groups[first : first + at_once])
        self._engine.step(1e-6)

    def resident(self) -> Iterator[Tensor]:
        """Yield the reference model's weights and the optimizer state."""
        if self._reference is not None and self._reference._copy is not None:
            yield from tensors_of(self._reference._copy)
        yield from state_of(self._engine)

    def _with_span_start(self, prompt: EncodedPrompt) -> EncodedPrompt:
        """Append latent_start to a prompt: random weights would hardly ever sample it."""
        return replace(prompt, ids=torch.cat([prompt.ids, torch.tensor([self._rows.ids.latent_start])]))

    def _from_start(self, answer: Trajectory) -> Trajectory:
        """Prepend that latent_start to the answer, as if it had been sampled."""
        return replace(
            answer,
            token_ids=(self._rows.ids.latent_start, *answer.token_ids),
            spans=tuple(replace(span, position=span.position + 1) for span in answer.spans),
            sampled=(True, *answer.sampled),
            log_probs=(0.0, *answer.log_probs),
        )

    def _sample(self) -> list[tuple[EncodedPrompt, list[Trajectory]]]:
        """Sample the groups of answers, ``generation_batch_size`` answers at once."""
        at_once = self._settings.runtime.generation_batch_size
        groups = max(1, at_once // self._grpo.group_size) if at_once else len(self._prompts)
        sampled: list[tuple[EncodedPrompt, list[Trajectory]]] = []
        self._backbone.eval()
        for first in range(0, len(self._prompts), groups):
            prompts = self._prompts[first : first + groups]
            started = [self._with_span_start(prompt) for prompt in prompts]
            answers = decode(self._backbone, started, self._rows.ids, self._decoding)
            sampled += [
                (prompt, [self._from_start(answer) for answer in group])
                for prompt, group in zip(prompts, answers, strict=True)
            ]
        sampled[0][1][0] = _shorter(sampled[0][1][0])  # answers differ in length, as real ones do
        return sampled

    def _learn(self, groups: Sequence[tuple[EncodedPrompt, list[Trajectory]]]) -> None:
        layout = collate_answers(
            [
                (
                    prompt,
                    [
                        encode_rollout(prompt, each.token_ids, each.spans, each.sampled, self._rows.ids)
                        for each in answers
                    ],
                )
                for prompt, answers in groups
            ],
            self._rows.ids,
            self._backbone.position_ids,
            bottleneck=self._decoding.bottleneck,
        ).to(self._backbone.device)
        mask = layout.answers.labels != IGNORED
        sampled_log_probs = torch.zeros(mask.shape, device=mask.device)
        values = [
            value
            for _, answers in groups
            for answer in answers
            for value, sampled in zip(answer.log_probs, answer.sampled, strict=True)
            if sampled
        ]
        sampled_log_probs = sampled_log_probs.masked_scatter(mask, torch.tensor(values, device=mask.device))
        reference = self._reference_log_probs(layout)

        def loss() -> Tensor:
            current = self._log_probs(self._backbone, layout)
            gains = torch.linspace(-1.0, 1.0, len(mask), device=mask.device)
            terms = policy_terms(
                current, sampled_log_probs, reference, gains, mask, clip=self._grpo.clip, kl_weight=self._grpo.kl_weight
            )
            return terms.loss.mean()

        self._engine.backward(self._engine.compute(loss))

    def _reference_log_probs(self, layout: AnswerBatch) -> Tensor | None:
        if self._reference is None:
            return None
        with self._reference.loaded() as reference:
            return self._log_probs(reference, layout)

    def _log_probs(self, backbone: Backbone, layout: AnswerBatch) -> Tensor:
        blank = self._decoding.latent_input == "blank"
        hidden = answers_forward(backbone, layout, checkpointing=self._grpo.gradient_checkpointing, blank=blank)
        return text_log_probs(backbone, layout.answers, hidden, self._rules)


def _shorter(answer: Trajectory) -> Trajectory:
    """Return an answer without its last token."""
    return replace(
        answer, token_ids=answer.token_ids[:-1], log_probs=answer.log_probs[:-1], sampled=answer.sampled[:-1]
    )
