"""The model: its backbone, latent rollout, decoding, and how it is built, loaded and saved."""
