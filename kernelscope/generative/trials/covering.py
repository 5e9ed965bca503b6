r"""What denoisers and GANs cover, compared so that neither is favoured.

Which of two models covers more turns with their settings, and settings chosen by hand are chosen for one of them. So
each gets the same small search: as many settings, as many presentations, judged by the coverage of validation points
that are taken out of the training points. The chosen setting is trained anew, on seeds of its own and on all training
points, and judged by held-out points that no choice saw. Seeds are paired:

.. math:: \Delta = \frac1S \sum_s (c^{\text{denoiser}}_s - c^{\text{GAN}}_s) \pm t_{0.975, S-1} \frac{s_\Delta}{\sqrt S}

and the two are called apart only where this interval leaves out 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, as_count, as_part
from ...diagnostics.winners import Interval
from ...errors import DataError
from ...result import Check, CheckRow, Result
from ..denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from ..denoising.noise import schedule
from ..denoising.sampling import sample
from ..games.adversary import Adversary
from ..measures import LEAST_SEEDS, coverage_density, intervals, memorised
from .many import ManyDenoisers, ManyGames, train_many, train_many_games

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CoveragePlan", "CoverageTrial", "Setting", "coverage_trial"]

#: The courses that are compared: a denoiser and a GAN of as many presentations, a denoiser of about as much time.
DENOISER, GAN, LONGER = "denoiser", "GAN", "denoiser, longer"

#: What is measured of samples.
OF_SAMPLES = ("coverage", "density", "memorised")

#: What was not trained, in the order of the page.
NULLS = ("real points", "the optimal denoiser", "the Wiener denoiser", "the untrained denoiser", "the untrained GAN")

#: How near the coverages of matched checkpoints are, and by how much CPU seconds may differ that are called the same.
NEAR, ALIKE = 0.05, 0.25

#: At which parts of a course it is looked at, beside its end.
PARTS = (1 / 8, 1 / 4, 1 / 2)


@dataclass(frozen=True)
class Setting:
    """How one network, or one game, is trained.

    Attributes:
        rate: The learning rate of Adam.
        course: ``"constant"`` or ``"cosine"``.
        r1: The weight of the penalty R1 of a game.
    """

    rate: float
    course: str = "constant"
    r1: float = 0.0

    def __str__(self) -> str:
        return f"rate {self.rate:g}, {self.course}" + (f", R1 {self.r1:g}" if self.r1 else "")


@dataclass(frozen=True)
class CoveragePlan:
    """What is searched and how long is trained.

    Attributes:
        denoisers: The settings that are tried for the denoiser.
        games: As many for the GAN: every rate with every course, and every penalty with two rates and both courses.
        steps: The steps of each training, of a denoiser and of a game.
        longer: How many times as many steps a denoiser gets in the CPU seconds of a game, about.
        batch: The points of a step.
        seeds: The seeds of the comparison.
        searched: The seeds of the search, others than these.
        validation: The part of the training points that the search is judged by.
        kind: The kind of the games.
        latents: The number of a latent's entries.
        stages: The noise levels of the sampler.
    """

    denoisers: tuple[Setting, ...] = tuple(Setting(rate, course) for rate in (5e-3, 1e-2, 2e-2)
                                           for course in ("constant", "cosine"))
    games: tuple[Setting, ...] = (Setting(2e-3, "constant", 1.0), Setting(2e-3, "cosine", 3.0),
                                  Setting(4e-3, "constant", 0.3), Setting(4e-3, "cosine", 1.0),
                                  Setting(8e-3, "constant", 3.0), Setting(8e-3, "cosine", 0.3))
    steps: int = 1400
    longer: int = 3
    batch: int = 64
    seeds: tuple[int, ...] = (200, 201, 202, 203, 204)
    searched: tuple[int, ...] = (0, 1)
    validation: float = 0.2
    kind: str = "non-saturating"
    latents: int = 16
    stages: int = 18


@dataclass(frozen=True, eq=False, repr=False)
class CoverageTrial(Result):
    """Samples of a denoiser and of a GAN along their training, over seeds, each at the setting its search chose.

    Attributes:
        courses: For each of k checkpoints whose it is: ``"denoiser"``, ``"GAN"`` or ``"denoiser, longer"``.
        steps: After how many steps, 0 before any.
        seconds: The CPU seconds of one seed until then, with shape (k,).
        values: By measure (``"coverage"``, ``"density"``, ``"memorised"``), with shape (k, seeds).
        nulls: By name the same measures of what was not trained, with shape (3,).
        search: A row for each setting that was tried: whose, its words, its rate, its coverage and copies of
            validation, and whether it was chosen.
        info: Facts to print.
    """

    courses: list[str]
    steps: list[int]
    seconds: Tensor
    values: dict[str, Tensor]
    nulls: dict[str, Tensor]
    search: list[dict[str, Any]]
    info: dict[str, Any] = field(default_factory=dict)

    def place(self, course: str, step: int | None = None) -> int:
        """The place of a checkpoint, by default of the last one of its course."""
        as_choice(course, "course", tuple(dict.fromkeys(self.courses)))
        own = [i for i, one in enumerate(self.courses) if one == course and step in (None, self.steps[i])]
        if not own:
            there = [at for one, at in zip(self.courses, self.steps, strict=True) if one == course]
            raise DataError(f"There is no checkpoint of the {course} after {step} steps. There are {there}.")
        return own[-1]

    def interval(self, measure: str, course: str, step: int | None = None) -> Interval:
        """The mean of a measure over seeds, with its 95 % interval from five seeds on."""
        as_choice(measure, "measure", OF_SAMPLES)
        return intervals(self.values[measure][self.place(course, step)].tolist())

    def difference(self, measure: str, one: int, other: int) -> Interval:
        """By how much one checkpoint is above another, seed by seed, with the 95 % interval of the mean."""
        as_choice(measure, "measure", OF_SAMPLES)
        return intervals((self.values[measure][one] - self.values[measure][other]).tolist())

    def apart(self, one: int, other: int) -> bool | None:
        """Whether the interval of the difference in coverage leaves out 0; ``None`` for too few seeds."""
        found = self.difference("coverage", one, other)
        return None if math.isnan(found.low) else found.low > 0 or found.high < 0

    @property
    def matched(self) -> tuple[int, int] | None:
        """The two trained checkpoints with coverages within 0.05 that cover most, the denoiser's first."""
        means = self.values["coverage"].mean(1).tolist()
        own, other = ([i for i, one in enumerate(self.courses) if (one == GAN) == game and self.steps[i]]
                      for game in (False, True))
        pairs = [(i, j) for i in own for j in other if abs(means[i] - means[j]) <= NEAR]
        return max(pairs, key=lambda pair: min(means[pair[0]], means[pair[1]]), default=None)

    def chosen(self, model: str) -> dict[str, Any]:
        """The row of the search that was chosen for ``"denoiser"`` or ``"GAN"``."""
        as_choice(model, "model", (DENOISER, GAN))
        return next(row for row in self.search if row["model"] == model and row["chosen"])

    def verdict(self, one: int, other: int) -> str:
        """The coverages of two checkpoints and whether they are apart, in words."""
        means = self.values["coverage"].mean(1)
        apart = self.apart(one, other)
        word = "with too few seeds to tell them apart" if apart is None else "apart" if apart else "not apart"
        return (f"{float(means[one]):.3f} and {float(means[other]):.3f}, a paired difference of "
                f"{self.difference('coverage', one, other)}: {word}")

    def said(self) -> str:
        """Who covers more, in words."""
        one, other = self.place(DENOISER), self.place(GAN)
        own, theirs = (float(self.values["memorised"][i].mean()) for i in (one, other))
        text = (f"after {self.info['batch'] * self.steps[one]:,} presentations each, at settings of the same search, "
                f"denoiser and GAN cover {self.verdict(one, other)}; they copy {own:.3f} and {theirs:.3f}")
        if LONGER in self.courses:
            long = self.place(LONGER)
            text += (f"; in {float(self.seconds[long]):.1f} and {float(self.seconds[other]):.1f} CPU seconds a seed "
                     f"they cover {self.verdict(long, other)}")
        pair = self.matched
        if pair is None:
            text += f"; no two checkpoints have coverages within {NEAR:g}"
        else:
            i, j = pair
            text += (f"; at matched coverage, {float(self.values['coverage'][i].mean()):.3f} and "
                     f"{float(self.values['coverage'][j].mean()):.3f}, after {self.steps[i]} and {self.steps[j]} "
                     f"steps and {float(self.seconds[i]):.2g} and {float(self.seconds[j]):.2g} CPU seconds, densities "
                     f"differ by {self.difference('density', i, j)} and copies by {self.difference('memorised', i, j)}")
        told = [f"{name} cover{'' if name.endswith('points') else 's'} {float(self.nulls[name][0]):.3f}"
                for name in NULLS if name in self.nulls]
        return "; ".join([text, *([", ".join(told)] if told else [])])

    def summary(self) -> str:
        """The answer in one sentence."""
        tried = sum(row["model"] == GAN for row in self.search)
        return f"CoverageTrial({tried} settings each, {self.values['coverage'].shape[1]} seeds: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each checkpoint, for each null and for each setting of the search."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, (course, step) in enumerate(zip(self.courses, self.steps, strict=True)):
            found = self.interval("coverage", course, step)
            rows.append({"of": course, "step": step, "presentations": step * self.info["batch"],
                         "CPU seconds of a seed": float(self.seconds[i]), "coverage": found.mean, "low": found.low,
                         "high": found.high, **{m: float(self.values[m][i].mean()) for m in OF_SAMPLES[1:]}})
        rows += [{"of": name, **dict(zip(OF_SAMPLES, self.nulls[name].tolist(), strict=True))}
                 for name in NULLS if name in self.nulls]
        rows += [{"of": f"search, {row['model']}", "setting": row["setting"], "coverage": row["coverage"],
                  "memorised": row["memorised"], "chosen": row["chosen"]} for row in self.search]
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether the comparison is fair, and the measures can be read."""
        seeds, rows = self.values["coverage"].shape[1], []
        rows.append(CheckRow("seeds", "pass" if seeds >= LEAST_SEEDS else "warn", float(seeds), float(LEAST_SEEDS),
                             f"{seeds} seeds were compared, none of them used in the search."))
        tried = [sum(row["model"] == model for row in self.search) for model in (DENOISER, GAN)]
        rows.append(CheckRow("search", "pass" if tried[0] == tried[1] else "fail", float(tried[0]), float(tried[1]),
                             f"{tried[0]} settings were tried for the denoiser and {tried[1]} for the GAN."))
        for model in (DENOISER, GAN):
            rates = [row["rate"] for row in self.search if row["model"] == model]
            rate = self.chosen(model)["rate"]
            inside = min(rates) < rate < max(rates)
            rows.append(CheckRow(f"rate of the {model}", "pass" if inside else "warn", rate, None,
                                 f"The rate {rate:g} is {'inside' if inside else 'at the edge of'} those tried, "
                                 f"{min(rates):g} to {max(rates):g}."))
        sizes = [self.info[f"parameters of the {model}"] for model in (DENOISER, GAN)]
        off = abs(sizes[0] / sizes[1] - 1)
        rows.append(CheckRow("parameters", "pass" if off <= NEAR else "warn", off, NEAR,
                             f"There are {sizes[0]:,} and {sizes[1]:,} parameters."))
        if LONGER in self.courses:
            times = [float(self.seconds[self.place(course)]) for course in (LONGER, GAN)]
            off = abs(times[0] / times[1] - 1) if times[1] else math.inf
            rows.append(CheckRow("CPU seconds", "pass" if off <= ALIKE else "warn", off, ALIKE,
                                 f"The longer denoiser took {times[0]:.1f} and the GAN {times[1]:.1f} CPU seconds."))
        return Check(tuple(rows))


def coverage_trial(denoiser: Callable[[], nn.Module], generator: Callable[[], nn.Module],
                   critic: Callable[[], nn.Module], x: Tensor, held_out: Tensor,
                   plan: CoveragePlan | None = None) -> CoverageTrial:
    """Searches settings of denoisers and GANs alike, and compares what the chosen ones cover.

    Args:
        denoiser: Gives a new :class:`Denoiser`.
        generator: Gives a new generator, called with latents.
        critic: Gives a new critic; both together should have about as many parameters as the denoiser.
        x: The training points, with shape (n, d). Validation points are taken out of them for the search.
        held_out: Points that neither training nor search sees, with shape (m, d); as many samples are drawn.
        plan: What is searched and how long is trained.

    Raises:
        DataError: If the searches are not of as many settings, or a seed is used in both search and comparison.

    References:
        E8 of the notes on generative models; coverage after "Reliable Fidelity and Diversity Metrics" (Naeem et al.,
        2020); the same budget of search for each after "Are GANs Created Equal?" (Lucic et al., 2018).

    Example:
        >>> from kernelscope.generative import Denoiser
        >>> from kernelscope.generative.networks import NoiseMLP, critic, generator
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> plan = CoveragePlan((Setting(1e-2),), (Setting(1e-3),), steps=8, seeds=(5, 6), searched=(0,), latents=3)
        >>> found = coverage_trial(lambda: Denoiser(NoiseMLP(2, width=4), 1.0), lambda: generator(3, 2, 4),
        ...                        lambda: critic(2, 4), x[:40], x[40:], plan)
        >>> found.values["coverage"].shape, found.apart(found.place("denoiser"), found.place("GAN"))
        (torch.Size([15, 2]), None)
    """
    plan = plan or CoveragePlan()
    if not plan.denoisers or len(plan.denoisers) != len(plan.games):
        raise DataError(f"As many settings are tried for each model, and at least one; {len(plan.denoisers)} for the "
                        f"denoiser and {len(plan.games)} for the GAN came. Add some to the shorter list.")
    if set(plan.seeds) & set(plan.searched) or not plan.seeds or not plan.searched:
        raise DataError("Search and comparison need seeds of their own, at least one each: what is chosen on a seed "
                        f"must not be judged by it. {list(plan.searched)} and {list(plan.seeds)} came.")
    steps = as_count(plan.steps, "steps", 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(plan.searched[0]))
    aside = int(as_part(plan.validation, "validation", "0.2") * len(x))
    fitted, validation = order[aside:], x[order[:aside]]
    levels, keep = schedule(plan.stages).to(x), sorted({0, *(max(int(steps * part), 1) for part in PARTS)})
    source = torch.Generator().manual_seed(plan.seeds[0])
    z, latents = (torch.randn(max(len(validation), len(held_out)), size, generator=source).to(x)
                  for size in (x.shape[1], plan.latents))

    def denoisers(settings: Sequence[Setting], seeds: Sequence[int], subset: Tensor, longer: int = 1,
                  keep: Sequence[int] = ()) -> tuple[ManyDenoisers, float]:
        begun = time.process_time()
        many = train_many(denoiser, x, [subset] * len(seeds), seeds, steps=longer * steps, batch=plan.batch,
                          rate=[one.rate for one in settings], course=[one.course for one in settings], keep=keep)
        return many, time.process_time() - begun

    def games(settings: Sequence[Setting], seeds: Sequence[int], subset: Tensor,
              keep: Sequence[int] = ()) -> tuple[ManyGames, float]:
        begun = time.process_time()
        many = train_many_games(generator, critic, x, [subset] * len(seeds), seeds, steps=steps, batch=plan.batch,
                                latents=plan.latents, rate=[one.rate for one in settings],
                                course=[one.course for one in settings], keep=keep,
                                game=[Adversary(plan.kind, one.r1) for one in settings])
        return many, time.process_time() - begun

    search: list[dict[str, Any]] = []
    spent: dict[str, float] = {}
    chosen: dict[str, Setting] = {}
    for model, tried in ((DENOISER, plan.denoisers), (GAN, plan.games)):
        settings = [one for one in tried for _ in plan.searched]
        seeds = list(plan.searched) * len(tried)
        if model == DENOISER:
            many, spent[model] = denoisers(settings, seeds, fitted)
            made = many.sample(z[:len(validation)], levels)
        else:
            played, spent[model] = games(settings, seeds, fitted)
            made = played.generators(latents[:len(validation)])
        found = torch.tensor([_measured(one, x[fitted], validation) for one in made]).view(
            len(tried), len(plan.searched), -1).mean(1)
        best = int(found[:, 0].argmax())
        chosen[model] = tried[best]
        search += [{"model": model, "setting": str(one), "rate": one.rate, "coverage": float(found[i, 0]),
                    "memorised": float(found[i, 2]), "chosen": i == best} for i, one in enumerate(tried)]

    courses: list[str] = []
    at: list[int] = []
    seconds: list[float] = []
    values: list[list[list[float]]] = []

    def add(course: str, step: int, made: Tensor, taken: float) -> None:
        courses.append(course)
        at.append(step)
        seconds.append(taken)
        values.append([_measured(one, x, held_out) for one in made])

    seeds, every = list(plan.seeds), torch.arange(len(x))
    for course, longer in ((DENOISER, 1), (LONGER, plan.longer)):
        marks = [longer * step for step in keep]
        many, taken = denoisers([chosen[DENOISER]] * len(seeds), seeds, every, longer, marks)
        for step in (*marks, longer * steps):
            held = many if step == longer * steps else many.at(step)
            add(course, step, held.sample(z[:len(held_out)], levels), taken / len(seeds) * step / (longer * steps))
    played, taken = games([chosen[GAN]] * len(seeds), seeds, every, keep)
    for step in (*keep, steps):
        now = played if step == steps else played.at(step)
        add(GAN, step, now.generators(latents[:len(held_out)]), taken / len(seeds) * step / steps)

    nulls = {name: torch.tensor(_measured(sample(closed, z[:len(held_out)], levels).final, x, held_out))
             for name, closed in (("the Wiener denoiser", WienerDenoiser(x)),
                                  ("the optimal denoiser", OptimalDenoiser(x)))}
    # Held-out points cover themselves: coverage is that of real training points, copies are those of held-out ones.
    real = coverage_density(x[order[:len(held_out)]], held_out)
    nulls["real points"] = torch.tensor([real.coverage, real.density, memorised(held_out, x).share])
    table = torch.tensor(values, dtype=torch.float64)
    for course, name in ((DENOISER, "the untrained denoiser"), (GAN, "the untrained GAN")):
        nulls[name] = table[courses.index(course)].mean(0)
    return CoverageTrial(
        courses, at, torch.tensor(seconds, dtype=torch.float64),
        {measure: table[..., i] for i, measure in enumerate(OF_SAMPLES)},
        {name: found.double() for name, found in nulls.items()}, search,
        {"batch": plan.batch, "training points": len(x), "validation points": aside, "held-out points": len(held_out),
         f"parameters of the {DENOISER}": many.size,
         f"parameters of the {GAN}": played.generators.size + played.critics.size,
         **{f"CPU seconds of the search, {model}": taken for model, taken in spent.items()},
         "seeds of the search": str(list(plan.searched)), "seeds": str(seeds)})


def _measured(samples: Tensor, train: Tensor, reference: Tensor) -> list[float]:
    """Coverage, density and copies of what is finite among samples."""
    samples = samples[samples.flatten(1).isfinite().all(1)]
    if not len(samples):
        return [0.0, 0.0, 0.0]
    found = coverage_density(samples, reference)
    return [found.coverage, found.density, memorised(samples, train).share]
