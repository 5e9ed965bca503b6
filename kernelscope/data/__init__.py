"""Real data that needs no download."""

from .handwritten import Digits, digits
from .photographs import Patches, patches
from .prose import Text, paragraphs, text

__all__ = ["Digits", "Patches", "Text", "digits", "paragraphs", "patches", "text"]
