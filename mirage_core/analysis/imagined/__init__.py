"""The imagined film: what the heads of stepwise grounding read off the latents of an answer, beside the true film."""
