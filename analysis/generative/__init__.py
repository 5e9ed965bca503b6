"""Experiments on generative models that need many trainings."""
