"""F18: names and links that lead out of a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import KernelscopeError
from ...machine.machine import KernelMachine
from ...result import Result
from ...run.opening import load
from ...run.recorder import record
from ...storage import Store, write_atomically
from ..exactness import tools
from ..kept import copied, digest, files, kinds, resealed
from ..row import Done, Row, Silent, Trial, refused

NAMES = [
    "../outside.safetensors", "../../outside.safetensors", "./segment-00000000.safetensors", "/etc/passwd",
    "/proc/self/mem", "segment-00000000.safetensors/../../x", "outside.safetensors", "..", ".", "", "/", "//", "\\",
    "..\\outside.safetensors", "C:\\outside.safetensors", "C:outside.safetensors", "\\\\host\\share\\x", "~/x",
    "$HOME/x", "%2e%2e%2foutside.safetensors", "..%c0%afoutside", "segment-00000000.safetensors\0",
    "segment-00000000.safetensors ",
    "segment-00000000.SAFETENSORS", "segment-٠٠٠٠٠٠٠٠.safetensors", "CON", "NUL.safetensors", "a" * 5000,
    "file:///etc/passwd",
    "segment-00000000.safetensors\n", "writer.lock", "manifest.json", ".part", "segment-00000000.safetensors.part",
    "\u202e00000000.safetensors", "․․/outside",
]


class Leading(Row):
    """F18."""

    id, sentence = "F18", "Names, links and pipes that lead out of a folder, in all that opens or writes one."

    def prepare(self, folder: Path) -> None:
        self.grounds = {}
        for kind in kinds():
            kind.make(folder / kind.name)
            self.grounds[kind.name] = (kind, folder / kind.name)

    def trials(self) -> Iterator[Trial]:
        entries: dict[str, tuple[str, Callable[[Path], Any]]] = {
            "load": ("run", load), "recording that is taken up": ("run", _taken_up),
            "KernelMachine.load": ("machine", KernelMachine.load), "Result.load": ("result", Result.load),
            "the next writer": ("result", lambda path: Store.resume(path, "result").close()),
        }
        for name in NAMES:
            for entry, (kind, function) in entries.items():
                yield Trial(f"{entry}: a segment called {name[:40]!r}", partial(self._named, name, kind, function))
            yield Trial(f"a part called {name[:40]!r}", partial(self._part, name))
        for name, (_, place) in self.grounds.items():
            for path in files(place):
                for form in ("link", "link in a circle", "pipe", "folder"):
                    inner = str(path.relative_to(place)) if path != place else ""
                    yield Trial(f"{name}: {path.name} is a {form}", partial(self._irregular, name, inner, form))
        for name in ("link", "link of the temporary file", "link of the lock"):
            yield Trial(f"writing over a {name}", partial(self._written_over, name))

    def _forged(self, kind: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
        inner = folder / "a" / "b"
        inner.mkdir(parents=True)
        place = copied(self.grounds[kind][1], inner / "it")
        sound = (place / "segment-00000000.safetensors").read_bytes()
        for canary in (inner / "outside.safetensors", folder / "a" / "outside.safetensors"):
            canary.write_bytes(sound)
        body = json.loads((place / "manifest.json").read_bytes())["body"]
        change(body)
        (place / "manifest.json").write_bytes(resealed(body))
        return place

    def _named(self, name: str, kind: str, function: Callable[[Path], Any], folder: Path) -> Done | None:
        def change(body: dict[str, Any]) -> None:
            body["segments"][0]["name"] = name

        return untouched(folder, partial(function, self._forged(kind, folder, change)))

    def _part(self, name: str, folder: Path) -> Done | None:
        def change(body: dict[str, Any]) -> None:
            body["parts"] = [{"name": name, "size": 10, "sha256": "0" * 64, "count": 1}]

        return untouched(folder, partial(Store.open, self._forged("result", folder, change)))

    def _irregular(self, name: str, inner: str, form: str, folder: Path) -> Done | None:
        kind, ground = self.grounds[name]
        place = copied(ground, folder / "it")
        path = place / inner if inner else place
        away = folder / "away"
        path.rename(away)
        if form == "link":
            path.symlink_to(away)
        elif form == "pipe":
            os.mkfifo(path)
        elif form == "folder":
            path.mkdir()
        else:
            path.symlink_to(path)
        # A layer is one file that its user names: a link at that name is followed, as by every program.
        return untouched(folder, lambda: kind.read(place), may_end=name == "layer" and form == "link")

    def _written_over(self, name: str, folder: Path) -> Done | None:
        canary, place = folder / "canary", folder / "it"
        canary.write_bytes(b"precious")
        if name == "link":
            place.symlink_to(canary)
            write_atomically(place, b"new")
            found = place.read_bytes() == b"new" and not place.is_symlink()
        else:
            place.mkdir()
            inner = "manifest.json.part" if "temporary" in name else "writer.lock"
            (place / inner).symlink_to(canary)
            try:
                Store.create(place, "run", {}).close()
            except KernelscopeError as error:
                refused(error)
            found = True
        if canary.read_bytes() != b"precious" or not found:
            raise Silent("what a link led to was written over")
        return None


def untouched(folder: Path, function: Callable[[], Any], may_end: bool = False) -> Done | None:
    """Whether a function refuses what it was given, and leaves every file as it was."""
    before = _tree(folder)
    try:
        function()
    except KernelscopeError as error:
        told: Done | None = refused(error)
    else:
        told = None
    if _tree(folder) != before:
        raise Silent("files were changed that should not have been touched")
    if told is None and not may_end:
        raise Silent("what leads out of the folder was followed")
    return told


def _tree(folder: Path) -> str:
    def said(path: Path) -> Any:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else path.is_dir()

    return digest([(str(path), said(path)) for path in sorted(folder.rglob("*"))])


def _taken_up(path: Path) -> None:
    from torch.nn.functional import mse_loss

    model, x, y = tools()
    record(model, (x, y), loss=mse_loss, out=path, resume=True).__enter__()


ROWS = (Leading,)
