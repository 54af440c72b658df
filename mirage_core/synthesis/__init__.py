"""Auxiliary images: what a reasoning chain imagines, drawn from the solver's knowledge."""

from mirage_core.synthesis.draw import draw_auxiliary_images, iter_auxiliary_images

__all__ = ["draw_auxiliary_images", "iter_auxiliary_images"]
