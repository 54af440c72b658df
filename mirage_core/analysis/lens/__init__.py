"""Latent lens: which words, image patches and images a latent's hidden state is closest to."""
