"""Kernel machines: what a solver's coefficients are a function of, and how one is fitted."""
