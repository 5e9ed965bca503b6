"""JSON that can be written in one way only, and is read in no other.

Keys are sorted, nothing is spaced, every character is ASCII and every number finite: equal values have equal bytes.
What reading refuses, writing cannot make.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DataError, StoreCorrupt, UnsafeFile

DEPTH = 40
META_DEPTH = 30
# A string, or a bracket outside one. It matches at every quotation mark, so it never looks at a byte twice.
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def canonical(value: object) -> bytes:
    """The one way to write ``value`` as JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sealed(body: object) -> bytes:
    """``body`` as canonical JSON with its checksum."""
    text = canonical(body)
    return b'{"body":%b,"sha256":"%b"}' % (text, hashlib.sha256(text).hexdigest().encode())


def parse(data: bytes, where: Path, depth: int = DEPTH) -> Any:
    """Strict JSON: no key twice, no NaN, not nested deeper than ``depth``.

    Raises:
        StoreCorrupt: It is not JSON.
        UnsafeFile: It is JSON that kernelscope would not write.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise corrupt(where, f"it is not text: byte {error.start} is not UTF-8") from error
    level = 0
    for bracket in _BRACKETS.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket[0], 0)
        if level > depth:
            raise unsafe(where, f"its JSON is nested deeper than {depth}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise unsafe(where, "its JSON has a key twice")
        return found

    def constant(word: str) -> NoReturn:
        raise unsafe(where, f"its JSON holds {word}")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise corrupt(where, f"it is not JSON: {error}") from error


def plain(meta: dict[str, Any] | None, limit: int) -> dict[str, Any]:
    """A copy of ``meta`` that comes back from JSON as it went in; tuples become lists.

    Raises:
        DataError: It holds something that does not, or is larger than ``limit`` bytes as JSON.
    """
    copy = _plain({} if meta is None else meta, "meta", META_DEPTH)
    if not isinstance(copy, dict):
        raise DataError(f"meta must be a dict with text keys: it is a {type(meta).__name__}. Nothing was written.")
    try:
        size = len(canonical(copy))
    except ValueError as error:
        raise DataError(f"meta cannot be written as JSON: {error}. Nothing was written.") from error
    if size > limit:
        raise DataError(
            f"meta has {size:,} bytes as JSON, and at most {limit:,} are kept in a manifest, which is written anew "
            "with every commit. Keep large lists as tensors in a segment; nothing was written."
        )
    return copy


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth == 0:
        raise DataError(f"{where[:100]}… is nested deeper than {META_DEPTH}. Flatten it; nothing was written.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where} is {value}, and JSON has only finite numbers. Use None; nothing was written.")
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", depth - 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise DataError(f"{where} has the key {key!r}, and JSON has only text keys. Use str(key).")
        return {str(key): _plain(item, f"{where}[{key!r}]", depth - 1) for key, item in value.items()}
    raise DataError(
        f"{where} is a {type(value).__name__}, and meta holds None, bool, int, float, str, lists and dicts of them. "
        "Convert it, or keep it as a tensor in the segment; nothing was written."
    )


def corrupt(where: Path, what: str) -> StoreCorrupt:
    """The error for bytes that are not what was written."""
    return StoreCorrupt(
        f"{where} is damaged: {what}. The disk, a copy or an editor changed it after it was written, or another "
        "program wrote it; the other files beside it may be sound. Restore it from a copy; nothing was changed."
    )


def unsafe(where: Path, what: str) -> UnsafeFile:
    """The error for content that no store has."""
    return UnsafeFile(
        f"{where} is refused: {what}. It was not written by kernelscope, or was changed on purpose. Do not use this "
        "folder; nothing outside it was read, and nothing was changed."
    )
