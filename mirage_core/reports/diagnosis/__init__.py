"""The diagnosis report: what latents carry and whether answers depend on them."""
