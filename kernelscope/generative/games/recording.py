r"""Recording a loop that trains a generator and a critic against each other, without changing it.

Two recordings run side by side. Hooks on both networks tell which passes are behind a step, and just before an
optimizer moves one of them its recording is told what the step was made of: for the critic one batch of the real
points, their penalties and the generated ones; for the generator the latents and the critic's field at what was made of
them.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from ...arguments import as_count, as_function, as_path, as_switch, what_came
from ...errors import DataError, RecordingError, StoreExists
from ...losses import Loss
from ...network import Network, Parameters, exact_arithmetic, random_state
from ...run.faults import warn
from ...run.keeping import Keep
from ...run.recording import Recording
from ...run.source import Source
from ...run.tape import Place
from ...run.wrappers import network_behind
from ...storage.manifest import exists
from ..denoising.recording import first_part
from .adversary import FAKE, PENALTY, REAL, Adversary, Judged, field_loss
from .assigning import Assigner, Part, Unknown
from .game import CRITIC, GENERATOR, STILL, GANRun
from .hearing import Ear, Heard
from .origins import Origin, Origins

__all__ = ["GameRecording", "record_gan"]

#: Points, and their places in the data set.
Rows = list[tuple[Tensor, Sequence[int]]]

#: How far a score may differ between a point alone and in its batch, by rounding, as a part of it.
ALONE = 1e-3

#: Places for generated points where no batch size is known.
PLACES = 64

#: What to do where the first gradient of one of the two is another one.
ADVICE = {
    CRITIC: "Pass record_gan(..., loss=..., r1=..., lazy=...) those of the loop: the mean over the real points, the "
            "mean over the generated ones, and R1 at real points are understood; other penalties and terms have no "
            "sample.",
    GENERATOR: "Pass record_gan(..., loss=...) the game of the loop: the mean of the loss of that name at the critic's "
               "scores of what was generated is understood; other terms have no sample.",
}


def record_gan(
    generator: nn.Module,
    critic: nn.Module,
    loader: DataLoader[Any] | Tensor | Sequence[Tensor],
    *,
    loss: str = "non-saturating",
    r1: float = 0.0,
    lazy: int = 1,
    out: str | Path | None = None,
    keep: int | str = "all",
    average: nn.Module | None = None,
    places: int | None = None,
    clean: Callable[[Any], Tensor] | None = None,
    commit_every: float = 1.0,
    overwrite: bool = False,
    notes: dict[str, Any] | None = None,
) -> GameRecording:
    r"""Records the training of a GAN inside the ``with`` block.

    The loop stays as it is: alternating or simultaneous steps, any number of critic steps for one of the generator,
    detached or graph-free generated points, separate passes or one of real and generated points together. The
    critic's loss is the mean over the real points plus the mean over the generated ones, and, where it takes the slope
    at real points with ``create_graph=True``, R1 at these points:

    .. math:: \tfrac1n \sum_i g(-D(x_i)) + \tfrac1m \sum_j g(D(G(z_j)))
              + \tfrac\gamma2 \tfrac1n \sum_i |\nabla D(x_i)|^2

    Of a loop that minimises something else the first gradients tell, and a warning says so; what a step holds beside
    this is booked as unattributed.

    Args:
        generator: The module that the loop calls on latents, with shape (m, *).
        critic: The module that the loop calls on points, which gives one score each.
        loader: The loader that the loop iterates, whose batches are real points or begin with them; or all real points
            in one tensor, for a loop that calls ``recording.batch(ids)`` before each of the critic's steps.
        loss: The game: ``"non-saturating"``, ``"wasserstein"`` or ``"hinge"``.
        r1: The weight :math:`\gamma` of the penalty.
        lazy: By what the loop multiplies the penalty, as where it is taken at every 16th step only.
        out: The folder to record into, which gets two runs, ``generator`` and ``critic``; ``None`` keeps them in
            memory.
        keep: Which parameters are stored, as in :func:`kernelscope.record`, of each network.
        average: A module with averaged weights of the generator that the loop updates.
        places: How many generated points are told apart, by their places in a batch; later ones share these. The size
            of the loader's batches, or 64, if not given.
        clean: ``batch -> x``, the real points, where they are not the first part of a batch.
        commit_every: Seconds after which recorded steps are brought to the disk.
        overwrite: Whether a game in ``out`` may be replaced.
        notes: Plain data to keep with both runs.

    Returns:
        A context manager; ``recording.run`` is the :class:`~kernelscope.generative.GANRun` after the block.

    Raises:
        RecordingError: If the loop and the recording do not fit together; the message says what to do.

    References:
        R1: "Which Training Methods for GANs do actually Converge?" (Mescheder et al., 2018), equation 9. Lazily:
        "Analyzing and Improving the Image Quality of StyleGAN" (Karras et al., 2020), section 3.1.

    Example:
        >>> import torch.nn.functional as F
        >>> from torch.utils.data import TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.randn(12, 2)), batch_size=4, shuffle=True)
        >>> G, D = nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))
        >>> moving, judging = torch.optim.SGD(G.parameters(), lr=0.1), torch.optim.SGD(D.parameters(), lr=0.1)
        >>> with record_gan(G, D, loader) as recording:
        ...     for (x,) in loader:
        ...         fake = G(torch.randn(4, 3)).detach()
        ...         judging.zero_grad()
        ...         (F.softplus(-D(x)).mean() + F.softplus(D(fake)).mean()).backward()
        ...         judging.step()
        ...         moving.zero_grad()
        ...         F.softplus(-D(G(torch.randn(4, 3)))).mean().backward()
        ...         moving.step()
        >>> recording.run
        GANRun(non-saturating: 3 steps of a generator with 8 parameters, 3 of a critic with 33, 12 real points)
        >>> recording.run.seen
        tensor([1, 2, 3])
    """
    game = Adversary(loss, r1)
    for name, module in (("generator", generator), ("critic", critic)):
        if not isinstance(module, nn.Module):
            raise RecordingError(f"{name} must be a torch.nn.Module; {what_came(module)} came. Pass the network that "
                                 "the loop calls.")
    if notes is not None and not isinstance(notes, dict):
        raise DataError(f'notes must be a dictionary of plain data; {what_came(notes)} came. Pass for example '
                        'notes={"seed": 0}.')
    folder = None if out is None else as_path(out, "out, the folder to record into,", 'out="runs/gan"')
    choose = first_part if clean is None else as_function(clean, "clean", "of a batch that gives the real points")
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    pair = (loader, loader) if isinstance(loader, Tensor) else loader
    size = getattr(loader, "batch_size", None) if isinstance(loader, DataLoader) else None
    return GameRecording(
        generator, critic, Source(pair, lambda batch: (None, choose(batch)), None), game,
        lazy=as_count(lazy, "lazy", least=1), folder=folder, keep=keep, average=average,
        places=as_count(places if places is not None else size or PLACES, "places", least=1),
        commit_every=commit_every, overwrite=as_switch(overwrite, "overwrite"), notes=notes or {},
    )


class GameRecording:
    """The two recordings of one game, and what tells them of each step.

    Args:
        generator: The generator.
        critic: The score network.
        source: Where real points come from.
        game: The losses.
        lazy: By what the loop multiplies the penalty.
        folder: Where both runs go.
        keep: Which rows are stored.
        average: Averaged weights of the generator.
        places: How many generated points are told apart.
        commit_every: Seconds after which steps are brought to the disk.
        overwrite: Whether a game that is there may be replaced.
        notes: Plain data to keep.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, source: Source, game: Adversary, *, lazy: int,
                 folder: Path | None, keep: int | str, average: nn.Module | None, places: int, commit_every: float,
                 overwrite: bool, notes: dict[str, Any]):
        _refuse(generator, critic)
        self._generator, self._critic, self._source, self._game = generator, critic, source, game
        self._lazy, self._places, self._real = lazy, places, source.samples.size
        self._network = Network(network_behind(critic))
        self._assigner = Assigner(critic, self._network, game, lazy, self._doubt)
        self._warned: set[str] = set()
        self._penalised = self._looked = False
        self._buffers = {name: b.detach().clone() for name, b in network_behind(critic).named_buffers()}
        self._earlier: dict[int, Parameters] = {}
        if folder is not None and exists(folder):
            raise StoreExists(f"{folder} already holds a recording that is no game; it is intact. Choose another "
                              "folder.")
        about = {**notes, "generative": "gan", "kind": game.kind, "r1": float(game.r1), "lazy": lazy,
                 "real": self._real, "game": secrets.token_hex(8)}

        def recording(name: str, model: nn.Module, loss: Callable[..., Tensor], size: int,
                      averaged: nn.Module | None) -> Recording:
            place = Place(None if folder is None else folder / name, commit_every, overwrite, resumable=False)
            made = Recording(model, (torch.zeros(size, 1), torch.zeros(size, 1)), Loss(loss), place=place,
                             keep=Keep.parse(keep), average=averaged, split=lambda pair: pair, ids=None,
                             class_names=None, notes=about, told=ADVICE[name])
            made.what = f"recorded {name}"
            return made

        points = self._real * (2 if game.r1 else 1)
        self._of_critic = recording(CRITIC, Judged(network_behind(critic)), game.critic_loss, points + places, None)
        self._of_generator = recording(GENERATOR, generator, field_loss, places, average)

    # -- the block ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # This hook is to come before those of the two recordings, which are told by it.
            stack.callback(register_optimizer_step_pre_hook(self._before_step).remove)
            stack.enter_context(self._of_critic)
            stack.enter_context(self._of_generator)
            self._origins = Origins(self._source)
            stack.callback(self._origins.forget)
            self._made = Ear(self._generator, self._held(self._of_generator), self._see_made,
                             lambda: self._of_critic.steps)
            stack.callback(self._made.close)
            self._judged = Ear(self._critic, self._held(self._of_critic), self._see_judged, lambda: 0)
            stack.callback(self._judged.close)
            self._source.relay(self._deliver)
            self._source.open()
            stack.callback(self._source.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    @staticmethod
    def _held(recording: Recording) -> Callable[[], bool]:
        return lambda: bool(recording.gathered.any())

    @property
    def run(self) -> GANRun:
        """The recorded game, after the block."""
        return GANRun.of(self._of_generator.run, self._of_critic.run)

    @property
    def acknowledged(self) -> tuple[int, int]:
        """The numbers of steps of the generator and of the critic that are safely stored."""
        return self._of_generator.acknowledged, self._of_critic.acknowledged

    def batch(self, ids: Any) -> None:
        """Says which real points the critic is shown next, in a loop without a loader or one that fetches ahead."""
        self._source.say(ids)
        bad = [i for i in self._source.said or [] if not 0 <= i < self._real]
        if bad:
            raise RecordingError(f"recording.batch(ids) was told of {bad[0]}, and there are no real points but 0 to "
                                 f"{self._real - 1}. Pass their places in the data set.")

    def _deliver(self, batch: Any, ids: list[int]) -> None:
        self._source.deliver(batch, ids)
        try:
            latest = self._source.latest()
        # A batch that is never trained on may have any form.
        except (DataError, LookupError, TypeError, ValueError, AttributeError):
            return
        if latest is not None:
            self._origins.deliver(*latest)

    # -- passes ------------------------------------------------------------------------------------------------------

    def _see_made(self, z: Tensor, made: Tensor) -> None:
        self._origins.add(made)

    def _see_judged(self, x: Tensor, scores: Tensor) -> Origin | None:
        if scores.numel() != len(x):
            raise RecordingError(
                f"The critic gives {tuple(scores.shape)} for {len(x)} points, and a recorded game has one score for "
                "each. Average scores of patches within the critic."
            )
        if not torch.is_grad_enabled():
            return None
        if not self._looked and len(x) > 1:
            self._looked = True
            self._look_at_the_critic(x.detach())
        widths = self._origins.widths
        if widths and len(x) and x[0].numel() not in widths:
            raise RecordingError(
                f"The critic is called on points of {x[0].numel()} numbers, {tuple(x.shape[1:])}, and the generator "
                f"gives {', '.join(map(str, sorted(widths)))}: something was appended, cut or resized between them, "
                "and its field could not be handed on to the generator. Let the generator give what the critic sees, a "
                "condition too, as torch.cat([points, condition], 1) at the end of its forward, or do the rest within "
                "the critic."
            )
        return self._origins.of(x)

    def _look_at_the_critic(self, x: Tensor) -> None:
        """Refuses a critic whose scores depend on the other points of a batch; warns of one whose buffers change."""
        network = network_behind(self._critic)
        buffers = {name: b.detach() for name, b in network.named_buffers()}
        training = tuple(name for name, module in network.named_modules() if module.training)
        with exact_arithmetic(), random_state(None, x.device), torch.no_grad(), warnings.catch_warnings():
            # What torch has to say of statistics of one point is no word of the loop's.
            warnings.simplefilter("ignore")
            alone, among = (float(self._network(self._now(), buffers, (points,), training).flatten()[0])
                            for points in (x[:1], x))
        if not abs(alone - among) <= ALONE * max(abs(alone), abs(among), 1.0):
            raise RecordingError(
                f"The critic's score of a point depends on the rest of the batch or on chance: it is {among:.3g} in "
                f"its batch and {alone:.3g} alone, as with a minibatch standard deviation. Then no point has a term of "
                "its own. Leave that layer out; nn.GroupNorm and nn.LayerNorm look at one point at a time."
            )
        changed = [name for name, b in buffers.items() if not torch.equal(b, self._buffers[name])]
        if changed:
            self._warn(
                f"The critic's buffer {changed[0]!r} changes as it runs. Scores can be decomposed, but explain_gan "
                f"traces the generator through the critics of all steps and will refuse this run. {STILL}"
            )

    # -- steps -------------------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
        of = [network for network in (self._generator, self._critic)
              if any(id(p) in moved for p in network.parameters())]
        if len(of) == 2:
            raise RecordingError(
                "One optimizer holds parameters of the generator and of the critic, and a game is recorded by the "
                "steps of each. Make two optimizers, torch.optim.Adam(generator.parameters()) and "
                "torch.optim.Adam(critic.parameters())."
            )
        if not of:
            return None
        tell = self._tell_generator if of[0] is self._generator else self._tell_critic
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            tell()
            return None
        told = False

        def watched() -> Any:
            nonlocal told
            value = closure()
            if not told:
                tell()
            told = True
            return value

        return (args[0], watched, *args[2:]), {key: item for key, item in kwargs.items() if key != "closure"}

    def _tell_critic(self) -> None:
        """Tells the critic's recording of real points, their penalties and generated points, in one batch."""
        if self._made.used:
            # A gradient that the generator already has was taken through the critic as it is now.
            self._earlier[self._of_critic.steps] = {name: p.detach().clone() for name, p in self._now().items()}
        reals, slopes, fakes = self._rows(self._judged.passes)
        n, base = self._real, self._real * (2 if self._game.r1 else 1)
        parts: list[tuple[int, list[Tensor], list[int], float]] = [
            (REAL, [x for x, _ in reals], [i for _, ids in reals for i in ids], 1.0),
            (PENALTY, [x for x, _ in slopes], [n + i for _, ids in slopes for i in ids], float(self._lazy)),
            (FAKE, fakes, [base + j % self._places for j in range(sum(map(len, fakes)))], 1.0),
        ]
        count = sum(len(ids) for _, _, ids, _ in parts)
        if count:
            # Rows are averaged over all of them, and each term of the loss over its own.
            rows = [torch.tensor([[what, factor * count / len(ids)]], dtype=torch.float64).expand(len(ids), 2)
                    for what, _, ids, factor in parts if ids]
            points = [x for _, held, _, _ in parts for x in held]
            self._of_critic.book((torch.cat(points),), [i for _, _, ids, _ in parts for i in ids],
                                 torch.cat(rows).to(points[0].device))
        if slopes and not self._penalised:
            # The first step may have had no penalty to compare.
            self._penalised, self._of_critic.watched = True, "the first step with a penalty"
        self._judged.clear()
        self._source.next_step()

    def _rows(self, passes: list[Heard]) -> tuple[Rows, Rows, list[Tensor]]:
        """Real points with their places, points of penalties likewise, and generated points."""
        reals: Rows = []
        slopes: Rows = []
        fakes: list[Tensor] = []
        unknown: list[Unknown] = []
        shown: list[Part] = []
        for heard in passes:
            origin: Origin = heard.about
            for part in origin.parts:
                if not part.known:
                    unknown.append(Unknown(heard, part.rows))
                    continue
                shown.append((heard, part.rows, part.ids))
        known = any(ids is not None for heard, _, ids in shown if heard.used)
        shown += self._assigner.settle(unknown, shown, known)
        shown.sort(key=lambda part: (part[0].order, part[1].start))
        for heard, rows, ids in shown:
            if not heard.used:
                continue
            if ids is None:
                fakes.append(heard.x[rows])
            else:
                reals.append((heard.x[rows], ids))
                self._origins.use(ids)
        for heard in passes:
            if heard.sloped is not None:
                self._add_slopes(slopes, heard, [(rows, ids) for other, rows, ids in shown if other is heard])
        return reals, slopes, fakes

    def _doubt(self, message: str) -> None:
        """Refuses what cannot be told at the first step, where nothing is lost; later warns of it."""
        if not self._of_critic.steps:
            raise RecordingError(message)
        self._warn(message)

    def _add_slopes(self, slopes: Rows, heard: Heard, parts: list[tuple[slice, Sequence[int] | None]]) -> None:
        """Adds points whose slope was taken, if the game has a penalty of them."""
        sloped = heard.sloped.cpu()  # type: ignore[union-attr]
        taken = [(rows, ids) for rows, ids in parts if bool(sloped[rows].any())]
        if any(ids is None for _, ids in taken):
            self._warn(
                "The loop takes the critic's slope at points that are not real ones alone, as penalties at "
                "interpolates do, and a recorded game has R1 at real points. What such a penalty does is booked as "
                "unattributed."
            )
        elif not self._game.r1:
            self._warn(
                "The loop takes the critic's slope at real points with a graph, as the penalty R1 does, and r1=0 was "
                "given. Pass record_gan(..., r1=...) its weight, or what it does is booked as unattributed."
            )
        else:
            for rows, ids in taken:
                which = sloped[rows].nonzero().flatten()
                slopes.append((heard.x[rows][which.to(heard.x.device)], [ids[i] for i in which.tolist()]))  # type: ignore[index]

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message)

    def _tell_generator(self) -> None:
        """Tells the generator's recording of latents, with the critic's field at what was made of them."""
        recording = self._of_generator
        used = self._made.used
        recording.seen = used[-1].at if used else self._of_critic.steps
        for heard in used:
            ids = [j % self._places for j in range(len(heard.x))]
            recording.book((heard.x,), ids, self._field(heard), heard.training, heard.random)
        self._made.clear()
        self._earlier.clear()

    def _field(self, heard: Heard) -> Tensor:
        """The gradient of the generator's loss by what it made, at the critic that it was shown to."""
        parameters = self._earlier.get(heard.at) if heard.at != self._of_critic.steps else None
        parameters = self._now() if parameters is None else parameters
        network = network_behind(self._critic)
        buffers = {name: b.detach() for name, b in network.named_buffers()}
        training = tuple(name for name, module in network.named_modules() if module.training)
        made = heard.outputs
        points = made.reshape(len(made), *self._shape) if self._shape is not None else made
        with exact_arithmetic(), random_state(None, made.device):
            field = self._game.field(lambda x: self._network(parameters, buffers, (x,), training), points)
        return field.view_as(made)

    @property
    def _shape(self) -> Sequence[int] | None:
        """The shape of a point as the critic is shown it."""
        return self._judged.shape

    def _now(self) -> Parameters:
        """The critic's parameters as they are."""
        return {name: p.detach() for name, p in network_behind(self._critic).named_parameters()}


def _refuse(generator: nn.Module, critic: nn.Module) -> None:
    """Refuses networks that are not those of a game that can be written as two runs."""
    if isinstance(critic, Judged):
        raise RecordingError("The critic came wrapped in Judged, which a recording makes itself. Pass the score "
                             "network that the loop calls.")
    shared = {id(p) for p in generator.parameters()} & {id(p) for p in critic.parameters()}
    if shared:
        raise RecordingError(f"Generator and critic share {len(shared)} parameters, and a game has two networks. Make "
                             "them apart.")
    for name, module in critic.named_modules():
        mixing = isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(
            module, nn.modules.instancenorm._InstanceNorm)
        if mixing or isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise RecordingError(
                f"The critic's layer {name!r} is a {type(module).__name__}, by which a score depends on the rest of "
                "the batch or on chance, so no point has a term of its own. Use nn.GroupNorm or nn.LayerNorm, or none."
            )
