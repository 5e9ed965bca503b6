"""Gaussian processes: what a kernel believes about outputs, before and after data."""
