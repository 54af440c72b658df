"""The training forward pass: latent spans are rolled out in k + 1 passes over one batch."""
