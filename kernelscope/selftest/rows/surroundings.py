"""F21: clocks, versions, languages, names and homes that are not as usual."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...errors import StoreError
from ...storage import Store
from ...storage import manifest as manifests
from ..kept import Kept, copied, kinds, resealed
from ..row import Done, NotTried, Row, Silent, Trial, refused, same

#: What a new process does in odd surroundings: it makes and reads everything, and says what it has read.
PROGRAM = """
import sys
from pathlib import Path
from kernelscope.selftest.kept import kinds
place = Path(sys.argv[1])
for kind in kinds():
    if kind.name in ("tiles", "checkpoint"):
        kind.make(place / kind.name)
    elif not (place / kind.name).exists():
        continue
    print(kind.name, kind.read(place / kind.name))
"""
SURROUNDINGS: dict[str, dict[str, str | None]] = {
    "PYTHONHASHSEED=0 and no home": {"PYTHONHASHSEED": "0", "HOME": None},
    "PYTHONHASHSEED=4242 and another time zone": {"PYTHONHASHSEED": "4242", "TZ": "Pacific/Kiritimati"},
    "the locale C and output in ASCII": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                                         "PYTHONIOENCODING": "ascii"},
    "a locale that is not there": {"LC_ALL": "xx_YY.ISO-8859-1", "LANG": "xx"},
    "a home that is not there": {"HOME": "/nonexistent/home"},
    "a home that is a file, and without assertions": {"HOME": "/dev/null", "PYTHONOPTIMIZE": "1"},
}
FOLDERS = ["ein Ordner", "папка", "文件夹", "e\u0301", "-rf", "a'b\"c", "new\nline", "%s{0}", "\udcff\udcfe", "x" * 200]


class Surroundings(Row):
    """F21."""

    id, sentence, limit = "F21", "Newer versions, wrong clocks, other languages, odd names, no home.", 120.0

    def prepare(self, folder: Path) -> None:
        self.ground, self.kinds = folder, {kind.name: kind for kind in kinds()}
        for kind in self.kinds.values():
            kind.make(folder / kind.name)
        self.whole = {name: kind.read(folder / name) for name, kind in self.kinds.items()}

    def trials(self) -> Iterator[Trial]:
        for name, change in SURROUNDINGS.items():
            yield Trial(f"a process with {name}", partial(self._process, change))
        for name in ("run", "machine", "result", "checkpoint"):
            for version in (2, 10**6):
                yield Trial(f"a {name} of version {version}", partial(self._newer, self.kinds[name], version))
            yield Trial(f"a {name} whose clock runs backwards", partial(self._clock, self.kinds[name]))
        for kind in self.kinds.values():
            for name in FOLDERS:
                yield Trial(f"a {kind.name} in a folder {ascii(name)[:30]}", partial(self._folder, kind, name))
            yield Trial(f"a {kind.name} in a folder that cannot be written", partial(self._read_only, kind))
        yield Trial("a writer in a folder that cannot be written", self._writing_read_only)

    def _process(self, change: dict[str, str | None], folder: Path) -> Done | None:
        for name in ("run", "machine", "result", "layer"):
            copied(self.ground / name, folder / name)
        environment = {name: value for name, value in {**os.environ, **change}.items() if value is not None}
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, env=environment,
                              cwd=folder, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace")[-500:])
        found = dict(line.split() for line in done.stdout.decode().splitlines())
        same(found, self.whole, "what is read")
        return None

    def _newer(self, kind: Kept, version: int, folder: Path) -> Done | None:
        place = copied(self.ground / kind.name, folder / "it")
        body = json.loads((place / "manifest.json").read_bytes())["body"]
        (place / "manifest.json").write_bytes(resealed({**body, "version": version, "news": [1]}))
        try:
            kind.read(place)
        except StoreError as error:
            if "newer kernelscope" not in str(error):
                raise AssertionError(f"nobody says that it is newer: {error}") from error
            return refused(error)
        raise Silent("a manifest of a newer version was read as one of this")

    def _clock(self, kind: Kept, folder: Path) -> Done | None:
        real, start = time.time, time.time()
        for path in copied(self.ground / kind.name, folder / "old").iterdir():
            os.utime(path, (start + 10**9, start + 10**9))  # written in the future
        time.time = lambda: 2 * start - real() - 10**8
        try:
            same(kind.read(folder / "old"), self.whole[kind.name], f"a {kind.name}")
            if kind.name != "run":
                kind.make(folder / "new")
                same(kind.read(folder / "new"), self.whole[kind.name], f"a {kind.name}")
            with Store.create(folder / "store", "run", {}) as store:
                store.commit({"a": 1})
                same(manifests.load(folder / "store").meta, {"a": 1}, "a store")
        finally:
            time.time = real
        return None

    def _folder(self, kind: Kept, name: str, folder: Path) -> Done | None:
        try:
            (folder / name).mkdir()
        except (OSError, UnicodeError) as error:
            raise NotTried(f"this disk has no such names ({type(error).__name__})") from error
        copied(self.ground / kind.name, folder / name / "it")
        same(kind.read(folder / name / "it"), self.whole[kind.name], f"a {kind.name}")
        if kind.name != "run":
            kind.make(folder / name / name[:50])
            same(kind.read(folder / name / name[:50]), self.whole[kind.name], f"a {kind.name}")
        return None

    def _read_only(self, kind: Kept, folder: Path) -> Done | None:
        _as_user()
        place = copied(self.ground / kind.name, folder / "it")
        os.chmod(place, 0o500)
        try:
            same(kind.read(place), self.whole[kind.name], f"a {kind.name}")
        finally:
            os.chmod(place, 0o700)
        return None

    def _writing_read_only(self, folder: Path) -> Done | None:
        _as_user()
        (folder / "it").mkdir()
        (folder / "it").chmod(0o500)
        try:
            Store.create(folder / "it" / "store", "run", {})
        except StoreError as error:
            return refused(error)
        finally:
            (folder / "it").chmod(0o700)
        raise Silent("a store was made where nothing can be written")


def _as_user() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        raise NotTried("folders are closed to users only, and this one may write anywhere")


ROWS = (Surroundings,)
