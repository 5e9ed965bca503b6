"""Real data that needs no download."""

from .handwritten import Digits, digits
from .photographs import Patches, patches

__all__ = ["Digits", "Patches", "digits", "patches"]
