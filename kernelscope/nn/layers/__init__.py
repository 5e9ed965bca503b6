"""Layers as products of features, made of trained ones."""
