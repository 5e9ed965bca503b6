"""Checkpoint files, as many programs write them, read without running anything that they hold.

A file of torch is read by ``torch.load(weights_only=True)`` and in no other way; what that refuses stays unread. A zip
file whose entries are packed, or are together larger than the file, is no checkpoint of torch and is not opened.
"""

from __future__ import annotations

import glob
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_whole, what_came
from ..errors import DataError, StoreCorrupt, StoreError, UnsafeFile
from ..text import shown

#: Endings of files that torch writes.
OF_TORCH = (".pt", ".pth", ".bin", ".ckpt")

#: In a folder, the file with the parameters, the first that is there.
IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
             "adapter_model.safetensors", "model.pt", "model.pth")

#: Where in a file of torch the parameters are, and where the optimizer's states.
STATES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
OPTIMIZERS = ("optimizer_state_dict", "optimizer", "optimizer_states", "optim", "optimizer_state")

#: Where a file says how many updates were made before it.
STEPS = ("global_step", "step", "steps", "iteration", "iter")

#: The last number of a name, unless it is what stands behind a decimal point, as of a loss or an accuracy.
LAST = r"(?<!\d)(?<!\d\.)(\d+)(?!.*\d)"

#: What a Trainer leaves beside parameters.
BESIDE = ("optimizer.pt", "scheduler.pt", "training_args.bin", "scaler.pt", "rng_state.pth")

#: The largest file of words beside a checkpoint.
WORDS = 64 * 2**20


@dataclass(frozen=True)
class Found:
    """What a checkpoint holds.

    Attributes:
        tensors: Its parameters and buffers, by name.
        optimizer: The state dictionary of its optimizer, if there is one.
        step: The number of updates made before it, if it says so.
        rates: The learning rates logged by then, by step.
    """

    tensors: dict[str, Tensor]
    optimizer: Mapping[str, Any] | None
    step: int | None
    rates: dict[int, float]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: a file, a folder, or a state dictionary in memory.

    Attributes:
        name: What it is called in messages.
        path: Where it is; ``None`` in memory.
        held: What is in memory.
        step: The number of updates made before it, where that was said beside it.
    """

    name: str
    path: Path | None = None
    held: Mapping[str, Any] | None = None
    step: int | None = None

    def read(self) -> Found:
        """Everything it holds.

        Raises:
            UnsafeFile: If it can only be read by running what it holds.
            StoreCorrupt: If it is damaged.
            StoreError: If it is no checkpoint.
        """
        found = (_taken_apart(self.held, self.name) if self.path is None else _folder(self.path) if self.path.is_dir()
                 else _taken_apart(_file(self.path), self.name))
        return found if self.step is None else replace(found, step=self.step)

    def named_step(self) -> tuple[int, str] | None:
        """The number in its name, and whether it counts steps or epochs, or says neither."""
        if self.path is None:
            return None
        stem = self.path.name if self.path.is_dir() else self.path.name[:-len(self.path.suffix) or None]
        for kind, pattern in (("steps", r"(?:global[_-]?step|steps?|iter(?:ation)?s?)[=_\-.]?(\d+)"),
                              ("epochs", r"(?:epochs?|ep)[=_\-.]?(\d+)"), ("numbers", LAST)):
            found = re.search(pattern, stem, re.IGNORECASE)
            if found and len(found[1]) < 16:
                return int(found[1]), kind
        return None


def find_checkpoints(given: Any) -> list[Checkpoint]:
    """The checkpoints that a pattern, a list of paths or a list of state dictionaries names, in natural order.

    Raises:
        StoreError: If there is none.
        DataError: If something else was given.
    """
    if isinstance(given, Mapping):
        # A dictionary of state dictionaries by step is as good as two lists.
        if given and all(as_whole(key) is not None and isinstance(value, Mapping | str | Path)
                         for key, value in given.items()):
            return [_at(int(key), given[key]) for key in sorted(given)]
        raise DataError("One state dictionary came, and a run needs two checkpoints at least. Pass a list of them, or "
                        "{step: state dictionary or path} with the number of updates before each.")
    if isinstance(given, str | Path):
        return _on_disk(str(given))
    if not isinstance(given, Iterable):
        raise DataError(f"checkpoints must be a pattern, a list of paths or of state dictionaries; {what_came(given)} "
                        'came. Pass for example "ckpts/*.pt".')
    items = list(given)
    for item in items:
        if not isinstance(item, str | Path | Mapping):
            raise DataError(f"A checkpoint is a path or a state dictionary; {what_came(item)} came. Pass what "
                            "model.state_dict() gave, or the files it was saved to.")
    return [Checkpoint(f"checkpoint {i}", held=item) if isinstance(item, Mapping) else
            Checkpoint(shown(str(item)), _there(Path(item))) for i, item in enumerate(items)]


def _at(step: int, given: Mapping[str, Any] | str | Path) -> Checkpoint:
    """What a step is said to have."""
    if step < 0:
        raise DataError(f"A checkpoint is said to be of step {step}. Pass the number of updates before it, from 0 on.")
    if isinstance(given, Mapping):
        return Checkpoint(f"step {step}", held=given, step=step)
    return Checkpoint(shown(str(given)), _there(Path(given)), step=step)


def _on_disk(given: str) -> list[Checkpoint]:
    paths = [Path(name) for name in glob.glob(given)]
    if len(paths) == 1 and paths[0].is_dir():
        folders = [p for p in paths[0].iterdir() if p.is_dir() and _inside(p) is not None]
        if _inside(paths[0]) is None:
            paths = folders + [p for p in paths[0].iterdir() if p.suffix in (*OF_TORCH, ".safetensors")]
        elif folders:
            # The folder that a Trainer wrote to: the final model beside the checkpoints, and the last of them, mostly.
            _warn_of_another_end(paths[0], max(folders, key=_natural))
            paths = folders
    paths = [path for path in paths if path.is_dir() or path.name not in BESIDE]
    if not paths:
        raise StoreError(
            f"No checkpoint is called {shown(given)!r}. Pass a pattern such as 'ckpts/*.pt', a folder of checkpoints, "
            f"or a list of paths; files end in {', '.join((*OF_TORCH, '.safetensors'))}."
        )
    return [Checkpoint(shown(str(path)), path) for path in sorted(paths, key=_natural)]


def _warn_of_another_end(folder: Path, last: Path) -> None:
    """Says that the final model of a folder is not its last checkpoint, where that is so."""
    try:
        final, there = _folder(folder).tensors, _folder(last).tensors
    except StoreError:
        return
    if any(name in there and not torch.equal(t, there[name].to(t.dtype)) for name, t in final.items()):
        warnings.warn(
            f"The model in {shown(str(folder))!r} is not that of its last checkpoint, {last.name}, at which this run "
            "ends: training went on after it, or another checkpoint was the best. To end at that model pass "
            "{step: path, ...}, with the number of updates before each and this folder as the last.", stacklevel=5)


def _natural(path: Path) -> list[Any]:
    """Numbers in names are compared as numbers: step9 comes before step10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def _there(path: Path) -> Path:
    if not path.exists():
        raise StoreError(f"There is no checkpoint {shown(str(path))!r}. Check the path, or pass a pattern.")
    return path


