"""F7: files that somebody made to do harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...commands.arrays import samples_of
from ...commands.opening import read
from ...data.columns import columns_of
from ...errors import KernelscopeError
from ...machine.machine import KernelMachine
from ...nn.layers.layer import SNNKLinear
from ...result import Result
from ...run.opening import load
from ..kept import copied, kinds, resealed
from ..row import Done, Row, Silent, Trial, refused
from ..subjects import chords, saved
from ..traps import forget_peak, peak

SECONDS, MEMORY = 3.0, 64 * 2**20
MARK = "kernelscope-was-here"


class Payload:
    """What a pickle does that is read: it leaves a file behind."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


def segment(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def zipped(arrays: dict[str, bytes]) -> bytes:
    """An archive of these files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)
    return held.getvalue()


def array(header: str, body: bytes = b"") -> bytes:
    """A ``.npy`` file with any header."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npy(value: Any, **options: Any) -> bytes:
    """A ``.npy`` file of an array."""
    held = io.BytesIO()
    np.save(held, value, **options)
    return held.getvalue()


def contents(mark: str) -> dict[str, bytes]:
    """Files that no loader may believe, whatever their ending."""
    one = {"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}
    entry = lambda **change: {"x": {**one["x"], **change}}
    body, huge = bytes(16), 2**62
    saved = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, saved)
    vicious = pickle.dumps(Payload(mark))
    return {
        "nothing": b"", "zeros": bytes(4096), "text": b"hello, world\n" * 20, "a pickle": vicious,
        "a pickle of protocol 0": pickle.dumps(Payload(mark), 0), "a checkpoint of torch": saved.getvalue(),
        "an archive with a pickle": zipped({"archive/data.pkl": vicious, "archive/version": b"3"}),
        "an array of objects": npy(np.array([Payload(mark)], dtype=object), allow_pickle=True),
        "an archive of objects": zipped({"x.npy": npy(np.array([Payload(mark)], dtype=object), allow_pickle=True)}),
        "a zip bomb": zipped({"x.npy": array(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**40},), }}",
                                             bytes(2**22))}),
        "an archive in an archive": zipped({"x.npz": zipped({"x.npy": npy(np.zeros(2))})}),
        "an array of 2^60 numbers": array(
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }"),
        "an array of a negative length": array("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", body),
        "an array whose header is code": array("{'descr': __import__('os').system('touch " + mark[-40:] + "')}"),
        "an array of text": npy(np.array(["a", "b"])), "an array with fields": npy(np.zeros(2, dtype=[("a", "<f8")])),
        "an array of deep brackets": array("(" * 110),
        "a header of 2^63 bytes": segment(one, body, 2**63),
        "a header of 2^64 - 1 bytes": segment(one, body, 2**64 - 1),
        "a header longer than the file": segment(one, body, 4096), "a header of no bytes": segment(b"", body),
        "a header that is a list": segment([], body), "a header that is deep": segment(b"[" * 100_000, body),
        "a header with deep objects": segment(b'{"a":' * 50_000, body),
        "a header with a key twice": segment(b'{"x":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},'
                                             b'"x":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}', body),
        "a huge shape": segment(entry(shape=[huge, huge]), body), "a negative shape": segment(entry(shape=[-2]), body),
        "a shape of many axes": segment(entry(shape=[1] * 10_000), body),
        "a shape of text": segment(entry(shape=["2"]), body), "a shape of true": segment(entry(shape=[True, 2]), body),
        "offsets past the end": segment(entry(data_offsets=[0, huge]), body),
        "offsets backwards": segment(entry(data_offsets=[16, 0]), body),
        "offsets with a hole": segment(entry(data_offsets=[8, 24]), body + body),
        "tensors on one another": segment({**one, "y": one["x"]}, body),
        "an unknown type": segment(entry(dtype="PYOBJECT"), body), "a type of 10^6 letters": segment(entry(
            dtype="F" * 10**6), body), "not UTF-8": segment(b'{"\xff\xfe":1}', body),
        "NaN": segment(b'{"x":NaN}', body),
        "a number of 5,000 digits": segment(b'{"x":' + b"9" * 5000 + b"}", body),
        "a file that is an archive as well": segment(one, body) + zipped({"x.npy": npy(np.zeros(2))}),
    }


