"""Latent spans: their tokens, their targets, and how examples are encoded and collated."""
