"""Training: losses, programs, the engines under them, and the processes they run in."""
