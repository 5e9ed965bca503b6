"""The rows of the battery, one file for each family of faults."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..row import Row

FAMILIES = __name__

# The files of the families, each with a tuple ROWS of classes.
NAMES: tuple[str, ...] = (
    "recording",
    "storage",
    "damage",
    "hostile",
    "crowds",
    "paths",
    "surroundings",
    "non_finite",
    "conditioning",
    "alike",
    "degenerate",
    "mismatches",
    "models",
    "budgets",
    "interrupted",
    "hostile_words",
    "precision",
    "derivatives",
    "absent",
    "processes",
)


def known_rows(module: str = FAMILIES) -> dict[str, Row]:
    """The rows that a module lists in ``ROWS``, or in the files it lists in ``NAMES``, by their ids and in their order.

    Example:
        >>> all(name.startswith("F") for name in known_rows())
        True
    """
    listed = import_module(module)
    kinds = list(getattr(listed, "ROWS", ()))
    for name in getattr(listed, "NAMES", ()):
        kinds += import_module(f"{module}.{name}").ROWS
    rows = [kind() for kind in kinds]
    return {row.id: row for row in sorted(rows, key=lambda row: int(row.id[1:]))}
