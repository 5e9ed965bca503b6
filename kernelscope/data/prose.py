"""Real text that comes with Python: the paragraphs of its language reference, in windows of characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.utils.data import TensorDataset

from ..arguments import as_choice, as_count, as_seed
from ..errors import DataError

#: The characters that are told apart; the last one stands for all others.
CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()[]{}<>=+-*/_%&|@#$^~`\\·"

#: One paragraph of so many is for tests.
EVERY = 5


class Text(TensorDataset):
    """Windows of text as a data set of pairs (x, y): characters, and the character that comes after each.

    Attributes:
        characters: What the numbers stand for.
        split: ``"train"`` or ``"test"``.
    """

    characters = CHARACTERS

    def __init__(self, x: torch.Tensor, y: torch.Tensor, split: str) -> None:
        super().__init__(x, y)
        self.split = split

    @property
    def x(self) -> torch.Tensor:
        """The characters, with shape :math:`(n, T)`."""
        return self.tensors[0]

    @property
    def y(self) -> torch.Tensor:
        """The character after each of them, with shape :math:`(n, T)`."""
        return self.tensors[1]

    @classmethod
    def encode(cls, text: str) -> torch.Tensor:
        """A text as numbers, with shape :math:`(T,)`."""
        return torch.tensor([CHARACTERS.find(c) if c in CHARACTERS else len(CHARACTERS) - 1 for c in text.lower()])

    @classmethod
    def decode(cls, numbers: torch.Tensor | Sequence[int]) -> str:
        """The text that numbers stand for."""
        return "".join(CHARACTERS[int(i)] for i in numbers)

    def __repr__(self) -> str:
        return (f"Text(split={self.split!r}, {len(self)} windows of {self.x.shape[1]} characters, "
                f"{len(CHARACTERS)} kinds)")


@lru_cache(maxsize=1)
def paragraphs() -> tuple[str, ...]:
    """The paragraphs of Python's language reference, each once, in a fixed order.

    Raises:
        DataError: If this Python came without its reference.

    Example:
        >>> len(paragraphs()) > 1000
        True
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError("The text is Python's own language reference, pydoc_data, which this Python came without. "
                        "Install the full standard library, or pass text of your own to the network.") from error
    found = (part for topic in sorted(topics) for part in re.split(r"\n\s*\n", topics[topic]))
    return tuple(dict.fromkeys(found))


def text(split: str = "train", count: int = 1024, length: int = 32, seed: int = 0) -> Text:
    r"""Windows of English text, with inputs :math:`x` and the next characters :math:`y`, both of shape (n, T) in int64.

    The text is Python's language reference in small letters, with single spaces. A window lies within one paragraph,
    and every fifth paragraph is for tests, so that no window of training holds text of a test. What there is depends on
    the version of Python.

    Args:
        split: ``"train"`` or ``"test"``.
        count: How many windows.
        length: How many characters each has.
        seed: Names the windows that are drawn.

    Raises:
        DataError: If there is no such split, or no paragraph is as long.

    References:
        The Python Language Reference, https://docs.python.org/3/reference, Python Software Foundation licence

    Example:
        >>> some = text("train", count=8, length=16)
        >>> some.x.shape, bool((some.x[:, 1:] == some.y[:, :-1]).all())
        (torch.Size([8, 16]), True)
    """
    split = as_choice(split, "split", ("train", "test"))
    count, length = as_count(count, "count", least=1), as_count(length, "length", least=1)
    held = [" ".join(part.split()).lower() for part in paragraphs()]
    own = [part for i, part in enumerate(held) if (i % EVERY == EVERY - 1) == (split == "test") and len(part) > length]
    if not own:
        raise DataError(f"No paragraph has more than {length} characters, so there is no window of length={length}. "
                        "Ask for shorter ones.")
    lengths = torch.tensor([len(part) - length for part in own])
    draw = torch.Generator().manual_seed(as_seed(seed, "seed"))
    starts = torch.randint(int(lengths.sum()), (count,), generator=draw)
    ends = lengths.cumsum(0)
    which = torch.searchsorted(ends, starts, right=True)
    rows = []
    for place, start in zip(which.tolist(), (starts - ends[which] + lengths[which]).tolist(), strict=True):
        rows.append(Text.encode(own[place][start:start + length + 1]))
    windows = torch.stack(rows)
    return Text(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), split)
