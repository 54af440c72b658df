"""Supervised fine-tuning, with latent spans or without: programs, losses, latent noise."""
