"""A folder of segments that survives its writer.

A store is opened in one of three ways. `create` and `resume` write: one process at a time, under a lock. `open` reads:
any number of processes, at any time, without a lock and without changing a byte. What a reader sees is one commit,
whole; it stays with that commit until it asks for a newer one with `refresh`.
"""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ..arguments import as_path
from ..errors import StoreBusy, StoreCorrupt, StoreError, StoreExists
from . import manifest as manifests
from .files import ask_for_room, disk_errors, make_folder, read_file, write_file
from .lock import WriterLock
from .manifest import Manifest, Segment
from .segment import blocks, dense, hashed, layout, unpack
from .strict import plain

if TYPE_CHECKING:
    from torch import Tensor

    from .memory import MemoryStore

Verify = Literal["sha256", "size"]
# The header of a segment, its tensors in their order, its size; and a few words about it.
_Content = tuple[tuple[bytes, "list[Tensor]", int], dict[str, Any]]


class Store:
    """Segments of tensors in a folder, written once, checked whenever they are read.

    `append`, `commit`, `truncate` and `drop` return when the disk has what they did; a process that is killed, a disk
    that is full or a power cut then leaves the folder as one of these calls left it. When one of them fails, the folder
    holds the commit before it or the commit after it, and ``segments`` says which.

    Example:
        >>> import torch
        >>> from kernelscope.storage import Store
        >>> with Store.create("runs/digits", kind="run", meta={"seed": 0}) as store:
        ...     step = store.append({"weight": torch.eye(2)}, meta={"step": 0})
        >>> reader = Store.open("runs/digits", kind="run")
        >>> reader.read(0)["weight"]
        tensor([[1., 0.],
                [0., 1.]])
        >>> reader.meta, reader.segments[0].meta
        ({'seed': 0}, {'step': 0})
    """

    def __init__(self, path: Path, manifest: Manifest, lock: WriterLock | None, verify: Verify) -> None:
        self._path = path
        self._manifest = manifest
        self._lock = lock
        self._verify = verify
        self._unsure = False
        # A writer that Ctrl-C met as it took its turn takes it again to keep what it has.
        self._turn = threading.RLock()

    @classmethod
    def create(cls, path: str | os.PathLike[str], kind: str, meta: dict[str, Any], overwrite: bool = False,
               first: dict[str, Tensor] | None = None, source: Store | MemoryStore | None = None) -> Self:
        """Start a store, and write to it.

        Args:
            path: The folder; it is made if need be, and the one it lies in.
            kind: What the store holds, in one word; asked for when it is opened.
            meta: What the store says about itself, as far as JSON can say it.
            overwrite: Replace a store that is there already. The old one stays until the new one is committed.
            first: Tensors that come with the first commit. What is one segment is then never there without it, and
                what it replaces is there until it is.
            source: Another store, in a folder or in memory, whose segments are all copied in one commit, after
                ``first``. It may be the one that is replaced.

        Raises:
            StoreExists: There is a store already.
            StoreBusy: Another process writes there.
            StoreFull: The disk is full.
            DataError: ``kind`` or ``meta`` cannot be written.
        """
        folder = _folder(path)
        start = Manifest(manifests.check_kind(kind), plain(meta, manifests.META_LIMIT))
        parts = None if first is None else layout(dense(first))
        size = len(start.encode()) + (0 if parts is None else parts[2]) + (0 if source is None else source.nbytes)
        with disk_errors(folder, size):
            if not overwrite:
                _refuse_if_taken(folder)
            make_folder(folder)
            lock = WriterLock(folder)
            try:
                # Somebody may have come first.
                if not overwrite:
                    _refuse_if_taken(folder)
                # New names are never old names: a reader of the old store cannot mistake one for the other.
                start = replace(start, next=max(_numbers(folder), default=-1) + 1)
                store = cls(folder, start, lock, "sha256")
                contents = chain([] if parts is None else [(parts, {})], _contents(source))
                filled = parts is not None or source is not None
                replaced = filled and manifests.exists(folder)
                store._begin(start, contents if replaced else [])
                if filled and not replaced:
                    with store._writing(size):
                        store._write_segments(store._manifest, contents)
            except BaseException:
                lock.release()
                raise
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], kind: str | None = None, verify: Verify = "sha256") -> Self:
        """Read a store. Nothing is locked, written, removed or repaired.

        Args:
            path: The folder.
            kind: What it should hold; None takes any.
            verify: ``"sha256"`` checks all bytes of what is read, ``"size"`` their number only.

        Raises:
            StoreError: There is no store, or it is of another kind or of a newer version.
            StoreCorrupt: The manifest is damaged.
            UnsafeFile: The manifest asks for what no store asks for.
        """
        if verify not in ("sha256", "size"):
            raise StoreError(f'verify is "sha256" or "size", and {verify!r} was given.')
        folder = _folder(path)
        manifest = manifests.load(folder)
        _check_kind(folder, manifest, kind)
        return cls(folder, manifest, None, verify)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], kind: str) -> Self:
        """Go on writing to a store; what a killed writer left unfinished is removed.

        Raises:
            StoreBusy: Another process writes there.
            StoreError: As for `open`.
        """
        folder = _folder(path)
        _check_kind(folder, manifests.load(folder), kind)
        with disk_errors(folder, 0):
            lock = WriterLock(folder)
        try:
            # The last writer may have gone on between the first look and the lock.
            manifest = manifests.load(folder)
            _check_kind(folder, manifest, kind)
            store = cls(folder, manifest, lock, "sha256")
            store._sweep()
        except BaseException:
            lock.release()
            raise
        return store

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def kind(self) -> str:
        """What the store holds, in one word."""
        return self._manifest.kind

    @property
    def meta(self) -> dict[str, Any]:
        """What the store says about itself, as a copy."""
        return copy.deepcopy(self._manifest.meta)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Every segment, oldest first."""
        return self._manifest.segments

    @property
    def nbytes(self) -> int:
        """The bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, kind={self.kind!r}, {len(self.segments)} segments, {self.nbytes:,} bytes)"

    def append(self, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> Segment:
        """Write the tensors as one more segment.

        Args:
            tensors: Tensors of any shape by name; every element comes back bit for bit.
            meta: A few words about the segment, as far as JSON can say them.

        Raises:
            DataError: Something in them cannot be written; nothing was.
            StoreFull: The disk is full; the previous commit is intact.
            StoreBusy: This process is no longer the writer.
        """
        entry = plain(meta, manifests.SEGMENT_META_LIMIT)
        parts = layout(dense(tensors))
        with self._writing(parts[2]):
            self._write_segments(self._manifest, [(parts, entry)])
        return self.segments[-1]

    def commit(self, meta: dict[str, Any]) -> None:
        """Replace what the store says about itself."""
        said = plain(meta, manifests.META_LIMIT)
        with self._writing():
            self._write_manifest(replace(self._manifest, meta=said))

    def truncate(self, count: int, meta: dict[str, Any] | None = None) -> None:
        """Keep the first ``count`` segments, and in the same commit replace ``meta`` if it is given."""
        said = None if meta is None else plain(meta, manifests.META_LIMIT)
        with self._writing():
            self._without(self.segments[manifests.head(self.segments, count) :], said)

    def drop(self, names: Iterable[str]) -> None:
        """Remove the segments of these names."""
        with self._writing():
            self._without([manifests.find(self.segments, name, self._path) for name in names], None)

    def read(self, segment: int | str | Segment) -> dict[str, Tensor]:
        """The tensors of one segment, given by its place, its name or itself.

        Raises:
            StoreCorrupt: Its bytes are not the bytes that were written, or are gone.
            UnsafeFile: It is not a regular file, or not what a store writes.
            StoreError: There is no such segment; or a writer has dropped it since this reader's commit.
        """
        entry = manifests.find(self.segments, segment, self._path)
        path = self._path / entry.name
        try:
            data = read_file(self._path, entry.name, manifests.SEGMENT_LIMIT, entry.size)
        except FileNotFoundError:
            raise self._lost(entry, "it is missing") from None
        if data is None:
            raise self._lost(entry, f"it does not have the {entry.size:,} bytes that were written")
        if self._verify == "sha256" and hashlib.sha256(data).hexdigest() != entry.sha256:
            raise self._lost(entry, "its checksum does not agree with its bytes")
        return unpack(data, path)

    def refresh(self) -> bool:
        """See the last commit; True when it is a newer one."""
        manifest = manifests.load(self._path)
        newer = manifest != self._manifest
        self._manifest = manifest
        return newer

    def close(self) -> None:
        """Let the next writer in; reading goes on to work."""
        if self._lock is not None:
            if self._unsure and self._lock.held():
                self._recover()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self, size: int = 0) -> Iterator[None]:
        if self._lock is None:
            raise StoreError(f"{self._path} was opened for reading. Use Store.resume to write to it.")
        if self._lock.released:
            raise StoreError(f"This writer of {self._path} is closed. Use Store.resume to go on writing.")
        if not self._lock.held():
            raise StoreBusy(
                f"{self._path} is not written by this process ({os.getpid()}): it was forked from its writer "
                f"({self._lock.pid}), or the lock was taken away. Write in the process that opened the store, or open "
                "it anew with Store.resume; everything committed is intact."
            )
        with self._turn, disk_errors(self._path, size):
            if self._unsure:
                self._recover()
            ask_for_room(self._path, size)
            # An interruption may come after the commit and before this object knows of it.
            self._unsure = True
            try:
                yield
            except BaseException:
                # The first error is the one to tell; if this fails too, the next call tries again.
                with suppress(OSError, StoreError):
                    self._recover()
                raise
            self._unsure = False

    def _begin(self, start: Manifest, contents: Iterable[_Content]) -> None:
        """The first commit, with segments or without; if it fails, an old store stays as it was."""
        try:
            self._write_segments(start, contents)
        except BaseException:
            with suppress(OSError, StoreError):
                self._recover()
            raise
        self._sweep()

    def _write_segments(self, manifest: Manifest, contents: Iterable[_Content]) -> None:
        """Writes segments after those of a manifest, and commits them together."""
        for parts, entry in contents:
            ask_for_room(self._path, parts[2])
            if len(manifest.tail) >= manifests.SEAL:
                name = f"manifest-{manifest.next:08d}.json"
                manifest, part = manifest.seal(name)
                write_file(self._path / name, [part])
            manifest = manifest.append(self._write_segment(manifest, parts, entry))
        self._write_manifest(manifest)

    def _write_segment(self, manifest: Manifest, parts: tuple[bytes, list[Tensor], int],
                       meta: dict[str, Any]) -> Segment:
        """Writes the next file of a manifest, which does not name it yet."""
        (header, order, size), digest = parts, hashlib.sha256()
        name = f"segment-{manifest.next:08d}.safetensors"
        write_file(self._path / name, hashed(chain([header], blocks(order)), digest))
        return Segment(name, size, digest.hexdigest(), meta)

    def _write_manifest(self, manifest: Manifest) -> None:
        write_file(self._path / manifests.NAME, [manifest.encode()], commit=True)
        self._manifest = manifest

    def _without(self, gone: Iterable[Segment], meta: dict[str, Any] | None) -> None:
        manifest, parts = self._manifest.without({segment.name for segment in gone})
        for name, data in parts.items():
            write_file(self._path / name, [data])
        old = self._manifest.files
        self._write_manifest(manifest if meta is None else replace(manifest, meta=meta))
        for name in old - self._manifest.files:
            with suppress(OSError):
                os.unlink(self._path / name)

    def _recover(self) -> None:
        self._manifest = manifests.load(self._path)
        self._sweep()
        self._unsure = False

    def _sweep(self) -> None:
        """Remove the store's own files that no commit names: a killed writer left them."""
        needed = self._manifest.files
        for name in os.listdir(self._path):
            if name not in needed and manifests.OWN_NAME.fullmatch(name):
                with suppress(OSError):
                    os.unlink(self._path / name)

    def _lost(self, entry: Segment, what: str) -> StoreError:
        """Why a segment cannot be read: a writer dropped it since, or it is damaged."""
        path = self._path / entry.name
        if entry not in manifests.load(self._path).segments:
            return StoreError(
                f"{path} is not part of the last commit: its writer dropped it after this store was opened. Call "
                "refresh() and read again; everything committed is intact."
            )
        return StoreCorrupt(
            f"{path} is damaged: {what}. The disk or a copy changed it after it was written; the other "
            f"{len(self.segments) - 1} segments can be read one by one. Restore it from a copy, or drop it with "
            f"Store.resume(...).drop([{entry.name!r}])."
        )


