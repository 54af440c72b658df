"""Explicit visual tokens: pictures as codes of a codebook, each a word of the vocabulary."""
