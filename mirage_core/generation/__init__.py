"""A model answers a problem: decoding with latent spans, sampling, interventions, and the trajectory of an answer."""