def _contents(source: Store | MemoryStore | None) -> Iterator[_Content]:
    """What a store holds, one segment after the other as each is needed."""
    if source is not None:
        for segment in source.segments:
            yield layout(dense(source.read(segment))), segment.meta


def _folder(path: str | os.PathLike[str]) -> Path:
    path = as_path(path, "A stored folder", '"runs/digits"')
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(f"{str(path)[:200]!r} is not a path: {error}. Nothing was written.") from error


def _check_kind(folder: Path, manifest: Manifest, kind: str | None) -> None:
    if kind is not None and manifest.kind != kind:
        raise StoreError(
            f"{folder} holds a store of kind {manifest.kind!r}, and one of kind {kind!r} was asked for. Check the "
            "path; nothing was changed."
        )


def _refuse_if_taken(folder: Path) -> None:
    if manifests.exists(folder):
        raise StoreExists(
            f"{folder} already holds a store. Choose another folder, or pass overwrite=True to replace it; it is "
            "intact."
        )
    if folder.is_dir() and _numbers(folder):
        raise StoreExists(
            f"{folder} holds segments of a store whose {manifests.NAME} is gone. Restore the manifest from a copy, "
            "choose another folder, or pass overwrite=True to give the segments up; they are intact."
        )


def _numbers(folder: Path) -> list[int]:
    """The numbers in the names of a store's files in ``folder``, sound or not."""
    found = [manifests.OWN_NAME.fullmatch(name) for name in os.listdir(folder)]
    return [int(name["number"]) for name in found if name and name["number"]]
