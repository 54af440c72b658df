"""The readers of answers, one for option letters and one for moves, and the readings of earlier versions."""
