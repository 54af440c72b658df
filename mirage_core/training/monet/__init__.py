"""Monet (arXiv 2511.21395): latents aligned with the states of a teacher that sees the auxiliary image."""
