"""What the run that most of these tests look at was told to do: train and judge all there is."""

from mirage_core.methods import METHODS as KNOWN_METHODS
from mirage_core.pipeline.registry import STAGES

SEED = 103
METHODS: tuple[str, ...] = tuple(KNOWN_METHODS)
TRAINED = tuple(name for name, stage in STAGES.items() if stage.kind == "model")
OVERRIDES = (f"seed={SEED}", f"evaluation.methods=[{','.join(METHODS)}]")