def _inside(folder: Path) -> str | None:
    return next((name for name in IN_FOLDER if (folder / name).is_file()), None)


def _folder(folder: Path) -> Found:
    """A folder as Hugging Face's Trainer writes it."""
    name = _inside(folder)
    if name is None:
        raise StoreError(f"The folder {shown(str(folder))!r} holds no checkpoint: none of {', '.join(IN_FOLDER)} is in "
                         "it. Name the files, or the folders checkpoint-*.")
    if name.endswith(".index.json"):
        tensors: dict[str, Tensor] = {}
        parts = _words(folder / name).get("weight_map", {})
        for part in sorted({str(part) for part in parts.values()} if isinstance(parts, dict) else ()):
            if Path(part).name != part:
                raise UnsafeFile(f"{folder / name} names the file {shown(part)!r} outside of its folder; nothing of it "
                                 "was read. Do not use this folder.")
            tensors |= _taken_apart(_file(folder / part), str(folder / part)).tensors
        found = Found(tensors, None, None, {})
    else:
        found = _taken_apart(_file(folder / name), str(folder / name))
    state = _words(folder / "trainer_state.json") if (folder / "trainer_state.json").is_file() else {}
    logged = state.get("log_history")
    rates = {entry["step"]: float(entry["learning_rate"]) for entry in (logged if isinstance(logged, list) else [])
             if isinstance(entry, dict) and type(entry.get("step")) is int
             and isinstance(entry.get("learning_rate"), int | float)}
    step = state.get("global_step")
    held = _file(folder / "optimizer.pt") if (folder / "optimizer.pt").is_file() else found.optimizer
    optimizer = held if isinstance(held, Mapping) else None
    if type(step) is not int or step < 0:
        step = updates(optimizer) if found.step is None else found.step
    return Found(found.tensors, optimizer, step, rates)