def manifests(body: dict[str, Any]) -> dict[str, bytes]:
    """Manifests with sound checksums that ask for what none may ask for."""
    first = {**body["segments"][0]}

    def with_segment(**change: Any) -> bytes:
        return resealed({**body, "segments": [{**first, **change}]})

    deep: Any = []
    for _ in range(200):
        deep = [deep]
    return {
        "a segment that is a device": with_segment(name="../../dev/zero"), "a size of 2^62": with_segment(size=2**62),
        "a size that is negative": with_segment(size=-1), "a size that is true": with_segment(size=True),
        "a checksum that is none": with_segment(sha256="0" * 63), "a name that is a number": with_segment(name=7),
        "a segment twice": resealed({**body, "segments": [first, first]}),
        "a part that is missing": resealed({**body, "parts": [
            {"name": "manifest-00000000.json", "size": 3, "sha256": "0" * 64, "count": 1}]}),
        "a part that is itself": resealed({**body, "parts": [
            {"name": "manifest.json", "size": 3, "sha256": "0" * 64, "count": 1}]}),
        "meta nested 200 deep": resealed({**body, "meta": deep}), "meta that is a list": resealed({**body, "meta": []}),
        "meta that is empty": resealed({**body, "meta": {}}), "segments that are no list": resealed(
            {**body, "segments": {}}), "no segments": resealed({**body, "segments": []}),
        "another kind": resealed({**body, "kind": "os.system"}), "a field more": resealed({**body, "code": "x"}),
        "a version of text": resealed({**body, "version": "1"}),
        "a format of others": resealed({**body, "format": "x"}),
        "next in the past": resealed({**body, "next": 0}), "next beyond": resealed({**body, "next": 10**30}),
        "a class that is code": resealed({**body, "meta": {**body["meta"], "class": "os.system", "kernel": "os.system",
                                                           "architecture": {"module": "os.system", "arguments": {}}}}),
        "fields of others": resealed({**body, "meta": {**body["meta"], "fields": {"result": "Check", "fields": {}},
                                                       "kernel": ["Gaussian", 1], "parameters": "x"}}),
    }


