"""The pictures of one page, and how many of them it may hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .. import pictures

#: Values shown of an input that is no picture.
FEW_VALUES = 3


@dataclass
class Album:
    """Gives out pictures until the page has enough of them; what comes later is shown without.

    Attributes:
        samples: How many different training samples the page may show as pictures.
        size: How many bytes all pictures together may take.
    """

    samples: int
    size: int
    used: int = 0
    left_out: int = 0
    _known: set[tuple[str, int]] = field(default_factory=set)
    _refused: set[tuple[str, int]] = field(default_factory=set)

    def sample(self, source: str, id: int, x: Tensor, low: float, high: float) -> dict[str, str]:
        """The picture of one training sample, or its values in words, or nothing once the page has enough."""
        key = (source, id)
        if key not in self._known and len(self._known) >= self.samples:
            return self._refuse(key)
        view = self._picture(x, low, high, side=64)
        if view is None:
            return self._refuse(key)
        self._known.add(key)
        return view

    def query(self, x: Tensor, low: float, high: float, side: int) -> dict[str, str]:
        """The picture of an explained input, or its values in words."""
        view = self._picture(x, low, high, side)
        return {"uri": "", "words": ""} if view is None else view

    def notice(self) -> str:
        """What the page left out, or nothing."""
        if not self.left_out:
            return ""
        return (
            f"This page shows {len(self._known)} training samples as pictures or values; {self.left_out} more are "
            "listed by id and share only. The result's to_frame() has them all."
        )

    def _refuse(self, key: tuple[str, int]) -> dict[str, str]:
        self.left_out += key not in self._refused
        self._refused.add(key)
        return {"uri": "", "words": ""}

    def _picture(self, x: Tensor, low: float, high: float, side: int) -> dict[str, str] | None:
        if pictures.picture_shape(x.shape) is None:
            return {"uri": "", "words": pictures.words(x, FEW_VALUES)}
        uri = pictures.data_uri(pictures.png(x, low, high, side))
        if self.used + len(uri) > self.size:
            return None
        self.used += len(uri)
        return {"uri": uri, "words": ""}
