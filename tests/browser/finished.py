"""What the run that most of these tests look at was told to do: train and judge all there is."""

from mirage_core.methods import METHODS as KNOWN_METHODS
from mirage_core.pipeline.registry import STAGES

SEED = 103
METHODS: tuple[str, ...] = tuple(KNOWN_METHODS)
TRAINED = tuple(name for name, stage in STAGES.items() if stage.kind == "model")
SECTIONS = ("film", "pooler", "pooled", "monet_warmup", "monet_targets", "monet")
# What micro does not train of its own accord: a film, targets learned from the answer, and Monet.
ALSO_TRAINED = (
    "auxiliary_images.film=forward",
    *(f"{section}.{name}" for section in SECTIONS for name in ("steps=20", "batch_size=8")),
)
OVERRIDES = (f"seed={SEED}", f"evaluation.methods=[{','.join(METHODS)}]", *ALSO_TRAINED)
