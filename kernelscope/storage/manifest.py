"""The table of contents of a store.

``manifest.json`` is canonical JSON, ``{"body": {...}, "sha256": "<of the canonical body>"}``: keys sorted, no spaces,
ASCII, finite numbers. What is read is written again and compared byte for byte, so no bit of it can change unseen.
It lists every segment with its size and checksum. After every 256 segments the list is sealed into a part, a file of
its own that the manifest names with *its* size and checksum, so that a commit costs the same after a million segments.
Names carry a number that is never used twice: a name, once committed, stands for the same bytes for ever.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import DataError, StoreCorrupt, StoreError
from .files import read_file
from .strict import corrupt, parse, sealed, unsafe

NAME = "manifest.json"
VERSION = 1
SEAL = 256
LIMIT = 32 * 2**20
META_LIMIT = 8 * 2**20
SEGMENT_META_LIMIT = 32 * 2**10
SEGMENT_LIMIT = 2**36

SEGMENT_NAME = re.compile(r"segment-(\d{8})\.safetensors", re.ASCII)
PART_NAME = re.compile(r"manifest-(\d{8})\.json", re.ASCII)
# Every file that a store may make, finished or not.
OWN_NAME = re.compile(r"(manifest\.json|(manifest|segment)-(?P<number>\d{8})\.(json|safetensors))(\.part)?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[A-Za-z0-9_./-]{1,64}")


@dataclass(frozen=True)
class Segment:
    """One write-once file of a store: its name, its number of bytes, their sha256, and a few words about it."""

    name: str
    size: int
    sha256: str
    meta: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Part:
    """A sealed list of segments in a file of its own."""

    name: str
    size: int
    sha256: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Manifest:
    """One commit: what kind of store it is, what it says about itself, and which segments it has, oldest first."""

    kind: str
    meta: dict[str, Any]
    parts: tuple[Part, ...] = ()
    tail: tuple[Segment, ...] = ()
    next: int = 0

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Every segment, oldest first."""
        return (*(segment for part in self.parts for segment in part.segments), *self.tail)

    @property
    def files(self) -> set[str]:
        """The names of all files this commit needs."""
        return {NAME, *(part.name for part in self.parts), *(segment.name for segment in self.segments)}

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``."""
        body = {
            "format": "kernelscope store",
            "version": VERSION,
            "kind": self.kind,
            "meta": self.meta,
            "next": self.next,
            "parts": [
                {"name": part.name, "size": part.size, "sha256": part.sha256, "count": len(part.segments)}
                for part in self.parts
            ],
            "segments": [vars(segment) for segment in self.tail],
        }
        data = sealed(body)
        if len(data) > LIMIT:
            raise DataError(
                f"The store's manifest would have {len(data):,} bytes, and at most {LIMIT:,} are read again. Keep "
                "large lists as tensors in a segment, not in meta; nothing was written."
            )
        return data

    def append(self, segment: Segment) -> Manifest:
        """The commit with one more segment."""
        return replace(self, tail=(*self.tail, segment), next=self.next + 1)

    def seal(self, name: str) -> tuple[Manifest, bytes]:
        """The commit whose tail has become the part ``name``, and the bytes of that part."""
        part, data = seal(name, self.tail)
        return replace(self, parts=(*self.parts, part), tail=(), next=self.next + 1), data

    def without(self, names: set[str]) -> tuple[Manifest, dict[str, bytes]]:
        """The commit without the segments ``names``, and the parts to write for it; other parts stay."""
        parts: list[Part] = []
        written: dict[str, bytes] = {}
        number = self.next
        for part in self.parts:
            kept = tuple(segment for segment in part.segments if segment.name not in names)
            if len(kept) == len(part.segments):
                parts.append(part)
            elif kept:
                part, data = seal(f"manifest-{number:08d}.json", kept)
                parts.append(part)
                written[part.name] = data
                number += 1
        tail = tuple(segment for segment in self.tail if segment.name not in names)
        return replace(self, parts=tuple(parts), tail=tail, next=number), written


def find(segments: tuple[Segment, ...], key: int | str | Segment, where: object) -> Segment:
    """The segment at the place ``key``, or of that name, or equal to it."""
    if isinstance(key, int):
        if not -len(segments) <= key < len(segments):
            raise StoreError(f"{where} has {len(segments)} segments, and number {key} was asked for. Count from 0.")
        return segments[key]
    name = key.name if isinstance(key, Segment) else key
    place = bisect_left(segments, name, key=lambda segment: segment.name)
    found = segments[place] if place < len(segments) else None
    if found is None or found.name != name or (isinstance(key, Segment) and key != found):
        raise StoreError(
            f"{where} has no segment {str(name)[:100]!r}: it was dropped, or belongs to another store. Its segments "
            "are in .segments; after refresh() they are those of the last commit."
        )
    return found


def head(segments: tuple[Segment, ...], count: int) -> int:
    """``count`` if that many segments can be kept."""
    if type(count) is not int or not 0 <= count <= len(segments):
        raise DataError(f"Of {len(segments)} segments the first {count!r} cannot be kept. Give a number from 0 to all.")
    return count


def seal(name: str, segments: tuple[Segment, ...]) -> tuple[Part, bytes]:
    """The part ``name`` with these segments, and its bytes."""
    data = sealed({"segments": [vars(segment) for segment in segments]})
    return Part(name, len(data), hashlib.sha256(data).hexdigest(), segments), data


def load(folder: Path) -> Manifest:
    """The last commit in ``folder``.

    Raises:
        StoreError: There is none, or a newer kernelscope wrote it.
        StoreCorrupt: Its bytes are not the bytes that were written.
        UnsafeFile: It asks for something that no store asks for.
    """
    data = _read_manifest(folder)
    while True:
        try:
            return _decode(folder, data)
        except FileNotFoundError as error:
            # A writer may have sealed and dropped parts since the manifest was read: then there is a newer one.
            newer = _read_manifest(folder)
            if newer == data:
                raise StoreCorrupt(
                    f"{error.filename} is missing, and {folder / NAME} names it. It was deleted by hand, or a copy of "
                    "the folder is incomplete; the segments it lists cannot be found without it. Restore it."
                ) from error
            data = newer


def exists(folder: Path) -> bool:
    """Whether ``folder`` holds a manifest, sound or not."""
    return (folder / NAME).is_symlink() or (folder / NAME).exists()


def check_kind(kind: str) -> str:
    """``kind`` if it can name a kind of store."""
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise DataError(
            f"A store's kind is one word of letters, digits and _./-, at most 64 of them: it is {str(kind)[:100]!r}. "
            'Name it like "run" or "result"; nothing was written.'
        )
    return kind


def _read_manifest(folder: Path) -> bytes:
    try:
        data = read_file(folder, NAME, LIMIT)
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder} holds no store: there is no {NAME} in it. Check the path; nothing was written or changed."
        ) from error
    assert data is not None
    return data


def _unseal(data: bytes, where: Path) -> Any:
    outer = parse(data, where)
    if not isinstance(outer, dict) or set(outer) != {"body", "sha256"}:
        raise corrupt(where, 'it does not have the form {"body": ..., "sha256": ...}')
    try:
        expected = sealed(outer["body"])
    except (ValueError, RecursionError) as error:
        raise corrupt(where, f"its body cannot be written again: {error}") from error
    if expected != data:
        raise corrupt(where, "its checksum does not agree with its body")
    return outer["body"]


def _decode(folder: Path, data: bytes) -> Manifest:
    where = folder / NAME
    body = _unseal(data, where)
    if not isinstance(body, dict) or body.get("format") != "kernelscope store":
        raise corrupt(where, "it is not the manifest of a kernelscope store")
    version = body.get("version")
    if type(version) is int and version > VERSION:
        raise StoreError(
            f"{where} was written by a newer kernelscope, in version {version}; this one reads up to {VERSION}. "
            "Install a newer kernelscope; nothing was changed."
        )
    _fields(body, {"format", "version", "kind", "meta", "next", "parts", "segments"}, where)
    kind, meta, following = body["kind"], body["meta"], body["next"]
    if version != VERSION or type(version) is not int:
        raise unsafe(where, "its version is not a version")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind) or not isinstance(meta, dict):
        raise unsafe(where, "its kind or its meta is of the wrong type")
    _whole(following, 10**8, "its next number", where)
    parts: list[Part] = []
    for row in _list(body["parts"], where):
        _fields(row, {"name", "size", "sha256", "count"}, where)
        name, size, sha256 = _file(row, PART_NAME, LIMIT, where)
        content = read_file(folder, name, LIMIT, size)
        inner = folder / name
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            raise corrupt(inner, f"its bytes are not the {size:,} bytes the manifest names")
        segments = _unseal(content, inner)
        _fields(segments, {"segments"}, inner)
        part = Part(name, size, sha256, tuple(_segments(segments["segments"], inner)))
        if type(row["count"]) is not int or row["count"] != len(part.segments):
            raise unsafe(inner, "it does not hold as many segments as the manifest says")
        parts.append(part)
    manifest = Manifest(kind, meta, tuple(parts), tuple(_segments(body["segments"], where)), following)
    _check_numbers(manifest, where)
    return manifest


def _segments(rows: Any, where: Path) -> Iterator[Segment]:
    for row in _list(rows, where):
        _fields(row, {"name", "size", "sha256", "meta"}, where)
        if not isinstance(row["meta"], dict):
            raise unsafe(where, "a segment's meta is not an object")
        yield Segment(*_file(row, SEGMENT_NAME, SEGMENT_LIMIT, where), row["meta"])


def _file(row: dict[str, Any], pattern: re.Pattern[str], limit: int, where: Path) -> tuple[str, int, str]:
    name, size, sha256 = row["name"], row["size"], row["sha256"]
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise unsafe(where, f"it names a file {str(name)[:100]!r}, and a store has no file of that name")
    _whole(size, limit, f"the size of {name}", where)
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise unsafe(where, f"the checksum of {name} is not a checksum")
    return name, size, sha256


def _check_numbers(manifest: Manifest, where: Path) -> None:
    numbers = [int(segment.name[8:16]) for segment in manifest.segments]
    sealed_numbers = [int(part.name[9:17]) for part in manifest.parts]
    rising = all(a < b for a, b in pairwise(numbers))
    if not rising or len({*numbers, *sealed_numbers}) < len(numbers) + len(sealed_numbers):
        raise unsafe(where, "it names a file twice or out of order")
    if max([*numbers, *sealed_numbers], default=-1) >= manifest.next:
        raise unsafe(where, "it names a file before its time")


def _list(value: Any, where: Path) -> list[Any]:
    if not isinstance(value, list):
        raise unsafe(where, "a list of files is not a list")
    return value


def _fields(row: Any, names: set[str], where: Path) -> None:
    if not isinstance(row, dict) or set(row) != names:
        raise unsafe(where, f"an entry does not have the fields {', '.join(sorted(names))}")


def _whole(value: Any, limit: int, what: str, where: Path) -> None:
    if type(value) is not int or not 0 <= value <= limit:
        raise unsafe(where, f"{what} is not a whole number from 0 to {limit:,}")
