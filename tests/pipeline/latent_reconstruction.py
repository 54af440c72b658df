"""A method of one's own: one record for its stage, one for the method, and a loss. MIRAGE_METHODS names this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirage_core.methods import Method, Program, TrainStage, register

if TYPE_CHECKING:
    from mirage_core.model.backbone import Backbone
    from mirage_core.training.objective import LossParts
    from mirage_core.training.sft.losses import LossInputs


def reconstruction_loss(backbone: Backbone, inputs: LossInputs) -> LossParts:
    """The text's cross-entropy, and the squared distance of the latents from the auxiliary image's features."""
    from torch.nn.functional import mse_loss

    from mirage_core.model.forward.grounding import grounding_forward
    from mirage_core.training.objective import LossParts
    from mirage_core.training.sft.losses import cross_entropy

    output = grounding_forward(backbone, inputs.batch, inputs.latent.compression)
    visual = mse_loss(output.predicted.float(), output.targets.float())
    parts = {"text": cross_entropy(backbone, output.hidden, inputs.batch.labels), "visual": visual}
    return LossParts.sum(parts, {"text": 1.0, "visual": 0.5})


register(
    TrainStage(
        name="latent-reconstruction",
        label="Latent reconstruction",
        program=Program(
            name="reconstruction",
            title="latent reconstruction",
            section="grounding",
            loss=reconstruction_loss,
            latents="teacher_forced",
        ),
        start="base",
        data="examples",
    ),
    Method(name="reconstruction", label="Latent reconstruction (squared error)", stage="latent-reconstruction"),
)
