r"""The shape of every answer.

A result is a frozen record of named arrays and their labels. It says itself in a sentence, becomes a table, asks the
drawing room for its picture, checks its own claims, and is kept in a folder like everything else that must survive.
"""

from __future__ import annotations

import html
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from .arguments import as_place, as_switch, as_whole, what_came
from .errors import DataError, StoreCorrupt
from .storage import Store
from .text import shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

STATUSES = ("pass", "warn", "fail")


@dataclass(frozen=True)
class CheckRow:
    """One claim of a result, measured against its limit."""

    name: str
    status: str
    value: float | None
    limit: float | None
    sentence: str


@dataclass(frozen=True)
class Check:
    """What a result finds when it checks its own claims; ``ok`` when nothing failed.

    Example:
        >>> check = Check((CheckRow("completeness", "pass", 1e-16, 1e-12, "The terms add up."),))
        >>> check.ok
        True
        >>> check
        Check: 1 pass, 0 warn, 0 fail
          pass  completeness: The terms add up.
    """

    rows: tuple[CheckRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no row failed."""
        return all(row.status != "fail" for row in self.rows)

    def to_frame(self) -> pd.DataFrame:
        """One row for each claim."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=[field.name for field in fields(CheckRow)])

    def __repr__(self) -> str:
        counts = ", ".join(f"{sum(row.status == status for row in self.rows)} {status}" for status in STATUSES)
        return "\n".join([f"Check: {counts}"] + [f"  {row.status}  {row.name}: {row.sentence}" for row in self.rows])


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """Named arrays and their labels: the ground of every answer.

    A subclass is a frozen dataclass whose fields are tensors, dictionaries of tensors, other results, or plain data
    that JSON can hold (numbers, strings, lists, dictionaries, ``None``).
    """

    kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Result.kinds[cls.__name__] = cls

    @abstractmethod
    def summary(self) -> str:
        """The answer in one sentence, with its numbers."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The answer as a tidy table."""

    @abstractmethod
    def check(self) -> Check:
        """The claims of this result, each measured against its limit."""

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draws the result on ``ax``, or on a new figure, and returns the axes."""
        # The one door that goes up: a result asks the drawing room for its picture.
        from . import plots

        return plots.draw(self, ax, **options)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        summary = html.escape(self.summary())
        table = self.to_frame().head(10).to_html(index=False, border=0, escape=True, float_format=lambda v: f"{v:.4g}")
        checks = "".join(
            f"<li>{html.escape(row.status)}: {html.escape(row.sentence)}</li>" for row in self.check().rows
        )
        return shown(
            f'<div class="kernelscope"><p>{summary}</p><details><summary>table</summary>{table}</details>'
            f"<details><summary>checks</summary><ul>{checks}</ul></details></div>", keep="\n\t"
        )

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Keeps the result in the folder ``path``: a manifest, and its tensors with their checksums."""
        overwrite = as_switch(overwrite, "overwrite")
        tensors: dict[str, Tensor] = {}
        plain = taken_apart(self, "", tensors)
        Store.create(path, kind="result", meta={"class": type(self).__name__, "fields": plain}, overwrite=overwrite,
                     first=tensors).close()
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Opens a saved result; every checksum is verified and nothing is ever unpickled."""
        store = Store.open(path, kind="result")
        name = store.meta.get("class")
        # A result can only be of a class this package defines; the file gives a name, never code.
        kind = Result.kinds.get(name) if isinstance(name, str) else None
        if kind is None or not issubclass(kind, cls):
            raise StoreCorrupt(
                f"{path} holds a result called {name!r}, and {cls.__name__} was needed. "
                f"Load it with the class that saved it; known are {', '.join(sorted(Result.kinds))}."
            )
        tensors = store.read(0)
        loaded = put_together(store.meta["fields"], tensors, path)
        if not isinstance(loaded, cls):
            raise StoreCorrupt(f"{path} says that it holds a {name}, but its content is another. Save it again.")
        return loaded


def taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Moves the tensors out of a nested value; what is left is plain JSON that says where they go."""
    if isinstance(value, Result):
        inner = {f.name: taken_apart(getattr(value, f.name), f"{name}{f.name}.", tensors) for f in fields(value)}
        return {"result": type(value).__name__, "fields": inner}
    if isinstance(value, Tensor):
        key = name.rstrip(".")
        tensors[key] = value.detach().cpu()
        return {"tensor": key}
    if isinstance(value, dict) and any(isinstance(v, Tensor | Result) for v in value.values()):
        # Manifests have sorted keys, so the order is written beside them.
        return {"map": {key: taken_apart(item, f"{name}{key}.", tensors) for key, item in value.items()},
                "order": list(value)}
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor | Result) for v in value):
        return {"list": [taken_apart(item, f"{name}{index}.", tensors) for index, item in enumerate(value)]}
    json.dumps(value, allow_nan=False)
    return {"plain": value}


def put_together(value: Any, tensors: dict[str, Tensor], path: str | Path) -> Any:
    """The nested value that was taken apart.

    Raises:
        StoreCorrupt: If it is none.
    """
    match value:
        case {"tensor": str(key)} if key in tensors:
            return tensors[key]
        case {"map": dict(items), **rest} if set(rest) <= {"order"}:
            order = rest.get("order", list(items))
            if isinstance(order, list) and sorted(map(str, order)) == sorted(items):
                return {key: put_together(items[key], tensors, path) for key in map(str, order)}
        case {"list": list(items)}:
            return [put_together(item, tensors, path) for item in items]
        case {"plain": plain}:
            return plain
        case {"result": str(name), "fields": dict(inner)} if name in Result.kinds:
            kind = Result.kinds[name]
            needed = {f.name for f in fields(kind)}
            if set(inner) == needed:
                return kind(**{key: put_together(item, tensors, path) for key, item in inner.items()})
    raise StoreCorrupt(
        f"{path} does not hold the fields of a result of this version (found {str(value)[:80]!r}). "
        "It was changed, or saved by another version; compute the result again and save it."
    )


def rows_of(index: Any, count: int) -> Tensor:
    """The places that an index picks out of ``count`` queries, with shape :math:`(m,)`.

    Raises:
        OutOfRange: If one of them is beyond the last.
        DataError: If it is no index.
    """
    if as_whole(index) is not None:
        return torch.tensor([as_place(index, "index", count, "queries")])
    try:
        if isinstance(index, slice):
            return torch.tensor(range(count)[index], dtype=torch.long)
        if not isinstance(index, str | bytes | dict) and hasattr(index, "__len__"):
            places = torch.as_tensor(index)
            if places.dtype == torch.bool and places.shape == (count,):
                return places.nonzero().flatten()
            if places.ndim == 1 and (not places.numel() or places.dtype != torch.bool):
                return torch.tensor([as_place(i, "index", count, "queries") for i in places.tolist()],
                                    dtype=torch.long)
    # What is no list of numbers is refused by one of these.
    except (TypeError, ValueError, RuntimeError):
        pass
    raise DataError(
        f"Queries are picked by a number, a slice, a list of numbers, or a mask of {count} entries; {what_came(index)} "
        "came. Pass for example [0], [:2] or [[0, 1]]."
    )


def as_float64(values: Tensor) -> Tensor:
    """A float64 copy on the CPU, detached: the form in which every ledger is kept."""
    return values.detach().to("cpu", torch.float64)
