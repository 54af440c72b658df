"""Decoder layers for passes of one token a row in few operations: what a small or single-token pass costs on a GPU is
the launch of its kernels. See docs/latent-engine.md.
"""
