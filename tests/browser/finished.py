"""What the run that most of these tests look at was told to do."""

SEED = 103
METHODS = ("zero-shot", "direct-sft", "capimagine", "stage-1", "stage-2", "grpo")
TRAINED = ("base", "direct-sft", "capimagine", "grounding", "relaxation", "grpo")
OVERRIDES = (f"seed={SEED}", f"evaluation.methods=[{','.join(METHODS)}]")
