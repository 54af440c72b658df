"""Stepwise grounding: each rolled-out latent is held to its frame of a film, by where it changed and what is there."""
