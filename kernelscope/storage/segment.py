"""A segment: tensors in a safetensors file.

A safetensors file is eight bytes with the length of a header, the header (JSON with type, shape and place of every
tensor), and the tensors' memory, one after the other. A segment is written straight from that memory: a block is
copied, hashed and written while it is in the processor's cache, so that nothing is held twice and the checksum is that
of the very bytes on the disk, even if somebody changes a tensor meanwhile. A header that is read is checked entry by
entry before anybody believes it.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, StoreError, UnsafeFile
from .manifest import SEGMENT_LIMIT
from .strict import canonical, parse

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**20
HEADER_LIMIT = 16 * 2**20
# The names of the element types in a file, as torch spells them, with their bytes.
TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "C64": ("complex64", 8),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
}
_CODES = {name: code for code, (name, _) in TYPES.items()}


def dense(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU with their elements in one row of memory each; those that are so already are not copied.

    Raises:
        DataError: A name or a tensor cannot be kept in a segment.
    """
    import torch

    if not isinstance(tensors, dict):
        raise DataError(f"A segment needs a dict of tensors by name, and got a {type(tensors).__name__}.")
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__" or any("\ud800" <= c <= "\udfff" for c in name):
            raise DataError(f"A tensor in a segment is named by text other than '__metadata__': rename {name!r}.")
        if not isinstance(tensor, torch.Tensor):
            raise DataError(f"{name!r} is a {type(tensor).__name__}, and a segment keeps tensors. Use torch.as_tensor.")
        if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized or tensor.is_nested:
            raise DataError(
                f"{name!r} is sparse, nested, quantized or without memory, and a segment keeps dense tensors. Use "
                "to_dense, or keep its parts one by one; nothing was written."
            )
        if _code(tensor) not in TYPES:
            raise DataError(
                f"{name!r} has elements of type {tensor.dtype}, and a safetensors file has no such type. Convert it, "
                "for example with torch.view_as_real; nothing was written."
            )
        # A conjugate or negative view shares the memory of the tensor that it is not.
        found[name] = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return found


def layout(tensors: dict[str, Tensor]) -> tuple[bytes, list[Tensor], int]:
    """The header of a segment with these dense tensors, their order in it, and its size in bytes."""
    if sys.byteorder != "little":
        raise StoreError("A segment holds numbers with the lowest byte first, and this machine has the highest first.")
    # Wide elements first: every element then lies at a multiple of its width.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    places, end = {}, 0
    for name in order:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        places[name] = [start, end]
    # The header keeps the caller's order, and gives it back to the reader.
    entries = [
        b"%b:%b"
        % (canonical(name), canonical({"dtype": _code(t), "shape": list(t.shape), "data_offsets": places[name]}))
        for name, t in tensors.items()
    ]
    text = b"{%b}" % b",".join(entries)
    text += b" " * (-len(text) % 8)
    size = 8 + len(text) + end
    if len(text) > HEADER_LIMIT or size > SEGMENT_LIMIT:
        raise DataError(
            f"The segment would have {size:,} bytes with a header of {len(text):,}, and at most {SEGMENT_LIMIT:,} and "
            f"{HEADER_LIMIT:,} are read again. Split the tensors into several segments; nothing was written."
        )
    return len(text).to_bytes(8, "little") + text, [tensors[name] for name in order], size


def blocks(tensors: list[Tensor]) -> Iterator[memoryview]:
    """The memory of the dense tensors, block by block; a block is valid until the next one is asked for."""
    import torch

    scratch = bytearray(BLOCK)
    for tensor in tensors:
        flat = tensor.reshape(-1)
        # A single entry keeps whatever stride it was cut out with, and bytes are read at stride one.
        source = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy().data
        for start in range(0, len(source), BLOCK):
            piece = source[start : start + BLOCK]
            scratch[: len(piece)] = piece
            yield memoryview(scratch)[: len(piece)]


def hashed(chunks: Iterable[bytes | memoryview], digest: hashlib._Hash) -> Iterator[bytes | memoryview]:
    """The chunks as they pass, each taken into the digest."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def unpack(data: bytes, where: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a segment, in the order in which they were handed in.

    Raises:
        UnsafeFile: The header does not describe the bytes that follow it.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = _header(data, where)
    try:
        tensors = load(data)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise _refuse(where, f"safetensors refuses it: {error}") from error
    for name, tensor in tensors.items():
        # A truth value other than 0 and 1 is neither equal to True nor to False.
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            raise _refuse(where, f"{name!r} holds truth values that are neither true nor false")
    return {name: tensors[name] for name in header}


def _header(data: bytes, where: Path) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
        raise _refuse(where, f"its header should have {length:,} bytes, and {len(data):,} are there in all")
    header = parse(data[8 : 8 + length], where, depth=4)
    if not isinstance(header, dict):
        raise _refuse(where, "its header is not a table of tensors")
    header.pop("__metadata__", None)
    places = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _refuse(where, f"the entry of {name[:100]!r} does not have the fields dtype, shape and data_offsets")
        shape, place = entry["shape"], entry["data_offsets"]
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES:
            raise _refuse(where, f"the elements of {name[:100]!r} have a type that no segment has")
        if not _sizes(shape) or len(shape) > 64 or not _sizes(place) or len(place) != 2:
            raise _refuse(where, f"the shape or the place of {name[:100]!r} is not a list of sizes")
        if place[1] - place[0] != math.prod(shape) * TYPES[entry["dtype"]][1]:
            raise _refuse(where, f"{name[:100]!r} does not have as many bytes as its shape needs")
        places.append(place)
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise _refuse(where, "its tensors overlap or leave a gap")
        end = stop
    if 8 + length + end != len(data):
        raise _refuse(where, f"it has {len(data):,} bytes, and its header describes {8 + length + end:,}")
    return header


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**62 for size in value)


def _code(tensor: Tensor) -> str | None:
    return _CODES.get(str(tensor.dtype).removeprefix("torch."))


def _refuse(where: Path, what: str) -> UnsafeFile:
    return UnsafeFile(
        f"{where} is refused: {what}. It was not written by kernelscope, or was changed on purpose together with its "
        "manifest. Do not use this folder; the other segments were not touched."
    )
