"""A trained model behind an OpenAI-compatible API that thinks in latents: one engine, one process."""
