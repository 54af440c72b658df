"""Warm-up of a randomly initialised base model: it learns to see, not to plan."""
