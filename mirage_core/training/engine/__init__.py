"""Engines: backward, clipping and optimizer steps, by plain torch or DeepSpeed, behind one protocol."""
