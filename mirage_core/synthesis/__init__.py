"""Auxiliary images: the pictures a chain imagines, drawn from the solver's knowledge."""

from mirage_core.synthesis.draw import draw_auxiliary_images, drawn_auxiliary_images

__all__ = ["draw_auxiliary_images", "drawn_auxiliary_images"]
