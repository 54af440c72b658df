"""Supervised fine-tuning with latent spans: the losses of both stages, and latent noise."""
