r"""What a run would have ended at on average over the choice of its batches.

For stochastic gradient descent, with gradients :math:`g_i` of the samples' losses, their mean g and covariance
:math:`\Sigma`, the gradient :math:`\phi` and the Hessian H of an output,

.. math:: \mathbb E f_T = f_0 - \eta\sum_k \mathbb E\langle\phi_k, g_k\rangle
          + \frac{\eta^2}{2}\sum_k \mathbb E\, g_k^T H_k g_k
          + \frac{\eta^2}{2B}\sum_k \mathbb E\,\mathrm{tr}(H_k\Sigma_k) + O(T\eta^3),

for batches drawn with replacement: what the path does, what its curvature does, and what the noise does. Both
corrections fold into one kernel between an output and a sample,

.. math:: K_2(x, x_i) = \langle\phi, \phi_i\rangle - \frac\eta2 \Big[\big(1 - \tfrac1B\big)\, \phi_i^T H g + \tfrac1B\,
          \ell'_i\, \phi_i^T H \phi_i\Big],

and the expected output is a kernel machine again, :math:`-\frac\eta n\sum_k\sum_i\mathbb E[\ell'_i K_2(x, x_i)]`.
Momentum and reshuffling have weights of their own (see ``noise`` and ``mean_path``). The mathematics is of the same
kind as arXiv 2603.13872 and 2606.07495, derived here and checked against every sequence of batches; it is no
reproduction of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from scipy.special import chdtrc
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed, as_switch, as_whole
from ...errors import DataError, NonFiniteError, OutOfBudget, RuleError
from ...network import apart, cast, undisturbed
from ...progress import Bar
from ...run.rules import Muon, find_rule
from ...run.run import Run
from ..differences import check_bends
from ..exact import final_outputs
from ..output import output_functional
from ..precision import checked_dtype, ledger_precision
from ..query_side import QuerySide
from ..questions import as_queries, as_targets, checked_memory, checked_place, checked_run, in_order
from ..training_side import TrainingSide, perturbed
from ..trajectory import Trajectory
from ..unrolling import Unroller
from .account import SHARED, Account
from .backward import BackwardSweep, Method
from .ensemble import Ensemble, ensemble
from .mean_path import MeanPath
from .noise import ESTIMATORS
from .passes import Passes, check_mean, check_noise
from .population import Population, population_of
from .result import Expected
from .sampling import SCHEMES, Sampling, sampling_of
from .second_order import SecondOrder

#: With so many samples or fewer the noise term is found exactly if nothing else is asked for.
EXACT = 1024

#: On how many samples the second derivatives of the loss are compared with differences.
LOOKED_AT = 64

#: What to do without the second derivatives of the loss.
UNCARRIED = (
    "Pass order=1, carried=False for the path term alone, with the standard deviation of the contribution rows."
)

#: How unlikely the recorded draws must be before samples are said not to have been drawn alike.
CHANCE = 1e-6

#: Optimizers whose steps are linear in the gradients without anything that depends on them.
LINEAR = ("SGD",)

#: What is said where other seeds are asked for and there are none.
FIXED = (
    "The batches of this run are the same in each epoch, or hold all samples, so that other seeds would end where it "
    'did. Leave seeds out, or pass sampling="reshuffling" to see what another order would have made of it.'
)

#: What is said of the others, and of clipping.
GIVEN = (
    "{what}: they depend on the batches too, and what that does to the mean is in no term. It does not vanish with the "
    "learning rate; ask for seeds= to see how large it is."
)
UNEXPLAINED = (
    "{count} of {total} steps were not made by the rule of the optimizer on the recorded loss (first: {first}); what "
    "they did beyond it is in the fluctuation."
)
UNALIKE = (
    "Some samples were drawn far more often than others, as by a sampler with weights. The terms are those of drawing "
    "all alike, and do not hold for this run."
)
SHUFFLED = (
    "Batches were drawn with random reshuffling, where the noise of an epoch's steps cancels to first order. What is "
    "left of the standard deviation comes from terms that are only partly known; ask for seeds= to measure it."
)


def expected(
    run: Run,
    x: Any,
    output: str | int | Callable[..., Tensor] | None = None,
    *,
    targets: Any = None,
    order: int = 2,
    sampling: str | None = None,
    preconditioner: str = "mean",
    noise: str | None = None,
    probes: int = 4,
    samples: int | None = None,
    carried: bool = True,
    seeds: int | None = None,
    data: Any = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
) -> Expected:
    r"""The outputs a run would have ended at on average over the choice of its batches, and how far runs spread.

    .. math:: \mathbb E f_T(x) = f_0(x) + \sum_i \big(\text{path}_i + \text{curvature}_i + \text{noise}_i\big)(x)
              + \text{decay} + \dots + O(T\eta^3)

    The terms are taken along the recorded run, with the gradient of all samples, each as likely to be drawn as any
    other, in the place of the batch's. Their mean over runs is the expected output; one run gives it up to
    ``mean_error``. Preconditioners (Adam) and clip factors are taken as given, which is an approximation of its own:
    they vary with the batches, and go with them.

    Args:
        run: The recorded run, from its first step on.
        x: The queries, as in :func:`decompose`.
        output: What is explained, as in :func:`decompose`.
        targets: The queries' targets, where the output needs them.
        order: 1 for the path term alone, 2 with curvature and noise.
        sampling: How batches were drawn: ``"replacement"``, ``"independent"``, ``"reshuffling"`` or ``"fixed"``; told
            from the batches if not given.
        preconditioner: What Adam and its kin divide by: ``"mean"``, the mean square that batches would have, or
            ``"recorded"``, that of the batches that were drawn. SGD has none.
        noise: How the noise term is found: ``"exact"``, from pairs of batches (``"two-batch"``), or from such pairs and
            outputs alone (``"difference"``); exact for up to 1,024 samples if not given.
        probes: How many pairs of batches are drawn at each step, at least two, which tell a standard error.
        samples: How many training samples are looked at in each step, drawn anew; all if not given. Of many, some
            hundreds tell the terms with a small standard error.
        carried: Whether the standard deviation follows each push to the end of the run, at the cost of second
            derivatives of the loss; else it is that of the contribution rows, which costs nothing, and which is right
            for short runs and too large for those that forget.
        seeds: Trains so many networks anew, with other batches, and compares.
        data: All training samples as ``(inputs, targets)``, if the run did not draw every one.
        seed: What pairs of batches and the batches of other seeds are drawn with.
        dtype: The precision to compute in, as in :func:`decompose`.
        device: Where to compute; where the model was, if not given.
        memory: About how many bytes the computation may use beside the run itself, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Expected` outputs.

    Raises:
        DataError: If queries, targets or options do not fit the run.
        ModelError: If samples have no gradients of their own (batch normalisation, dropout, augmentation), or the
            network cannot be differentiated twice.
        NonFiniteError: If a term is NaN or infinite.
        RuleError: If the optimizer's step cannot be unrolled, or the run is a slice.

    References:
        | On Interpolation Formulas Describing Neural Network Generalization (Guo, He, Morel, arXiv 2603.13872)
        | Second-Order Path Kernel Interpolation Formulas in Machine Learning (arXiv 2606.07495)

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.randn(32, 3); y = x.prod(1, keepdim=True)
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(20):
        ...         ids = torch.randint(32, (4,))
        ...         recording.batch(ids)
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x[ids]), y[ids]).backward()
        ...         optimizer.step()
        >>> found = ks.expected(recording.run, x[:2], data=(x, y))
        >>> found.sampling, found.mean.shape, found.contributions.shape
        ('replacement', torch.Size([2, 1]), torch.Size([2, 1, 32]))
        >>> bool(((found.mean + found.fluctuation - found.final).abs() < 1e-12).all())
        True
    """
    begun = time.perf_counter()
    run = checked_run(run)
    if run.start:
        raise RuleError(f"The expected output is that of a whole run, and a slice that begins at step {run.start} "
                        "came. Ask for the run itself.")
    method = _method(run, order, noise, probes, carried, seed)
    checked_dtype(dtype)
    as_choice(preconditioner, "preconditioner", ("mean", "recorded"))
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    if seeds is not None:
        as_count(seeds, "seeds", least=2)
    if samples is not None:
        as_count(samples, "samples", least=2)
    with undisturbed(place):
        given_queries = as_queries(in_order(run, x), tuple(run.samples.inputs))
        dtype, own_precision = ledger_precision(run, dtype, given_queries, place)
        queries = cast(given_queries, dtype, place)
        trajectory = Trajectory(run, dtype, place)
        training = TrainingSide(run, dtype, place, memory // 4)
        population = population_of(run, data, dtype, place)
        for k in range(run.start, run.stop):
            check_noise(run, run.step(k), k)
        check_mean(run, population, trajectory)
        scheme = _sampling(run, population, sampling)
        if seeds is not None and scheme.scheme == "fixed":
            raise DataError(FIXED)
        # Steps of one epoch are compared sample by sample, so that those looked at must be the same.
        passes = Passes(run, training, population, samples, method.seed, fixed=bool(scheme.pair))
        if method.noise is None:
            method = replace(method, noise="exact" if passes.looked_at <= EXACT else "two-batch")
        end = trajectory.at(run.stop), trajectory.buffers(run.stop)
        given = cast(as_targets(targets, len(queries[0]), run), dtype, place)
        final = final_outputs(trajectory, None, queries)
        functional = output_functional(output, final, given, run, len(queries[0])).to(dtype)
        side = QuerySide(run.network, queries, functional, run.names)
        width = len(functional.names)
        size = run.size if len(passes.columns) and int(population.places.max()) >= 0 else len(population)
        account = Account(len(side), width, size, len(run), method.carried, scheme)
        path = MeanPath(Unroller(run, training, False), trajectory, passes, scheme, preconditioner == "recorded")
        notes = [own_precision]
        block, length, needed = _plan(run, width, len(side), method, dtype, memory)
        if len(run) and len(side):
            side.probe(trajectory.at(run.start), trajectory.buffers(run.start))
            if method.order == 2:
                curve = SecondOrder(side, run.names)
                curve.probe(trajectory.at(run.start), trajectory.buffers(run.start))
                notes.append(curve.note())
            if method.carried or method.order == 2 and scheme.pair:
                _check_losses(run, trajectory, training, passes)
            segments = path.segments(length)
            blocks = -(-len(side) // block)
            bar = Bar(total=blocks * len(run), desc=f"expected ({needed / 2**20:.0f} MiB)", unit="step", disable=quiet)
            with bar:
                for start in range(0, len(side), block):
                    rows = slice(start, min(start + block, len(side)))
                    sweep = BackwardSweep(account, rows, side.part(rows), trajectory, path, passes, method)
                    sweep.run_through(segments, training, bar.update)
        else:
            account.path[:] = side.outputs(*end)[1].double().cpu().unsqueeze(-1)
        assumed = _assumed(run, path, scheme, population, preconditioner == "recorded")
    retrained = None
    if seeds is not None:
        retrained = ensemble(run, x, output, targets=targets, seeds=seeds, terms=_is_linear(run),
                             sampling=sampling, data=data, seed=seed, device=device, memory=memory,
                             progress=progress)
    return _result(run, account, method, functional.names, retrained, {
        "run": {key: run.info()[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
        "sampling": SCHEMES[scheme.scheme], "preconditioner": preconditioner, "noise": method.noise,
        "dtype": str(dtype).removeprefix("torch."), "engine": {"training": training.way, "queries": side.way},
        "notes": [note for note in [*notes, *assumed] if note], "assumed": assumed,
        "seconds": round(time.perf_counter() - begun, 3), "bytes": needed,
    })


def _method(run: Run, order: Any, noise: Any, probes: Any, carried: Any, seed: Any) -> Method:
    if as_whole(order) not in (1, 2):
        raise DataError(f"order must be 1 (the path) or 2 (with curvature and noise); {order!r} came. Pass order=2.")
    if noise is not None:
        as_choice(noise, "noise", ESTIMATORS)
    for name in sorted({run.step(k).optimizer for k in range(run.start, run.stop)}):
        if order == 2 and isinstance(find_rule(name), Muon):
            raise RuleError(
                f"The second-order terms need an optimizer that weighs each number of a gradient by itself, and {name} "
                "turns whole matrices. Pass order=1 for the path term alone."
            )
    return Method(int(order), noise, as_count(probes, "probes", least=2), as_switch(carried, "carried"), as_seed(seed))


def _check_losses(run: Run, trajectory: Trajectory, training: TrainingSide, passes: Passes) -> None:
    """Compares the second derivatives of the first step's loss with differences of its gradient.

    Raises:
        ModelError: If they differ.
    """
    k = run.start
    batch = passes.at(run.step(k), k, torch.arange(min(len(passes), LOOKED_AT)))
    losses, at = training.losses(batch, k), perturbed(trajectory.at(k), run.names)
    if training.dtype == torch.float64:
        check_bends(lambda own: losses({**at, **own}).mean(), apart(at, run.names), "the loss", UNCARRIED)


def _sampling(run: Run, population: Population, scheme: str | None) -> Sampling:
    batches = [torch.cat([batch.columns for batch in run.step(k).batches] or [torch.zeros(0, dtype=torch.long)])
               for k in range(run.stop)]
    return sampling_of(batches, len(population), scheme)


def _is_linear(run: Run) -> bool:
    return all(run.step(k).optimizer in LINEAR for k in range(run.start, run.stop))


def _plan(run: Run, width: int, queries: int, method: Method, dtype: torch.dtype, memory: int) -> tuple[int, int, int]:
    """How many queries go back together, how many steps are held, and the bytes this takes.

    Raises:
        OutOfBudget: If not even one query fits.
    """
    size = max(run.parameter_count * dtype.itemsize, 1)
    # A row is a gradient, its bent, an adjoint of each, a direction of each, and what is carried.
    each = max(width, 1) * size * (6 * method.order + 6 * method.carried)
    held = 5 * size
    if each > 4 * memory:
        raise OutOfBudget(
            f"One query with {width} outputs needs about {each / 2**20:.3g} MiB, and memory={memory} allows "
            f'{memory / 2**20:.3g} MiB. Ask for fewer outputs, for example output="margin", or raise memory.'
        )
    block = min(max(1, memory // (2 * each)), max(queries, 1))
    length = min(max(1, memory // (4 * held)), max(len(run), 1))
    return block, length, block * each + length * held


def _unalike(run: Run, population: Population) -> bool:
    """Whether some samples were drawn far more often than others, by a chi-squared test."""
    rows = torch.cat([population.of_step(run.step(k)) for k in range(run.start, run.stop)])
    counts = torch.bincount(rows[rows >= 0], minlength=len(population)).double()
    even = counts.sum() / len(counts)
    return bool(len(counts) > 1 and chdtrc(len(counts) - 1, float(((counts - even) ** 2 / even).sum())) < CHANCE)


def _assumed(run: Run, path: MeanPath, sampling: Sampling, population: Population, recorded: bool) -> list[str]:
    """What the terms take for granted that does not quite hold in this run."""
    found = [population.note] if population.note else []
    others = sorted({run.step(k).optimizer for k in range(run.start, run.stop)} - set(LINEAR))
    if others:
        kind = "as recorded" if recorded or path.centered else "from mean squares of gradients"
        found.append(GIVEN.format(what=f"The preconditioners of {', '.join(others)} are taken {kind}"))
    if path.clipped:
        found.append(GIVEN.format(what="The factors that clipped or weighed gradients are taken as recorded"))
    if path.unexplained:
        first = ", ".join(map(str, sorted(path.unexplained)[:5]))
        found.append(UNEXPLAINED.format(count=len(path.unexplained), total=len(run), first=first))
    if sampling.scheme == "reshuffling":
        found.append(SHUFFLED)
    if sampling.scheme == "replacement" and _unalike(run, population):
        found.append(UNALIKE)
    return found


def _result(run: Run, account: Account, method: Method, names: list[str], retrained: Ensemble | None,
            info: dict[str, Any]) -> Expected:
    figures = [*account.terms.values(), *account.variances.values(), account.path]
    if not all(bool(torch.isfinite(t).all()) for t in figures):
        raise NonFiniteError(
            "A term of the expected output is NaN or infinite: the network gives such outputs or derivatives for these "
            "queries at some step of the run. Look at the queries, and at operations like sqrt(0) in the network."
        )
    exact = method.noise == "exact" and method.order == 2
    shares = {name: account.shares[name] for name in SHARED[:method.order + 1 if exact else method.order]}
    # What cancels to nought in an epoch may end a little below it.
    variances = {name: values.clamp_min(0.0) for name, values in account.variances.items()}
    # The samples that were handed in are named by their places, as those of a data set are.
    size = account.shares["path"].shape[2]
    ids = run.samples.ids if size == run.size else range(size)
    return Expected(
        initial=account.path[:, :, 0].clone(), final=account.path[:, :, -1].clone(), terms=account.terms, shares=shares,
        steps=account.steps, variance=variances.get("carried", variances["row"]), row_variance=variances["row"],
        mean_variance=variances.get("mean"), variance_shares=account.variance_shares,
        variance_steps=account.variance_steps, estimate_error=account.estimate_variance.sqrt(),
        sampling=account.sampling.scheme, order=method.order,
        sample_ids=torch.tensor(list(ids), dtype=torch.int64), labels=run.labels if size == run.size else None,
        output_names=names, ensemble=retrained, info=info,
    )
