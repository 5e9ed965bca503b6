"""From the words after a command to a run and to the points that are asked about."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, ModelError, NonFiniteError, StoreError, UnsafeFile
from .scripts import Imported, dotted, imported, is_file

if TYPE_CHECKING:
    import torch

    from ..run.run import Run

KINDS = (".npy", ".npz", ".safetensors")
HARDEST, OTHERS, SEED = 6, 6, 0


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes that opens a run."""
    parser.add_argument("run", metavar="RUN", help="the folder of a recorded run")
    code = "only for a run whose folder does not describe it; as module:name or path/to/file.py:name"
    parser.add_argument("--model", metavar="MODULE:FUNCTION", help=f"what makes the model; {code}")
    parser.add_argument("--loss", metavar="MODULE:FUNCTION", help=f"the per-sample loss; {code}")
    parser.add_argument("--data", metavar="MODULE:FUNCTION", help="what makes the training set, to be compared with it")


def query_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes that asks about points."""
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--input", metavar="FILE",
                       help=f"points as the network takes them ({', '.join(KINDS)}); of several arrays those called x, "
                            "and y are their true answers")
    asked.add_argument("--sample", metavar="ID", type=int, nargs="+", help="training samples, by their ids")


def folder(options: argparse.Namespace) -> Path:
    """The folder that was named.

    Raises:
        StoreError: If no name was given at all.
    """
    if not options.run.strip():
        from ..run.opening import RUN

        raise StoreError(f"There is no folder {options.run!r}. {RUN}")
    return Path(options.run)


def open_run(options: argparse.Namespace) -> Run:
    """The run in the folder that was named, with its code where that was named too.

    Raises:
        StoreError: If there is no run in the folder.
        ModelError: If the model has code of its own and ``--model`` was not given.
        DataError: If the loss has, and ``--loss`` was not given.
    """
    from torch import nn

    from ..losses import named_loss
    from ..run.calling import is_known
    from ..run.opening import load, run_store
    from .generative import known_loss

    meta = run_store(folder(options), verify="size").meta
    if options.model is None and meta.get("architecture") is None and not is_known(meta):
        name = str((meta.get("fingerprint") or {}).get("model") or "Model")
        way = suggested(meta.get("notes"), name)
        raise ModelError(
            f"{options.run} was recorded from a model with code of its own, a {name}, and a run keeps numbers, not "
            f"code. Name what makes it, without arguments: --model {way}."
        )
    given = known_loss(meta) if options.loss is None else None
    if options.loss is None and given is None and named_loss(meta.get("loss"), meta.get("loss_options") or {}) is None:
        raise DataError(
            f"{options.run} was recorded with a loss of its own, and a run keeps numbers, not code. Name the function "
            '(outputs, targets, reduction="none"): --loss module:function.'
        )
    model = None if options.model is None else made(options.model, "--model")
    if options.model is not None and not isinstance(model, nn.Module):
        raise ModelError(f"--model {options.model} gives a {type(model).__name__}, and a torch.nn.Module is needed. "
                         "Name the class of the network, or a function that returns it.")
    loss = given if options.loss is None else named(options.loss, "--loss")
    data = None if options.data is None else made(options.data, "--data")
    return load(options.run, model=model, data=data, loss=loss)


def maker(kind: type, script: Path) -> str:
    """How ``--model`` names a class that a script used, or a function that is still to be written."""
    home = str(script) if kind.__module__ in ("__main__", "__mp_main__") else kind.__module__
    simple = kind.__qualname__.isidentifier() and not _needed(kind)
    return f"{home}:{kind.__qualname__ if simple else 'function'}"


def suggested(notes: dict[str, Any] | None, name: str) -> str:
    """What ``--model`` may be for a run, as far as the script that made it is still here."""
    words = str((notes or {}).get("script") or "").split()
    script = Path(words[0]) if words and words[0].endswith(".py") else None
    try:
        here = script is not None and re.search(rf"^class {re.escape(name)}\b", script.read_text("utf-8"), re.MULTILINE)
    except (OSError, ValueError):
        here = None
    return f"{script}:{name}" if here else f"module:{name}"


def named(word: str, flag: str) -> Any:
    """What ``module:name`` or ``path/to/file.py:name`` stands for.

    A module is imported, from the current folder first; a file is read where it is, and finds what lies beside it.

    Example:
        >>> named("math:sqrt", "--loss")(9.0)
        3.0
    """
    module, colon, name = word.rpartition(":")
    if not (module and colon and name.replace(".", "_").isidentifier()):
        raise DataError(f"{flag} takes module:function or file.py:function, for example {flag} train:make; {word!r} "
                        "came.")
    if is_file(module) and not Path(module).is_file():
        raise DataError(f"{flag} {word} cannot be used: there is no file {module} in {Path.cwd()}. Name a file by its "
                        f"path, or a module as Python imports it, with dots: {flag} {dotted(module)}:{name}.")
    if not is_file(module) and dotted(module) != module:
        beside = Path(f"{module}.py").is_file()
        way = f"the file, {flag} {module}.py:{name}" if beside else f"the module, {flag} {dotted(module)}:{name}"
        raise DataError(f"{flag} {word} cannot be used: a module is named with dots, and a file with its ending. Name "
                        f"{way}.")
    try:
        with Imported(word, flag):
            value = imported(module)
            for part in name.split("."):
                value = getattr(value, part)
    except DataError as error:
        if isinstance(error.__cause__, ImportError | AttributeError):
            places = f"beside the file, in {Path.cwd()}" if is_file(module) else f"in {Path.cwd()}"
            raise DataError(
                f"{flag} {word} cannot be used: {error.__cause__}. Modules are looked for {places} and among the "
                "installed ones."
            ) from error.__cause__
        raise
    return value


def made(word: str, flag: str) -> Any:
    """What the function that a word names returns; a module or a data set that is there already is taken as it is."""
    from torch import nn

    value = named(word, flag)
    if isinstance(value, nn.Module) or not callable(value):
        return value
    needed = _needed(value)
    if needed:
        raise DataError(
            f"{flag} {word} must be callable without arguments, and it asks for {needed}. Write a function of no "
            "arguments that returns it, and name that."
        )
    with Imported(word, flag):
        return value()


def _needed(function: Callable[..., Any]) -> str:
    """The arguments that a function cannot be called without, in words."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return "some"  # written in C, and made for something else
    return ", ".join(p.name for p in parameters
                     if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))


