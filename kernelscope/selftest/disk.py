"""What a power cut could leave: a model of a disk that brings to safety only what it was told to."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Disk:
    """Watches the system calls on the files of one folder; anything not yet brought to the disk may go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events, self.open, self.count = str(folder), list[tuple[Any, ...]](), dict[int, Any](), 0
        # What is there at first is safe.
        for path in sorted(folder.iterdir()):
            self.count += 1
            self.events += [("name", path.name, self.count), ("write", self.count, path.read_bytes()),
                            ("fsync", self.count), ("fsync", "folder")]
        self.start = len(self.events)

    def acknowledged(self, moment: int) -> None:
        """The writer has said this moment."""
        self.events.append(("acknowledged", moment))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it every call is noted."""
        real: dict[str, Any] = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink",
                                                                     "close")}

        def mine(path: Any) -> bool:
            return os.path.dirname(os.path.abspath(path)) == self.folder

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            descriptor = real["open"](path, flags, *rest, **named)
            if flags & os.O_CREAT and mine(path):
                self.count += 1
                self.events.append(("name", Path(path).name, self.count))
                self.open[descriptor] = self.count
            elif str(path) == self.folder:
                self.open[descriptor] = "folder"
            return descriptor

        def write(descriptor: int, data: Any) -> int:
            done = real["write"](descriptor, data)
            if descriptor in self.open:
                self.events.append(("write", self.open[descriptor], bytes(memoryview(data)[:done])))
            return done

        def fsync(descriptor: int) -> None:
            real["fsync"](descriptor)
            if descriptor in self.open:
                self.events.append(("fsync", self.open[descriptor]))

        def replace(source: Any, target: Any) -> None:
            real["replace"](source, target)
            if mine(target):
                self.events.append(("rename", Path(source).name, Path(target).name))

        def unlink(path: Any, **named: Any) -> None:
            real["unlink"](path, **named)
            if mine(path):
                self.events.append(("unlink", Path(path).name))

        def close(descriptor: int) -> None:
            self.open.pop(descriptor, None)
            real["close"](descriptor)

        calls = {"open": opened, "write": write, "fsync": fsync, "replace": replace, "unlink": unlink, "close": close}
        try:
            for name, call in calls.items():
                setattr(os, name, call)
            yield
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def after_a_cut(self, moment: int, dice: random.Random) -> tuple[dict[str, bytes], int]:
        """The files that a power cut before event ``moment`` leaves, and the last moment the writer had said.

        Of names that were not yet brought to the disk some are there, of bytes any beginning, or zeros.
        """
        moment, said = max(moment, self.start), 0
        written: dict[int, bytes] = {}
        safe: dict[int, bytes] = {}
        names: dict[str, int | None] = {}
        sure: dict[str, int | None] = {}
        pending: list[dict[str, int | None]] = []
        for kind, *rest in self.events[:moment]:
            if kind == "acknowledged":
                said = max(said, rest[0])
            elif kind == "write":
                written[rest[0]] = written.get(rest[0], b"") + rest[1]
            elif kind == "fsync" and rest[0] == "folder":
                sure, pending = dict(names), []
            elif kind == "fsync":
                safe[rest[0]] = written.get(rest[0], b"")
            else:
                change: dict[str, int | None] = {rest[0]: None}
                if kind == "name":
                    change = {rest[0]: rest[1]}
                elif kind == "rename":
                    change = {rest[0]: None, rest[1]: names[rest[0]]}
                names.update(change)
                pending.append(change)
        for change in pending:
            if dice.random() < 0.5:
                sure.update(change)
        files = {}
        for name, inode in sure.items():
            if inode is not None:
                full, kept = written.get(inode, b""), safe.get(inode, b"")
                torn = full[: dice.randint(len(kept), len(full))]
                files[name] = dice.choice([kept, full, torn, kept + b"\0" * (len(full) - len(kept))])
        return files, said
