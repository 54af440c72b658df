"""Latent spans: their tokens, their targets, and how they are laid out in a batch."""