@dataclass(frozen=True)
class Queries:
    """Points that are asked about: inputs, true answers if known, a name for each, and how they were chosen."""

    x: torch.Tensor
    targets: torch.Tensor | None
    names: list[str]
    rule: str


def queries(run: Run, options: argparse.Namespace, hardest: int = HARDEST, others: int = OTHERS) -> Queries:
    """The points that ``--input`` or ``--sample`` name; without either, training samples chosen by a fixed rule.

    The rule: the samples whose loss is largest at the end of training, and some of the others drawn with a fixed seed.
    """
    import torch

    from ..decomposition.wording import counted

    if len(run.samples.inputs) != 1:
        raise DataError(
            f"The network of {options.run} takes {len(run.samples.inputs)} inputs, and the command line asks about "
            "networks that take one. Use kernelscope.decompose(run, (x1, x2, ...)) in Python."
        )
    if options.input is not None:
        held = held_in(options.input)
        x = as_trained(read(options.input), run, options.input)
        which = "The point" if len(x) == 1 else f"All {len(x):,} points"
        names = [f"Point {i}" for i in range(len(x))]
        return Queries(x, _truths(held, run, len(x)), names, f"{which} of {Path(options.input).name}.")
    if options.sample is not None:
        columns, rule = [_column(run, i) for i in options.sample], "The training samples that were named."
    else:
        columns, count = hardest_and_others(run, hardest, others)
        rest = len(columns) - count
        rule = f"The {counted(count, 'training sample')} whose loss was largest at the end of training"
        if count == 1:
            rule = "The training sample whose loss was largest at the end of training"
        rule += f", and {counted(rest, 'other')} drawn with seed {SEED}." if rest else "."
    pairs = [pair for pair in map(run.sample, columns) if pair is not None]
    names = [f"Training sample {run.samples.ids[i]}" for i in columns]
    return Queries(torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs]), names, rule)


def _truths(held: dict[str, torch.Tensor], run: Run, count: int) -> torch.Tensor | None:
    """The true answers that a file holds as y beside its points, where they have the form of those in training."""
    table = run.samples.targets
    if len(held) < 2 or table is None or "y" not in held:
        return None
    y = held["y"]
    if y.shape != (count, *table.shape[1:]) or y.is_floating_point() != table.is_floating_point():
        return None
    return y.to(table.dtype)


def read(path: str, flag: str = "--input", name: str = "x") -> torch.Tensor:
    """The one array of a file, or the one with a name; nothing in it is ever unpickled.

    Raises:
        DataError: If there is no such file, or it holds no or several arrays.
        UnsafeFile: If it asks for unpickling.
    """
    held = held_in(path, flag)
    if name not in held and len(held) != 1:
        raise DataError(f"{path} holds the arrays {', '.join(sorted(held)) or 'none'}. Keep one, or call one {name}.")
    return held.get(name, next(iter(held.values())))


