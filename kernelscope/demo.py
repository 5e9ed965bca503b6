"""The built-in example: one small network, trained twice on the handwritten digits, explained on one page.

The training loop below is an ordinary one; the two lines of KernelScope around it are marked. The same held-out digits
are explained for both runs, so that the page can set the two optimizers side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from .data import Digits, digits
from .decomposition.explaining import explain
from .report import Report
from .run.recorder import record
from .storage.files import disk_errors, make_folder

if TYPE_CHECKING:
    from .decomposition.explanation import Explanation
    from .run.run import Run

HIDDEN, BATCH, EPOCHS, SEED = 32, 64, 10, 0
RIGHT, WRONG = 8, 4
RULE = (
    "The first {right} of the held-out set that both networks get right, and the first {wrong} that at least one of "
    "them gets wrong."
)

Optimizers = dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]]

OPTIMIZERS: Optimizers = {
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.01),
}
FOLDERS = {"SGD with momentum": "demo-sgd", "AdamW": "demo-adamw"}


@dataclass(frozen=True)
class Trained:
    """One of the two trainings: its run, its share of right answers on held-out digits, and why it answered so."""

    name: str
    run: Run
    accuracy: float
    why: Explanation


@dataclass(frozen=True)
class Demo:
    """What the example made.

    Attributes:
        trained: The two trainings.
        queries: Places of the explained digits in the held-out set.
        rule: How they were chosen, in words.
        page: The report.
        seconds: How long all of it took.
    """

    trained: tuple[Trained, ...]
    queries: list[int]
    rule: str
    page: Path
    seconds: float


def demo(out: str | Path = ".", *, epochs: int = EPOCHS, right: int = RIGHT, wrong: int = WRONG) -> Demo:
    """Trains twice, records, explains and writes ``reports/demo.html``, the same bytes each time.

    Args:
        out: The folder in which ``runs/demo-sgd``, ``runs/demo-adamw`` and ``reports/demo.html`` are written anew.
        epochs: How often each training goes through the digits.
        right: How many digits are explained that both networks get right.
        wrong: How many that at least one of them gets wrong.

    Example:
        >>> made = demo(epochs=1, right=1, wrong=1)
        >>> made.page.name, [len(trained.run) for trained in made.trained]
        ('demo.html', [23, 23])
    """
    with _one_thread():
        return _demo(Path(out), epochs, right, wrong)


def _demo(out: Path, epochs: int, right: int, wrong: int) -> Demo:
    begun = time.perf_counter()
    # What cannot be written is said before anything is trained.
    with disk_errors(out, 0):
        make_folder(out / "reports")
    training, held_out = digits("train"), digits("test")
    runs, answers = {}, {}
    for name, make in OPTIMIZERS.items():
        model = network()
        runs[name] = _train(model, make(model.parameters()), training, out / "runs" / FOLDERS[name], epochs)
        with torch.no_grad():
            answers[name] = model(held_out.x).argmax(1)
    queries = choose(list(answers.values()), held_out.y, right, wrong)
    x, y = held_out.x[queries], held_out.y[queries]
    trained = tuple(
        Trained(name, run, float((answers[name] == held_out.y).double().mean()),
                _named(explain(run, x, targets=y, k=8, progress=False), queries))
        for name, run in runs.items()
    )
    rule = RULE.format(right=right, wrong=wrong)
    page = _report(trained, training, held_out, rule, epochs)
    return Demo(trained, queries.tolist(), rule, page.save(out / "reports" / "demo.html"),
                time.perf_counter() - begun)


def _named(why: Explanation, queries: Tensor) -> Explanation:
    return replace(why, names=[f"held-out digit {i}" for i in queries.tolist()])


@contextmanager
def _one_thread() -> Iterator[None]:
    # Sums are then taken in one order, however many cores there are; and the matrices are too small to be shared out.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def network(seed: int = SEED) -> nn.Sequential:
    """The network before training: drawn from ``seed`` alone, whatever the state of the global generator."""
    generator = torch.Generator().manual_seed(seed)
    first = nn.utils.skip_init(nn.Linear, 64, HIDDEN)
    second = nn.utils.skip_init(nn.Linear, HIDDEN, 10)
    for layer in (first, second):
        bound = layer.in_features**-0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return nn.Sequential(first, nn.Tanh(), second)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, training: Digits, folder: Path, epochs: int) -> Run:
    loader = DataLoader(training, batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(SEED))
    with record(model, loader, loss=cross_entropy, out=folder, overwrite=True) as recording:  # the first line
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    return recording.run  # the second line


def choose(answers: list[Tensor], truth: Tensor, right: int, wrong: int) -> Tensor:
    """The places of the first ``right`` digits that all answers get right, and the first ``wrong`` of the others.

    Example:
        >>> choose([torch.tensor([0, 1, 2, 9]), torch.tensor([0, 1, 9, 9])], torch.tensor([0, 1, 2, 3]), 1, 5)
        tensor([0, 2, 3])
    """
    all_right = torch.stack([answer == truth for answer in answers]).all(0)
    return torch.cat([all_right.nonzero().flatten()[:right], (~all_right).nonzero().flatten()[:wrong]])


def _report(trained: tuple[Trained, ...], training: Digits, held_out: Digits, rule: str, epochs: int) -> Report:
    first = trained[0].run
    ways, scores = (" and ".join(words) for words in (
        [f"with {one.name}" for one in trained], [f"{100 * one.accuracy:.1f} %" for one in trained]))
    lead = (
        f"A network of {first.parameter_count:,} parameters learned from {len(training):,} handwritten digits, twice: "
        f"{ways}. Of {len(held_out)} digits that it never saw it reads {scores} right."
    )
    chosen = f"Explained below, for both: {rule[:1].lower()}{rule[1:]}"
    provenance = {
        "study": "kernelscope demo", "seed": SEED, "epochs": epochs, "batch size": BATCH,
        "data": "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), CC BY 4.0",
    }
    return Report("Why does it read this digit so?",
                  [lead, chosen, *((one.name, one.why) for one in trained)], provenance)