class Hostile(Row):
    """F7."""

    id, sentence = "F7", "Files made to do harm: pickles, bombs, forged headers, manifests that ask for more."

    def prepare(self, folder: Path) -> None:
        self.mark, self.ground = str(folder / MARK), folder
        chosen = [kind for kind in kinds() if kind.name in ("run", "machine", "result")]
        self.stores = {kind.name: (kind, folder / kind.name) for kind in chosen}
        for kind in chosen:
            kind.make(folder / kind.name)
        # What is loaded on first use is loaded before memory and time are measured.
        for kind in chosen:
            kind.read(folder / kind.name)

        self.training_begins = folder / "0.pt"
        torch.save(saved()[0], self.training_begins)
        torch.save(saved()[1], folder / "1.pt")
        self.training(folder / "1.pt")

    def training(self, path: Path) -> Any:
        """The run from a sound checkpoint, and one at a path."""
        return chords([self.training_begins, path], steps=[0, 10])

    def beside(self, path: Path) -> Any:
        """The run from a sound checkpoint, and another one beside a file of words."""
        torch.save(saved()[1], path.parent / "pytorch_model.bin")
        return self.training(path.parent)

    def trials(self) -> Iterator[Trial]:
        readers: dict[str, tuple[str, Callable[[Path], Any]]] = {
            "--input of an array": ("x.npy", lambda path: read(str(path))),
            "--input of an archive": ("x.npz", lambda path: read(str(path))),
            "--input of tensors": ("x.safetensors", lambda path: read(str(path))),
            "the data of kernelscope fit": ("x.npz", lambda path: samples_of(str(path), 0.2, torch.float64)),
            "points in an array": ("x.npy", lambda path: columns_of(str(path))),
            "points in tensors": ("x.safetensors", lambda path: columns_of(str(path))),
            "a layer": ("layer.safetensors", SNNKLinear.load),
            **{f"a checkpoint named {name}": (name, self.training) for name in (
                "x.pt", "x.ckpt", "x.safetensors", "pytorch_model.bin")},
            "the index of a checkpoint": ("model.safetensors.index.json", lambda path: self.training(path.parent)),
            "the words beside a checkpoint": ("trainer_state.json", self.beside),
            "the manifest of a run": ("manifest.json", lambda path: load(path.parent)),
            "the manifest of a machine": ("manifest.json", lambda path: KernelMachine.load(path.parent)),
            "the manifest of a result": ("manifest.json", lambda path: Result.load(path.parent)),
        }
        for what, data in contents(self.mark).items():
            for reader, (name, function) in readers.items():
                yield Trial(f"{what} as {reader}", partial(self._file, data, name, function))
            for name in self.stores:
                yield Trial(f"{what} as a segment of a {name} under a sound checksum",
                            partial(self._segment, data, name))
        for name, (_, place) in self.stores.items():
            body = json.loads((place / "manifest.json").read_bytes())["body"]
            for what, data in manifests(body).items():
                yield Trial(f"{name}: {what}", partial(self._manifest, data, name))

    def _file(self, data: bytes, name: str, function: Callable[[Path], Any], folder: Path) -> Done | None:
        (folder / name).write_bytes(data)
        return self.believed(lambda: function(folder / name), honest=data)

    def _segment(self, data: bytes, name: str, folder: Path) -> Done | None:
        import hashlib

        kind, source = self.stores[name]
        place = copied(source, folder / "it")
        body = json.loads((place / "manifest.json").read_bytes())["body"]
        last = body["segments"][-1]
        (place / last["name"]).write_bytes(data)
        last["size"], last["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        (place / "manifest.json").write_bytes(resealed(body))
        return self.believed(lambda: kind.read(place))

    def _manifest(self, data: bytes, name: str, folder: Path) -> Done | None:
        kind, source = self.stores[name]
        place = copied(source, folder / "it")
        (place / "manifest.json").write_bytes(data)
        return self.believed(lambda: kind.read(place))

    def believed(self, function: Callable[[], Any], honest: bytes = b"") -> Done | None:
        """Whether a loader refuses a file, in little time and memory, and does not do what it says."""
        forget_peak()
        before, began = peak(), time.monotonic()
        try:
            function()
        except KernelscopeError as error:
            told: Done | None = refused(error)
        else:
            told = None
        took, more = time.monotonic() - began, peak() - before
        if list(self.ground.parent.rglob(MARK)):
            raise Silent("the file was believed: it has run a program")
        if took > SECONDS or more > MEMORY:
            raise AssertionError(f"it took {took:.1f} s and {more / 2**20:.0f} MiB to refuse the file")
        if told is None and not _harmless(honest):
            raise Silent("the file was taken for a sound one")
        return told


def _harmless(data: bytes) -> bool:
    """Whether a file holds nothing but numbers after all, under some name."""
    for reader in (lambda: np.load(io.BytesIO(data), allow_pickle=False), lambda: _tensors(data)):
        try:
            found = reader()
        except Exception:  # noqa: BLE001 - then it is none of these
            continue
        values = [found[name] for name in found] if hasattr(found, "files") else (
            list(found.values()) if isinstance(found, dict) else [found])
        return all(isinstance(value, np.ndarray | torch.Tensor) for value in values)
    return False


def _tensors(data: bytes) -> Any:
    from safetensors.torch import load as loaded

    return loaded(data)


ROWS = (Hostile,)
