"""Adapters of random features: placed, trained, kept."""
