"""GRPO over answers with latent spans: rollouts, rewards, advantages, the policy loss."""
