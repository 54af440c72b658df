"""Jigsaw: an image without its lower right quarter, the piece that fits, and one that does not."""

from mirage_core.worlds.jigsaw.cut import Jigsaw, cut_jigsaw, near_piece, same_piece
from mirage_core.worlds.jigsaw.random_image import draw_image
from mirage_core.worlds.jigsaw.stitch import stitch, stitched

__all__ = ["Jigsaw", "cut_jigsaw", "draw_image", "near_piece", "same_piece", "stitch", "stitched"]
