r"""Judges scores of training samples by training again without some of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_count, as_part, as_positive, as_seed, as_switch, what_came
from ...decomposition.exact import decompose
from ...decomposition.influence.damping import damping_of
from ...decomposition.influence.influence import influence, influences_at
from ...decomposition.questions import checked_memory, checked_place, checked_run
from ...decomposition.stochastic.ensemble import trained_in
from ...errors import DataError, KernelscopeError
from ...network import undisturbed
from ...progress import telling
from ...run.run import Run
from .choosing import chosen_elsewhere
from .evaluation import CONTRIBUTION, GAUSS_NEWTON, METAGRADIENT, RANDOM, Evaluation
from .gradient_baselines import checkpoints_of, gradient_products
from .retraining import Asking, Retraining, keeps
from .subsets import drawn_members
from .trial import LEAST_SEEDS, LEAST_SUBSETS, ROLES, SAME, subset_trial, varying

__all__ = ["DAMPING", "evaluate"]

#: The dampings of Gauss-Newton influence that are tried, as multiples of the one that the run's length stands for.
DAMPING = (0.1, 1 / 3, 1.0, 3.0, 10.0)

#: The checkpoints of TracInCP.
CHECKPOINTS = 10

#: How far the first seed of networks that begin anew is from those of the batches of others.
BESIDE = 7919

#: What is said of an evaluation that was broken off.
INTERRUPTED = "Ctrl-C was pressed before all networks were trained"
STOPPED = "Ctrl-C was pressed before its scores were computed."


def evaluate(
    run: Run,
    x: Any,
    y: Any = None,
    *,
    subsets: int = 80,
    share: float = 0.5,
    seeds: int = 3,
    output: Any = "loss",
    scores: Mapping[str, Any] | None = None,
    damping: float | None = None,
    seed: int = 0,
    sampling: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
) -> Evaluation:
    r"""Judges each way to score training samples by what leaving samples out does, measured by training again.

    .. math:: \text{LDS} = \frac1q \sum_q \rho_S\Big(\sum_{i \in S} s_{qi},\ f_q(\theta^S)\Big)

    over random subsets S, with the rank correlation :math:`\rho`. Networks are trained on each subset as
    :func:`kernelscope.retrain` does, from the run's own start, and again from ``seeds`` others where the modules can
    draw initial parameters anew. The ways are the contribution (:func:`kernelscope.decompose`), which is a share of
    what this run learned; the influences (:func:`kernelscope.influence`), which say what leaving out would do; gradient
    products at the end and at 10 checkpoints (TracInCP) as baselines; and random scores.

    No score foretells the noise of training. By s seeds whose answers correlate by r another set of as many would
    foretell these with :math:`R = s r / (1 + (s - 1) r)`, and what knows the mean over all seeds with
    :math:`\sqrt R`, the ceiling; the run's own start without random batches has no noise.

    Args:
        run: The recorded run, from its start on.
        x: Held-out queries, as :func:`kernelscope.decompose` takes them.
        y: Their targets, where the output needs them.
        subsets: How many random subsets, at least 8.
        share: The share of the samples in each.
        seeds: How many seeds from other starts, at least 2; and from the run's own start if batches are random.
        output: What is asked of a query: ``"loss"``, ``"margin"``, the number of an output, or a function.
        scores: More scores by name, each with shape (q, n), more meaning that training on the sample raises the
            output; or by setting, ``{"name": {"damping 0.1": scores, ...}}``, of which one is chosen on other queries.
            A pair of a role (``"contribution"``, ``"influence"``, ``"baseline"``) and these says what they are.
        damping: The damping of Gauss-Newton influence; one of five is chosen on other queries if not given.
        seed: The seed of subsets and seeds.
        sampling: How batches were drawn, where the run does not tell.
        dtype: The precision to train in; that of the run if not given.
        device: Where to compute; where the model was when it was recorded or loaded, if not given.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether bars are shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Evaluation`.

    ``Ctrl-C`` while networks are trained judges by the subsets that were trained with all seeds, 8 at least; while
    scores are computed it leaves out those that were not.

    Raises:
        DataError: If queries, scores or options do not fit the run, or no answer varies between subsets.
        ModelError: If the network cannot be trained again.
        RuleError: If its optimizer, or what its loop did to gradients, cannot be done again.

    References:
        "TRAK: Attributing Model Behavior at Scale" (Park et al., 2023), definition 2.1; "Datamodels" (Ilyas et al.,
        2022); Spearman (1910) and Brown (1910).

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.randn(24, 3); y = x @ torch.ones(3, 1) + torch.randn(24, 1)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> found = ks.evaluate(recording.run, torch.randn(6, 3), torch.randn(6, 1), subsets=16)
        >>> found.lds("influence, metagradient") > found.lds("random scores")
        True
    """
    run = checked_run(run)
    dtype, memory = trained_in(run, dtype), checked_memory(memory)
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    quiet = None if progress is None else as_switch(progress, "progress")
    count, share = as_count(subsets, "subsets", LEAST_SUBSETS), as_part(share, "share", "0.5")
    seeds, seed = as_count(seeds, "seeds", LEAST_SEEDS), as_seed(seed)
    damping = None if damping is None else as_positive(damping, "damping", "1e-2")
    begun = time.perf_counter()
    with undisturbed(place), telling(quiet, "evaluate"):
        setting = Retraining(run, dtype, place, memory, sampling)
        asking = setting.asking(x, output, y)
        given = _given(scores, len(asking), run.size)
        if damping is None and len(asking.side) < 2:
            raise DataError("One of five dampings is chosen on other queries than those it is judged on, and one query "
                            "came. Pass two or more, or a damping.")
        members = drawn_members(count, run.size, share, seed)
        own_seeds = [seed + s for s in range(seeds if setting.batches.random else 1)]
        own, done = _answers(setting, asking, members, own_seeds, "own")
        members, stopped = members[done], "" if bool(done.all()) else INTERRUPTED
        if not bool(varying(own, dtype).any()):
            raise DataError(SAME)
        anew, done = None, torch.ones(len(members), dtype=torch.bool)
        if not setting.why_not_anew and not stopped:
            anew, among = _answers(setting, asking, members, [seed + BESIDE + s for s in range(seeds)], "anew")
            stopped = "" if bool(among.all()) else INTERRUPTED
            anew, done = (anew, among) if int(among.sum()) >= LEAST_SUBSETS else (None, done)
        trained = time.perf_counter() - begun
        together = torch.cat([own[:, done], *([] if anew is None else [anew])]).mean(0)
        ways, seconds, left_out = _ways(run, x, y, output, setting, asking, damping, seed,
                                        dict(device=device, memory=memory, progress=progress))
        chosen: dict[str, tuple[str, Tensor]] = {}
        settings: dict[str, str] = {}
        for name, (role, by_setting) in (ways | given).items():
            found, word = chosen_elsewhere(by_setting, members[done], together)
            chosen[name] = role, found
            settings |= {name: word} if word else {}
    info = {"asked": asking.words, "samples": run.size, "subset": int(members[0].sum()), "steps": len(run),
            "batches": setting.batches.said(),
            "networks": own.shape[:2].numel() + (0 if anew is None else anew.shape[:2].numel()), "interrupted": stopped,
            "seeds": seeds, "seconds of training": trained, "why not anew": setting.why_not_anew or stopped,
            "queries trained on": asking.known_among(setting.population.inputs), "interval": "subsets resampled"}
    exact = not setting.batches.random
    return Evaluation(subset_trial(chosen, members, own, seed=seed, info={"asked": asking.words}, exact=exact),
                      None if anew is None else subset_trial(chosen, members[done], anew, seed=seed,
                                                             info={"asked": asking.words}),
                      settings, seconds, left_out, info)


def _answers(setting: Retraining, asking: Asking, members: Tensor, seeds: list[int],
             start: str) -> tuple[Tensor, Tensor]:
    """What networks that are trained on subsets answer, with shape (seeds, subsets, q c), and which subsets are done.

    Only the subsets that are done have answers; all are, unless ``Ctrl-C`` was pressed.
    """
    answers = torch.zeros(len(seeds), len(members), len(asking), dtype=torch.float64)
    done = torch.zeros(answers.shape[:2], dtype=torch.bool)
    try:
        for places, theta in setting.each(members, seeds, start):
            s, j = torch.tensor(places).T
            answers[s, j] = asking(theta).flatten(1)
            done[s, j] = True
    except KeyboardInterrupt:
        # What was done with the run's own start is worth telling without any other.
        if not keeps(done, LEAST_SUBSETS, 4) and start == "own":
            raise
    return answers[:, done.all(0)], done.all(0)


#: The scores of a way by its setting, and what they are.
Ways = dict[str, tuple[str, dict[str, Tensor]]]


def _ways(run: Run, x: Any, y: Any, output: Any, setting: Retraining, asking: Asking, damping: float | None, seed: int,
          options: dict[str, Any]) -> tuple[Ways, dict[str, float], dict[str, str]]:
    """The ways of the package, how long each took, and those that this run does not have."""
    asked = {"output": output, "targets": y, **options}
    levels = lambda: [part * damping_of(run) for part in DAMPING] if damping is None else [damping]
    plain: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
        CONTRIBUTION: ("contribution", lambda: {"": decompose(run, x, **asked).contributions}),
        METAGRADIENT: ("influence", lambda: {"": influence(run, x, method="metagradient", **asked).influences}),
        GAUSS_NEWTON: ("influence", lambda: dict(zip(
            (f"damping {level:.2g}" for level in levels()), influences_at(run, x, levels(), **asked), strict=True))),
        "gradient dot": ("baseline", lambda: {"": gradient_products(setting, asking, [len(run)])}),
        f"TracInCP, {min(CHECKPOINTS, len(run))} checkpoints": ("baseline", lambda: {
            "": gradient_products(setting, asking, checkpoints_of(len(run), CHECKPOINTS))}),
        RANDOM: ("null", partial(_random, len(asking), run.size, seed)),
    }
    ways: Ways = {}
    seconds, left_out, stopped = {}, {}, False
    for name, (role, made) in plain.items():
        begun = time.perf_counter()
        if stopped and name != RANDOM:
            left_out[name] = STOPPED
            continue
        try:
            ways[name] = role, {word: found.double().cpu().reshape(len(asking), -1) for word, found in made().items()}
        except KernelscopeError as error:
            left_out[name] = str(error)
            continue
        except KeyboardInterrupt:
            if stopped:
                raise
            warnings.warn(f"Ctrl-C was pressed while scores were computed ({name}): those that were not are left out, "
                          "and the others are judged.", stacklevel=3)
            left_out[name], stopped = STOPPED, True
            continue
        seconds[name] = round(time.perf_counter() - begun, 3)
    return ways, seconds, left_out


def _random(q: int, n: int, seed: int) -> dict[str, Tensor]:
    return {"": torch.randn(q, n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)}


def _given(scores: Any, q: int, n: int) -> Ways:
    """The scores of the caller's.

    Raises:
        DataError: If they are not of these queries and samples.
    """
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise DataError(f'scores must be {{"name": scores}} with scores of shape ({q}, {n}); {what_came(scores)} came.')
    found: Ways = {}
    for name, value in scores.items():
        role, value = value if isinstance(value, tuple) and len(value) == 2 else ("baseline", value)
        if role not in ROLES:
            raise DataError(f"The role of the scores {name!r} must be one of {', '.join(ROLES)}; {what_came(role)} "
                            "came.")
        by_setting = dict(value) if isinstance(value, Mapping) else {"": value}
        rows = {}
        for word, table in by_setting.items():
            try:
                table = torch.as_tensor(table).double().cpu()
            except (TypeError, ValueError, RuntimeError) as error:
                raise DataError(f"The scores {name!r} must be numbers, with shape ({q}, {n}); {what_came(table)} "
                                "came.") from error
            if table.ndim == 3 and table.shape[-1] == n:
                table = table.flatten(0, 1)
            if table.shape != (q, n) or not bool(table.isfinite().all()):
                raise DataError(f"The scores {name!r} must be finite, with a row for each of {q} queries and a column "
                                f"for each of {n} training samples; a tensor of shape {tuple(table.shape)} came.")
            rows[str(word)] = table
        if not rows:
            raise DataError(f"The scores {name!r} hold no setting. Pass a tensor with shape ({q}, {n}).")
        found[str(name)] = role, rows
    return found
