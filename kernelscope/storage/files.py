"""Files that are there whole, or not at all.

Bytes go to ``<name>.part``, are brought to the disk, and only then take their name. What is read is a regular file
inside its folder: no link, no pipe, no device is ever followed or opened.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StoreError, StoreFull, UnsafeFile

PART = ".part"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The manifest of the same commit has to fit on the disk as well.
RESERVE = 64 * 1024
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
BINARY = getattr(os, "O_BINARY", 0)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` at ``path`` so that a reader finds the old file or the new one, whole, whatever happens meanwhile.

    Its folder must be there. A link at ``path`` is replaced, not followed.

    Args:
        path: Where the file goes.
        data: All of its bytes.

    Raises:
        StoreFull: The disk has no room; the old file is intact.
        StoreError: The file cannot be written there, or there is no such folder; the old file is intact.

    Example:
        >>> from kernelscope.storage import write_atomically
        >>> write_atomically("page.html", b"<p>done</p>")
        >>> Path("page.html").read_text()
        '<p>done</p>'
    """
    target = Path(path)
    if "\0" in str(target):
        raise StoreError(
            f"{str(target)!r} holds a zero character, and no file name can. Rename it; nothing was written."
        )
    with disk_errors(target, len(data)):
        folder_of(target)
        # Two processes that write the same page must not share a part: one would rename the other's half.
        part = target.with_name(f"{target.name[:48]}.{secrets.token_hex(4)}{PART}")
        write_file(target, [data], part=part, commit=True)


def folder_of(target: Path) -> Path:
    """The folder of a file that is to be written.

    Raises:
        StoreError: If there is no such folder, or the file is one.
    """
    if target.is_dir():
        raise StoreError(f"{target} is a folder, and a file should be written there. Name a file inside it.")
    if not target.parent.is_dir():
        raise StoreError(f"There is no folder {target.parent} to write {target.name} into. {_making(target.parent)}")
    return target.parent


def make_folder(folder: Path) -> None:
    """Makes a folder, and the one it lies in where that is missing too.

    Raises:
        StoreError: If more is missing: such a path is more often mistyped than meant.
    """
    if "\0" in str(folder):
        raise StoreError(f"{str(folder)!r} holds a zero character, and no folder's name can. Rename it.")
    above = folder.parent.parent
    if not folder.parent.is_dir() and not above.is_dir():
        raise StoreError(
            f"There is no folder {above}, so {folder} cannot be made in it. {_making(above)} The folder itself and "
            "the one it lies in are made where they are missing."
        )
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)


def _making(folder: Path) -> str:
    return f"Check the path, or make the folder first: mkdir -p {shlex.quote(str(folder))}."


def write_file(
    target: Path, chunks: Iterable[bytes | memoryview], *, part: Path | None = None, commit: bool = False
) -> None:
    """Write ``chunks`` beside ``target``, bring them to the disk, and give them their name.

    With ``commit``, every name given before is on the disk before this one is, and this one on return; without, the
    bytes are on the disk and the name waits for the next commit.
    """
    part = part or target.with_name(target.name + PART)
    try:
        descriptor = _create(part)
        try:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if commit:
            sync_folder(target.parent)
        os.replace(part, target)
        if commit:
            sync_folder(target.parent)
    except BaseException:
        # An interrupted write leaves no stump behind.
        with suppress(OSError):
            os.unlink(part)
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk."""
    if os.name == "nt":
        return  # Windows cannot open a folder, and keeps its names in a journal.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(folder: Path, name: str, limit: int, size: int | None = None) -> bytes | None:
    """All bytes of the regular file ``name`` directly inside ``folder``; None when their number is not ``size``.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafeFile: It is a link, a pipe or a device, lies elsewhere, or is larger than ``limit`` bytes.
        StoreError: The disk refuses to read it.
    """
    path = inside(folder, name)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise _not_regular(path)
        with open(os.open(path, os.O_RDONLY | NO_FOLLOW | BINARY), "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _not_regular(path)
            if size is not None and found.st_size != size:
                return None
            if found.st_size > limit:
                raise UnsafeFile(
                    f"{path} has {found.st_size:,} bytes, and a file of its kind has at most {limit:,}. It was not "
                    "written by kernelscope, or is damaged; nothing of it was read. Restore it from a copy."
                )
            data = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_regular(path) from error
        raise StoreError(
            f"{path} cannot be read: {error.strerror}. Check its permissions and the disk; nothing was changed."
        ) from error
    except MemoryError as error:
        raise StoreError(
            f"{path} does not fit into memory ({size or 'unknown'} bytes). Read it on a larger machine; "
            "nothing was changed."
        ) from error
    return data if size is None or len(data) == size else None


def inside(folder: Path, name: str) -> Path:
    """The path of ``name`` directly inside ``folder``, or `UnsafeFile`."""
    path = folder / name
    if not re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,99}", name) or ".." in name or path.parent != folder:
        raise UnsafeFile(
            f"{folder} names a file {name[:100]!r}, and a stored file has a plain lower-case name inside its folder. "
            "The manifest was not written by kernelscope; nothing was read or written. Do not use this folder."
        )
    return path


def free_bytes(folder: Path) -> int | None:
    """How many bytes this process may still write where ``folder`` lies; None when the system does not say."""
    if not hasattr(os, "statvfs"):
        return None
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else None


def ask_for_room(folder: Path, needed: int) -> None:
    """Raise `StoreFull` before anything is written, when ``needed`` bytes do not fit."""
    free = free_bytes(folder)
    if free is not None and needed + RESERVE > free:
        raise _full(folder, needed, free)


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """Turn the system's errors while ``needed`` bytes are written to ``path`` into errors that finish the sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            free = None
            with suppress(OSError):
                free = free_bytes(path if path.is_dir() else path.parent)
            raise _full(path, needed, free) from error
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}. Check that the folder exists, that you may write "
            "there and that the disk is healthy; what was committed before is intact."
        ) from error


def _create(part: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY
    try:
        return os.open(part, flags, 0o666)
    except FileExistsError:
        # A part of a process that was killed, or a planted link: the name goes, what it points to stays.
        os.unlink(part)
        return os.open(part, flags, 0o666)


def _full(path: Path, needed: int, free: int | None) -> StoreFull:
    has = "the system does not say how many are free" if free is None else f"{free:,} are free"
    return StoreFull(
        f"{path} needs {needed:,} bytes, and {has}: the disk, a quota or a file size limit is exhausted. Make room or "
        "write elsewhere, then go on; what was committed before is intact."
    )


def _not_regular(path: Path) -> UnsafeFile:
    return UnsafeFile(
        f"{path} is a link, a folder, a pipe or a device, and a stored file is a regular file. Somebody put it there; "
        "it was not followed. Replace it by the file itself."
    )
