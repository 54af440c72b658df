"""Figures of a page: each plot in the light and the dark theme, embedded in the page and as a file beside it."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.reports.drawings import data_uri

PAGE_WIDTH = 5.4
"""Inches: narrow enough that numbers can be read on a phone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot: its file name, its title, how to read it, and its PNG bytes in both themes.

    ``minor`` plots (the optimizer's) are collapsed on a page.
    """

    file: str
    title: str
    reading: str
    light: bytes
    dark: bytes
    minor: bool = False

    @property
    def light_uri(self) -> str:
        """The plot in the light theme as a data URI."""
        return data_uri(self.light, "png")

    @property
    def dark_uri(self) -> str:
        """The plot in the dark theme as a data URI."""
        return data_uri(self.dark, "png")