def held_in(path: str, flag: str = "--input") -> dict[str, torch.Tensor]:
    """The arrays of a file by name; one without a name is called x.

    Raises:
        DataError: If there is no such file, or it is damaged.
        UnsafeFile: If it asks for unpickling.
    """
    file = Path(path)
    if file.suffix not in KINDS or not file.is_file():
        why = "it is a folder" if file.is_dir() else "there is no such file"
        why = f"its name ends in {file.suffix!r}" if file.is_file() else why
        raise DataError(f"{flag} takes a file that ends in {', '.join(KINDS)}; {path} came, and {why}.")
    readers: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
        ".npy": _numpy, ".npz": _numpy, ".safetensors": _safetensors,
    }  # fmt: skip
    return readers[file.suffix](file)


def _numpy(file: Path) -> dict[str, torch.Tensor]:
    import zipfile
    import zlib
    from tokenize import TokenError

    import numpy as np

    try:
        with file.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            arrays = {"x": content} if isinstance(content, np.ndarray) else dict(content)
    except ValueError as error:
        raise UnsafeFile(
            f"{file} holds Python objects or no array at all, and nothing is unpickled here. Save an array of numbers "
            "with numpy.save."
        ) from error
    except MemoryError as error:
        raise DataError(f"The array of {file} does not fit into memory ({error}). Save fewer points, or see "
                        "whether the file is what it should be.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, OverflowError, NotImplementedError, SyntaxError,
            TokenError) as error:
        raise DataError(f"{file} is damaged ({error}). Save it again with numpy.save.") from error
    return {name: _tensor(array, file) for name, array in arrays.items()}


def _tensor(array: Any, file: Path) -> torch.Tensor:
    import numpy as np
    import torch

    if not isinstance(array, np.ndarray):
        raise UnsafeFile(f"{file} is an archive that holds something else than arrays, such as a checkpoint of torch, "
                         "and nothing is unpickled here. Save an array of numbers with numpy.save.")
    if array.dtype.kind not in "biufc":
        raise DataError(f"{file} holds {array.dtype}, and numbers are needed. Save an array of numbers.")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is damaged ({error}). Save it again with safetensors.torch.save_file.") from error


def as_trained(x: torch.Tensor, run: Run, path: str) -> torch.Tensor:
    """Points in the form in which training drew samples."""
    table = run.samples.inputs[0]
    shape = tuple(table.shape[1:])
    if x.is_floating_point() and not table.is_floating_point() or x.is_complex():
        raise DataError(f"The network was trained on {table.dtype}, and {path} holds {x.dtype}. Convert it before.")
    x = x[None] if tuple(x.shape) == shape else x
    if tuple(x.shape[1:]) != shape or not x.ndim:
        raise DataError(
            f"{path} must hold points as the network takes them, with shape (n{''.join(f', {s}' for s in shape)}); "
            f"an array of shape {tuple(x.shape)} came."
        )
    if not len(x):
        raise DataError(f"{path} holds no point at all: its shape is {tuple(x.shape)}. Save one row for each point.")
    converted = x.to(table.dtype)
    odd = (~converted.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(odd):
        beyond = f", or numbers that {str(table.dtype).removeprefix('torch.')} cannot hold"
        raise NonFiniteError(f"Point {int(odd[0])} of {path} holds NaN or infinite values{beyond}. Mend or remove it.")
    return converted


def _column(run: Run, sample: int) -> int:
    if sample not in run.samples.ids:
        ids = run.samples.ids
        raise DataError(f"The run has no sample {sample}; its {len(ids)} samples are {min(ids)} to {max(ids)}.")
    column = run.samples.ids.index(sample)
    if run.sample(column) is None:
        raise DataError(f"Training never drew sample {sample}, so its content is unknown. Name another one.")
    return column


def hardest_and_others(run: Run, hardest: int, others: int) -> tuple[list[int], int]:
    """Columns of the hardest samples and of some others, and how many are the hardest."""
    import torch

    columns = run.samples.seen[: run.size].nonzero().flatten()
    losses = final_losses(run, columns)
    order = losses.argsort(descending=True, stable=True)
    drawn = torch.randperm(max(len(order) - hardest, 0), generator=torch.Generator().manual_seed(SEED))[:others]
    chosen = torch.cat([order[:hardest], order[hardest:][drawn].sort().values])
    return columns[chosen].tolist(), min(hardest, len(order))


def final_losses(run: Run, columns: torch.Tensor, block: int = 512) -> torch.Tensor:
    """The loss of each sample at the end of the run, with shape :math:`(n,)`."""
    import torch

    from ..network import cast, exact_arithmetic, per_sample_losses

    parameters, buffers = run.parameters(), run.buffers(run.stop)
    device = next(iter(run.network.parameters.values())).device
    parts = []
    with torch.no_grad(), exact_arithmetic():
        for part in columns.split(block):
            inputs, targets = run.samples.batch(part)
            outputs = run.network(cast(parameters, run.dtype, device), buffers, tuple(x.to(device) for x in inputs))
            parts.append(per_sample_losses(run.loss, outputs, targets.to(device), len(part)).double().cpu())
    return torch.cat(parts)
