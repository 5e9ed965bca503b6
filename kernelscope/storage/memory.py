"""A store in memory, for what need not survive.

It takes and gives the same things as `Store`, and refuses the same things, so that what was kept in memory can always
be kept in a folder later. There are no bytes to doubt, so its segments have no checksum.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .copies import copied
from .manifest import META_LIMIT, SEGMENT_META_LIMIT, Segment, check_kind, find, head
from .segment import dense
from .strict import plain

if TYPE_CHECKING:
    from torch import Tensor


class MemoryStore:
    """Segments of tensors in memory, with the interface of `Store`; nothing is written anywhere.

    Args:
        kind: What the store holds, in one word.
        meta: What it says about itself.

    Example:
        >>> import torch
        >>> from kernelscope.storage import MemoryStore
        >>> store = MemoryStore("run", {"seed": 0})
        >>> store.append({"weight": torch.ones(2)}, meta={"step": 0}).name
        'segment-00000000.safetensors'
        >>> store.read(0)["weight"]
        tensor([1., 1.])
    """

    path = None

    def __init__(self, kind: str, meta: dict[str, Any] | None = None) -> None:
        self.kind = check_kind(kind)
        self._meta = plain(meta, META_LIMIT)
        self._segments: tuple[Segment, ...] = ()
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._next = 0

    @property
    def meta(self) -> dict[str, Any]:
        """What the store says about itself, as a copy."""
        return copy.deepcopy(self._meta)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Every segment, oldest first."""
        return self._segments

    @property
    def nbytes(self) -> int:
        """The bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def __repr__(self) -> str:
        return f"MemoryStore(kind={self.kind!r}, {len(self._segments)} segments, {self.nbytes:,} bytes)"

    def append(self, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> Segment:
        """Keep copies of the tensors as one more segment."""
        entry = plain(meta, SEGMENT_META_LIMIT)
        kept = {name: copied(tensor) for name, tensor in dense(tensors).items()}
        size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
        segment = Segment(f"segment-{self._next:08d}.safetensors", size, "", entry)
        self._tensors[segment.name] = kept
        self._segments = (*self._segments, segment)
        self._next += 1
        return segment

    def commit(self, meta: dict[str, Any]) -> None:
        """Replace what the store says about itself."""
        self._meta = plain(meta, META_LIMIT)

    def truncate(self, count: int, meta: dict[str, Any] | None = None) -> None:
        """Keep the first ``count`` segments only."""
        said = self._meta if meta is None else plain(meta, META_LIMIT)
        self.drop([segment.name for segment in self._segments[head(self._segments, count) :]])
        self._meta = said

    def drop(self, names: Iterable[str]) -> None:
        """Forget the segments of these names."""
        gone = {find(self._segments, name, self).name for name in names}
        self._segments = tuple(segment for segment in self._segments if segment.name not in gone)
        for name in gone:
            del self._tensors[name]

    def read(self, segment: int | str | Segment) -> dict[str, Tensor]:
        """Copies of the tensors of one segment, given by its place, its name or itself."""
        kept = self._tensors[find(self._segments, segment, self).name]
        return {name: copied(tensor) for name, tensor in kept.items()}

    def close(self) -> None:
        """Nothing is open; here so that both stores are used alike."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
