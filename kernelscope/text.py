"""Words that came from data, as they can be shown.

A class name, a title or a path may hold letters that nobody sees and that change what others see: control characters,
which no page or drawing may hold, and marks of direction, which turn the numbers behind them round, so that 44.0 is
read as 0.44. Each is shown as �. The words themselves, in results and tables of data, stay as they were given.
"""

from __future__ import annotations

import unicodedata

#: Marks, embeddings, overrides and isolates of direction; letters of any script need none of them.
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

#: Controls, halves of surrogate pairs, and ends of lines and paragraphs that are no newline.
UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))


def shown(text: str, keep: str = "") -> str:
    r"""A text in which every letter that would be unseen or turn others round is �.

    Args:
        text: The text.
        keep: Control characters that mean what they say, such as ``"\n"``.

    Example:
        >>> shown("\u202edog\x00"), shown("a\nb", keep="\n"), shown("שלום naïve 犬")
        ('�dog�', 'a\nb', 'שלום naïve 犬')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or is_shown(letter) else "\ufffd" for letter in text)


def is_shown(letter: str) -> bool:
    """Whether a letter stands for itself alone."""
    # The last two code points of each plane are no characters, and XML refuses them.
    return not (letter in DIRECTIONS or unicodedata.category(letter) in UNSEEN or ord(letter) & 0xFFFE == 0xFFFE)


def escaped(text: str) -> str:
    r"""JSON text in which these letters are written by their numbers, so that a program reads them as they were.

    Example:
        >>> escaped('"\u202edog"')
        '"\\u202edog"'
    """
    return "".join(letter if letter in "\n\t" or is_shown(letter) else _number(letter) for letter in text)


def _number(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def with_minus(text: str) -> str:
    """A printed number, or several, with the sign of subtraction instead of a hyphen.

    Example:
        >>> with_minus("-2.59, 1e-07")
        '−2.59, 1e−07'
    """
    return text.replace("-", "−")
