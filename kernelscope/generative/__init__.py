"""Diffusion models and GANs, seen through the same nouns."""
