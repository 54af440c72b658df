"""The flows, read top to bottom, and the command line that starts them."""

from mirage_core.methods import import_registered

import_registered()
