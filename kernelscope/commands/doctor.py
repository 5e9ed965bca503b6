"""What this machine has, what is missing, and the line that mends it."""

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from . import Answer

HELP = "say what this machine has, what is missing, and the line that mends it"
PYTHON = (3, 11)
NEEDED = {
    "torch": "2.11", "numpy": "2.0", "scipy": "", "pandas": "2.2", "matplotlib": "3.9", "safetensors": "0.5",
    "jinja2": "3.1", "tqdm": "4.66",
}  # fmt: skip
OPTIONAL = {
    "pytest": "running the tests",
    "ipykernel": "the notebooks",
    "captum": "the side-by-side benchmarks",
}
LITTLE_ROOM = 200e6  # bytes; a recorded run of a small network
EXACT = 1e-12  # what is left over, as a share of the terms


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``pass``, ``note`` (it works, and here is what to know) or ``fail``."""

    name: str
    status: str
    value: str
    requirement: str | None = None  # what pip should install


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes nothing but a folder."""
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where runs would be written (default: here)")


def run(options: argparse.Namespace) -> Answer:
    """Looks at Python, the packages, torch's build, the GPU, the threads, the disk, and computes for a moment."""
    findings = [_python(), *_packages()]
    if all(finding.status != "fail" for finding in findings):
        findings += [*_machine(), _self_test()]
    findings.append(_writing(Path(options.out)))
    missing = [finding.requirement for finding in findings if finding.status == "fail" and finding.requirement]
    mend = pip_line(missing) if missing else None
    ok = all(finding.status != "fail" for finding in findings)
    rows = [f"{finding.status:4}  {finding.name:12}  {finding.value}" for finding in findings]
    ending = f"To mend it:\n  {mend}" if mend else "Ready." if ok else "See the lines marked fail."
    data = {"ok": ok, "findings": [asdict(finding) for finding in findings], "mend": mend}
    return Answer("\n".join([*rows, "", ending]), data, ok)


def pip_line(requirements: list[str]) -> str:
    """The line that installs what is missing into the Python that runs this, under the constraints if they are here."""
    constraints = ["-c", "constraints.txt"] if Path("constraints.txt").is_file() else []
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *constraints, *requirements])


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < PYTHON:
        return Finding("python", "fail", f"{version}; kernelscope needs Python {PYTHON[0]}.{PYTHON[1]} or newer")
    return Finding("python", "pass", f"{version} ({sys.executable})")


def _packages() -> Iterator[Finding]:
    for name, least in NEEDED.items():
        requirement = f"{name}>={least}" if least else name
        found = _version(name)
        if found is None:
            yield Finding(name, "fail", "not installed", requirement)
        elif _numbers(found) < _numbers(least):
            yield Finding(name, "fail", f"{found} is too old: {least} or newer is needed", requirement)
        else:
            yield Finding(name, "pass", found)
    for name, use in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, "pass" if found else "note", found or f"not installed; only needed for {use}", name)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _machine() -> Iterator[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "HIP" if torch.version.hip else "CPU"
    yield Finding("torch build", "pass", f"{torch.__version__}, built for {build}")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        yield Finding("gpu", "pass", f"{torch.cuda.get_device_name(0)}, {memory / 2**30:.0f} GiB")
    elif Path("/dev/nvidia0").exists():
        yield Finding("gpu", "note", "there is one, but this torch cannot use it; everything runs on the CPU")
    else:
        yield Finding("gpu", "pass", "none; everything runs on the CPU")
    threads, cores = torch.get_num_threads(), _cores()
    if threads > cores:
        yield Finding("threads", "note", f"torch uses {threads} on {cores} cores; OMP_NUM_THREADS={cores} is faster")
    else:
        yield Finding("threads", "pass", f"torch uses {threads} of {cores} cores")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _self_test() -> Finding:
    """Six steps are recorded and written as a sum: the sum must be the network, up to round-off."""
    import torch
    from torch.nn.functional import mse_loss

    from ..decomposition.exact import decompose
    from ..errors import KernelscopeError
    from ..run.recorder import record

    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(8, width, generator=generator, dtype=torch.float64) for width in (3, 1))
    model = torch.nn.Sequential(*(torch.nn.utils.skip_init(torch.nn.Linear, *widths, dtype=torch.float64)
                                  for widths in ((3, 4), (4, 1))))
    model.insert(1, torch.nn.Tanh())
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -1, 1, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    try:
        with record(model, (x, y), loss=mse_loss) as recording:
            for _ in range(6):
                optimizer.zero_grad()
                mse_loss(model(x), y).backward()
                optimizer.step()
        error = decompose(recording.run, x[:2], progress=False).completeness()
    except KernelscopeError as failure:
        return Finding("self-test", "fail", f"six steps could not be recorded: {failure}")
    seconds = time.perf_counter() - began
    if not error < EXACT:
        return Finding("self-test", "fail", f"a sum of machines misses its network by {error:.1e}", "torch")
    return Finding("self-test", "pass", f"a sum of machines is its network to {error:.0e}, in {seconds:.2f} s")


def _writing(folder: Path) -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".kernelscope-", suffix=".part") as file:
            file.write(b"0" * 4096)
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("writing", "fail", f"{folder.absolute()} cannot be written to ({error.strerror}); use --out")
    if free < LITTLE_ROOM:
        return Finding("writing", "note", f"{folder.absolute()} has only {free / 1e6:.0f} MB left")
    return Finding("writing", "pass", f"{folder.absolute()}, {free / 1e9:.1f} GB free")
