"""A plain table as a section of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kernelscope.result import Check, Result

__all__ = ["Listing"]


@dataclass(frozen=True, eq=False, repr=False)
class Listing(Result):
    """Rows, and what they say.

    Attributes:
        said: The sentence.
        rows: A dictionary for each row, all with the same keys.
    """

    said: str
    rows: list[dict[str, Any]]

    def summary(self) -> str:
        """The sentence."""
        return self.said

    def to_frame(self) -> pd.DataFrame:
        """The rows."""
        return pd.DataFrame(self.rows)

    def check(self) -> Check:
        """Nothing: the rows are measured elsewhere."""
        return Check(())
