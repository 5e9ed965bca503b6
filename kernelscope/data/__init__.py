"""Real data that needs no download."""

from .handwritten import Digits, digits

__all__ = ["Digits", "digits"]
