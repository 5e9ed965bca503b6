"""Results in order, with prose, in one HTML file."""

from .report import Report

__all__ = ["Report"]
