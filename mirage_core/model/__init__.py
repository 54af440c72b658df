"""The model: backbone, latent rollout, LoRA adapters, processor; building, loading, saving and export."""
