"""Real text that comes with Python: its language reference, and what its standard library says of itself.

Two domains: the reference (``pydoc_data.topics``) and the docstrings of single modules on one side, to learn words
from; docstrings of packages on the other, each labelled by its package.
"""

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import kernelscope as ks

#: Packages of the standard library, whose docstrings are told apart.
PACKAGES = ("asyncio", "email", "idlelib", "importlib", "logging", "tkinter", "unittest", "xml")

#: Numbers of tokens that are no words.
PADDING, UNKNOWN, FIRST = 0, 1, 2

_TOKEN = re.compile(r"[a-z]+|\d|[^\sa-z\d]")


def tokens(text: str) -> list[str]:
    """Words, digits and signs, in small letters."""
    return _TOKEN.findall(text.lower())


def reference() -> list[str]:
    """The paragraphs of the language reference, each once."""
    return [part for part in ks.data.paragraphs() if len(tokens(part)) >= 8]


def docstrings(files: Iterable[Path]) -> Iterator[str]:
    """What modules, classes and functions in files of source code say of themselves."""
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = ast.get_docstring(node)
                if said:
                    yield said


def modules() -> list[str]:
    """Docstrings of the modules of the standard library that are single files."""
    return list(dict.fromkeys(docstrings(sorted(_library().glob("*.py")))))


def package(name: str) -> list[str]:
    """Docstrings of a package of the standard library, without those of its tests."""
    files = (file for file in sorted((_library() / name).rglob("*.py"))
             if not any(part.endswith(("test", "tests")) for part in file.relative_to(_library() / name).parts))
    return list(dict.fromkeys(docstrings(files)))


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


class Words:
    """The most frequent words of some texts, by numbers."""

    def __init__(self, texts: Iterable[str], size: int):
        counts = Counter(token for text in texts for token in tokens(text))
        known = sorted(counts, key=lambda token: (-counts[token], token))[:size - FIRST]
        self.numbers = {token: i for i, token in enumerate(known, FIRST)}
        self.size = size

    def passages(self, text: str, length: int) -> list[list[int]]:
        """A text as passages of so many tokens; the last one is filled up, and left out where it is very short."""
        found = [self.numbers.get(token, UNKNOWN) for token in tokens(text)]
        parts = [found[i:i + length] for i in range(0, len(found), length)]
        return [part + [PADDING] * (length - len(part)) for part in parts if len(part) >= 6]


@dataclass(frozen=True)
class Passages:
    """Passages as rows of numbers, with their classes and the docstring that each comes from."""

    x: Tensor
    y: Tensor
    source: Tensor

    def split(self, seed: int, share: float, most: int) -> tuple["Passages", "Passages"]:
        """Some docstrings to train with and the others to test with, at most so many passages of a class to train.

        All passages of a docstring are on one side, and every class is equally frequent in both.
        """
        draw = torch.Generator().manual_seed(seed)
        test = torch.rand(int(self.source.max()) + 1, generator=draw)[self.source] < share
        order = torch.randperm(len(self.y), generator=draw)
        sides = []
        for side, limit in ((~test, most), (test, most)):
            rows = [order[(side & (self.y == c))[order]] for c in self.y.unique()]
            each = min(limit, *(len(row) for row in rows))
            chosen = torch.cat([row[:each] for row in rows])
            sides.append(Passages(self.x[chosen], self.y[chosen], self.source[chosen]))
        return sides[0], sides[1]


def next_words(x: Tensor) -> tuple[Tensor, Tensor]:
    """Passages without their last words, and the word that comes after each: -1 where it is none, or unknown."""
    after = x[:, 1:]
    return x[:, :-1], after.masked_fill(after < FIRST, PADDING - 1)


def labelled(words: Words, length: int, packages: Iterable[str] = PACKAGES) -> tuple[Passages, list[str]]:
    """Passages of the packages that this Python has, and the names of these packages."""
    x, y, source, names = [], [], [], []
    for name in packages:
        said = package(name)
        if not said:
            continue
        for text in said:
            parts = words.passages(text, length)
            x += parts
            y += [len(names)] * len(parts)
            source += [source[-1] + 1 if source else 0] * len(parts)
        names.append(name)
    return Passages(torch.tensor(x), torch.tensor(y), torch.tensor(source)), names
