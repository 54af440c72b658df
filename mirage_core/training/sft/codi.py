"""CODI's self-distillation (arXiv 2502.21074; released code 4fd88d4): one model, two tasks of each example in a step.

The teacher's row has the question, the chain in words and the answer; the student's has latents in the place of the
words. Both are learned, and at the one token before the answer the student's states are held to the teacher's.
Legend: B rows, T columns, L layers, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from mirage_core.config import CodiSettings, LatentSettings
from mirage_core.errors import DataError
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.encoder import Encoder, span_length
from mirage_core.latent.examples import IGNORED, EncodedExample
from mirage_core.latent.reasoning_steps import reasoning_steps
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import text_forward
from mirage_core.model.forward.layer_states import LayerStates
from mirage_core.training.sft.step_decoder import step_texts
from mirage_core.training.sft.text import cross_entropy
from mirage_core.types import TrainingExample

BOX = "\\boxed{"


@dataclass(frozen=True)
class TeacherRows:
    """The rows of the teacher's task, and where the answer begins in both tasks."""

    settings: CodiSettings
    latent: LatentSettings
    of: Literal["image", "film"]
    examples: Sequence[TrainingExample]
    encoder: Encoder
    latents_per_step: int = 1

    def row(self, index: int, student: EncodedExample) -> EncodedExample:
        """Return the teacher's row of an example, from the student's: the same prompt, the chain in words."""
        chain = self.examples[index].chain
        latents = int((student.ids == self.encoder.latent_pad).sum())
        begin = len(student.ids) - len(self.encoder.target(chain.text_before, latents, chain.text_after)[0])
        ids, labels = self.encoder.target(chain.text_before + chain.words + chain.text_after)
        return replace(
            student, ids=torch.cat([student.ids[:begin], ids]), labels=torch.cat([student.labels[:begin], labels])
        )

    def before_answer(self, index: int) -> tuple[int, int]:
        """Return how many tokens from the end of the student's, and the teacher's, row the token before the answer is.

        The answer is what the last box holds; 1 is the row's last token. DataError for a chain without a box.
        """
        chain = self.examples[index].chain
        place = chain.text_after.rfind(BOX)
        if place < 0:
            raise DataError(
                f"the chain of {chain.problem_id} has no {BOX}...}} after the image, and CODI compares states before "
                "it: let its text_after end in the boxed answer"
            )
        own, words = chain.text_after, chain.text_before + chain.words + chain.text_after
        shift = len(words) - len(own)
        return self.encoder.tokens_from(own, place + len(BOX)) + 1, (
            self.encoder.tokens_from(words, shift + place + len(BOX)) + 1
        )

    def explained_at(self, index: int, step: int) -> list[str]:  # noqa: ARG002 -- the same in every step
        """Return what each latent of an example stands for (SIM-CoT): a step, the last one all that remain."""
        chain, image = self.examples[index].chain, self.examples[index].auxiliary_image
        answer = f"{BOX}{self.examples[index].problem.answer}}}"
        return step_texts(reasoning_steps(chain.words, self.of), answer, span_length(image, self.latent), rest=True)

    def all_explained(self) -> set[str]:
        """Return every text that latents of any example stand for."""
        return {text for index in range(len(self.examples)) for text in self.explained_at(index, 0)}

    def weights(self) -> dict[str, float]:
        """Return the weights of the parts that the teacher adds to the loss."""
        return {"teacher": self.settings.teacher_weight, "distillation": self.settings.distillation_weight}


@dataclass(frozen=True, slots=True)
class Teacher:
    """The teacher's batch of a micro-batch, and the cells (row * T + column) of the token before each answer, [B].

    ``weights``: of the parts that it adds to the loss.
    """

    weights: Mapping[str, float]
    batch: LatentBatch
    cells: Tensor
    student_cells: Tensor

    def to(self, device: torch.device) -> Teacher:
        """The same on ``device``."""
        return Teacher(self.weights, self.batch.to(device), self.cells.to(device), self.student_cells.to(device))

    @property
    def counts(self) -> dict[str, float]:
        """What its parts are means over: labelled tokens, and rows."""
        return {"teacher": float((self.batch.labels != IGNORED).sum()), "distillation": float(len(self.cells))}

    def parts(self, backbone: Backbone, student: LayerStates, *, checkpointing: bool) -> dict[str, Tensor]:
        """Run the teacher's task; returns its cross-entropy ("teacher"), and the "distillation" of its states."""
        states = LayerStates(self.cells)
        hidden = text_forward(backbone, self.batch, checkpointing=checkpointing, states=states)
        return {
            "teacher": cross_entropy(backbone, hidden, self.batch.labels),
            "distillation": distillation(student.states(), states.states()),
        }


def cells_from_end(batch: LatentBatch, from_end: Sequence[int]) -> Tensor:
    """Return the cells [B] of one token in each of the first rows: so many tokens from the row's end (1: the last)."""
    columns = [int(batch.attention_mask[row].nonzero()[-count]) for row, count in enumerate(from_end)]
    return torch.arange(len(columns)) * batch.input_ids.shape[1] + torch.tensor(columns)


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the smooth L1 distance of states [L + 1, B, D], over the teacher's standard deviation, mean over layers.

    The teacher's states are constant. The deviation is that of a row's own state; the released code takes that of all
    rows of a micro-batch, so that its loss depends on how a batch is cut.
    """
    constant = teacher.detach().float()
    distances = smooth_l1_loss(student.float(), constant, reduction="none").mean(-1)
    return (distances / constant.std(-1)).mean()