def _words(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > WORDS:
            raise UnsafeFile(f"{path} has {path.stat().st_size:,} bytes, and such a file has far fewer. Do not use it.")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreCorrupt(f"{path} cannot be read ({type(error).__name__}). Restore it from a copy, or pass the files "
                           "with the parameters and steps=[...].") from error
    return found if isinstance(found, dict) else {}


def _file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix not in OF_TORCH:
        raise StoreError(f"{shown(str(path))!r} is no checkpoint that is known: such files end in "
                         f"{', '.join((*OF_TORCH, '.safetensors'))}. Rename it, or save the state dictionary again.")
    _refuse_packed(path)
    try:
        with warnings.catch_warnings():
            # torch warns of pickles that it did not write, and then refuses or reads them as any other.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
        raise UnsafeFile(
            f"{shown(str(path))!r} asks for code to be run when it is read"
            f"{f' ({shown(wanted[1])})' if wanted else ''}; it was not, and nothing of the file was used. Where you "
            "trust it, load it yourself and save its tensors alone: torch.save(model.state_dict(), path), or a "
            "safetensors file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
            ArithmeticError, MemoryError) as error:
        raise _damaged(path, error) from error


def _refuse_packed(path: Path) -> None:
    """Refuses a zip file that holds more than its bytes."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    size = path.stat().st_size
    odd = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED or e.filename.startswith("/")
           or ".." in Path(e.filename).parts]
    if odd or sum(e.file_size for e in entries) > size:
        why = f"its entry {shown(odd[0][:80])!r} is packed or lies elsewhere" if odd else "it holds more than its bytes"
        raise UnsafeFile(f"{shown(str(path))!r} is a zip file that torch did not write: {why}; nothing of it was read. "
                         "Save the state dictionary again with torch.save.")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    said = shown((str(error).strip().splitlines() or [""])[0][:160])
    return StoreCorrupt(f"{shown(str(path))!r} is no checkpoint that can be read ({type(error).__name__}: {said}). It "
                        "is damaged, cut short, or has the ending of another kind of file. Restore it from a copy, or "
                        "leave it out.")


def _taken_apart(content: Any, name: str) -> Found:
    """Parameters, optimizer and step, wherever a file keeps them."""
    if not isinstance(content, Mapping):
        raise StoreError(f"{name} holds a {type(content).__name__}, and a checkpoint holds a state dictionary. Save "
                         "model.state_dict().")
    tensors = content
    while True:
        inner = next((tensors[key] for key in STATES if isinstance(tensors.get(key), Mapping)
                      and any(isinstance(t, Tensor) for t in _flat(tensors[key]))), None)
        if inner is None:
            break
        tensors = inner
    held = {str(key): t.detach() for key, t in tensors.items() if isinstance(t, Tensor)}
    if not held:
        keys = shown(", ".join(map(str, list(content)[:6])))
        raise StoreError(f"{name} holds no tensors by name (its keys: {keys or 'none'}). "
                         "Save model.state_dict().")
    optimizer = next((content[key] for key in OPTIMIZERS if content.get(key) and tensors is not content), None)
    if isinstance(optimizer, list | tuple) and len(optimizer) == 1:
        optimizer = optimizer[0]
    step = next((as_whole(content[key]) for key in STEPS if tensors is not content
                 and not isinstance(content.get(key), bool | None) and _is_count(content[key])), None)
    optimizer = optimizer if isinstance(optimizer, Mapping) else None
    return Found(held, optimizer, updates(optimizer) if step is None else step, {})


def updates(optimizer: Mapping[str, Any] | None) -> int | None:
    """How many updates an optimizer's states have seen, as Adam and its kin count them; ``None`` where they do not."""
    states = (optimizer or {}).get("state")
    counts = [float(own["step"]) for own in (states.values() if isinstance(states, Mapping) else ())
              if isinstance(own, Mapping) and (isinstance(own.get("step"), int | float)
                                               or isinstance(own.get("step"), Tensor) and own["step"].numel() == 1)]
    most = max(counts, default=-1.0)
    return int(most) if 0 <= most < 2**53 and most == int(most) else None


def _is_count(value: Any) -> bool:
    found = as_whole(value)
    return found is not None and 0 <= found < 2**53


def _flat(states: Mapping[str, Any]) -> Iterator[Any]:
    yield from states.values()
    for value in states.values():
        if isinstance(value, Mapping):
            yield from value.values()
