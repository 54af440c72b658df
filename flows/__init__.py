"""The flows, read top to bottom, and the command line that starts them."""
