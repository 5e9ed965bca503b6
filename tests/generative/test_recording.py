"""Recording of generative loops: nothing is changed, everything is booked, and what does not fit is said."""

import copy
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, KernelscopeError, ModelError, RecordingError, StoreError, StoreExists
from kernelscope.generative import DiffusionRun, NoiseLaw, record_diffusion, record_gan
from kernelscope.generative.denoising.denoiser import along
from kernelscope.generative.games.adversary import FAKE, KINDS, PENALTY, REAL
from kernelscope.network import exact_arithmetic
from tests.generative.loops import (
    BATCH,
    GAMES,
    LATENTS,
    OPTIMIZERS,
    SIZE,
    N,
    denoiser,
    diffuse,
    diffusion,
    game,
    latents,
    loader_of,
    play,
    players,
    points,
)

#: What float64 leaves of sums of a few hundred terms, as a part of these.
EXACT = 1e-12

WAYS = ["apart", "together", "graph-free", "attached", "slopes apart", "at once", "scaled"]


@pytest.fixture(autouse=True)
def nothing_is_said():
    """A recording that fits its loop warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def ema(network):
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.8))


def noisy(count=2):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(count, SIZE, generator=draw, dtype=torch.float64), torch.tensor([0.2, 1.5], dtype=torch.float64)


def assert_closes(run, x, **options):
    ledger = ks.decompose(run, x, **options)
    terms = ledger.contributions.abs().sum(-1)
    assert float((ledger.residual.abs() / terms.clamp_min(1.0)).max()) <= EXACT
    assert float((ledger.channels["unattributed"].abs() / terms.clamp_min(1.0)).max()) <= EXACT
    return ledger


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


# -- denoisers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_denoisers_loop_is_left_as_it_is_and_its_ledger_closes(optimizer):
    run, end = diffusion(optimizer)
    _, plain = diffusion(optimizer, recorded=False)
    assert equal(end, plain)
    assert run.size == N
    assert_closes(run, noisy())


def test_a_sample_keeps_its_place_and_its_clean_point_comes_back():
    run, _ = diffusion()
    read = DiffusionRun(run)
    torch.testing.assert_close(read.clean, points(), rtol=0, atol=1e-14)
    for k in range(len(run)):
        for batch in run.step(k).batches:
            (y, sigma), target = run.samples.read(batch)
            a, b = read.coefficients(sigma)
            torch.testing.assert_close(along(a, y) * y + along(b, y) * target, points()[batch.columns], rtol=0,
                                       atol=1e-14)


def test_the_law_is_told_from_what_was_drawn():
    run, _ = diffusion(epochs=40)
    drawn = torch.cat([DiffusionRun(run).levels(k) for k in range(len(run))]).log()
    law = DiffusionRun(run).law
    assert (law.mean, law.deviation) == pytest.approx((float(drawn.mean()), float(drawn.std())))
    # 480 draws: within four standard errors of the law that the loop drew from.
    assert abs(law.mean + 1.2) < 4 * 1.2 / 480**0.5
    assert DiffusionRun(diffusion(law=NoiseLaw(0.5, 2.0))[0]).law == NoiseLaw(0.5, 2.0)


def test_a_loop_without_a_loader_says_its_ids():
    network, x = denoiser(), points()
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    with record_diffusion(network, x) as recording:
        for ids in torch.arange(N).split(5):
            sigma = NoiseLaw().draw(len(ids)).double()
            y = x[ids] + along(sigma, x[ids]) * torch.randn_like(x[ids])
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(network(y, sigma), network.target(x[ids], y, sigma)).backward()
            optimizer.step()
    assert [len(batch.columns) for k in range(3) for batch in recording.run.step(k).batches] == [5, 5, 2]
    torch.testing.assert_close(DiffusionRun(recording.run).clean, x, rtol=0, atol=1e-14)


def test_points_that_the_loop_scales_need_to_be_said():
    for clean, ok in ((lambda batch: 2 * batch[0], True), (None, False)):
        network, loader = denoiser(), loader_of(points())
        optimizer = OPTIMIZERS["sgd"](network.parameters())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with record_diffusion(network, loader, clean=clean) as recording:
                diffuse(loader, network, optimizer, scale=lambda x: 2 * x)
        assert [str(w.message)[:38] for w in said] == ([] if ok else ["At the first step the gradient differs"])
        if ok:
            assert_closes(recording.run, noisy())


def test_averaged_weights_have_a_ledger_and_a_channel_of_their_own():
    run, _ = diffusion("adam", average=ema)
    read, (y, sigma) = DiffusionRun(run), noisy()
    trained, averaged = (assert_closes(run, (y, sigma), weights=weights) for weights in ("trained", "average"))
    _, b = read.coefficients(sigma)
    shift = read.averaging(y, sigma)
    torch.testing.assert_close(along(b, y) * (averaged.final - trained.final), shift, rtol=0, atol=1e-13)
    # The line integral from the trained weights to the averaged ones, by eight Gauss-Legendre points, in its own words.
    end, other, buffers = run.parameters(), read.averaged, run.buffers(run.stop)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(8))
    total = torch.zeros_like(y)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        at = {name: end[name] + node * (other[name] - end[name]) for name in end}
        moved = {name: other[name] - end[name] for name in end}
        with exact_arithmetic():
            total += weight * torch.func.jvp(lambda p: run.network(p, buffers, (y, sigma)), (at,), (moved,))[1]
    torch.testing.assert_close(along(b, y) * total, shift, rtol=0, atol=1e-12)


def test_a_loop_of_another_loss_is_told():
    network, loader = denoiser(), loader_of(points())
    optimizer = OPTIMIZERS["sgd"](network.parameters())

    def loop():
        with record_diffusion(network, loader):
            for (x,) in loader:
                sigma = NoiseLaw().draw(len(x)).double()
                y = x + along(sigma, x) * torch.randn_like(x)
                optimizer.zero_grad()
                F.mse_loss(network.denoised(y, sigma), x).backward()
                optimizer.step()

    with pytest.warns(UserWarning, match="the gradient differs by"):
        loop()


@pytest.mark.parametrize(("make", "word"), [
    (lambda: record_diffusion(nn.Linear(2, 2), points()), "Wrap the network"),
    (lambda: ks.record(nn.Linear(2, 2), (points(), points()), loss=F.mse_loss, targets=3), "inputs, given"),
])
def test_what_is_no_denoiser_is_refused(make, word):
    with pytest.raises(KernelscopeError, match=word):
        make()


def test_targets_need_a_row_for_each_sample():
    model = nn.Linear(SIZE, 1).double()
    with pytest.raises(DataError, match="one row for each of the 12"):
        with ks.record(model, (points(), points()), loss=F.mse_loss, targets=lambda inputs, given: given.sum()):
            model(points()).sum().backward()


# -- games -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("r1", [0.0, 0.3])
@pytest.mark.parametrize("kind", GAMES)
def test_a_games_loop_is_left_as_it_is_and_both_ledgers_close(kind, r1, optimizer):
    run, end = game(optimizer, kind, r1)
    _, plain = game(optimizer, kind, r1, recorded=False)
    assert equal(end, plain)
    assert run.seen.tolist() == [1, 2, 3, 4, 5, 6]
    x = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ledger = assert_closes(run.critic, x)
    assert ledger.contributions.shape[-1] == N * (2 if r1 else 1) + BATCH
    assert (float(ledger.contributions[..., N:2 * N].abs().max()) > 0) or not r1
    assert_closes(run.generator, latents(2))


@pytest.mark.parametrize("r1", [0.0, 0.3])
@pytest.mark.parametrize("way", WAYS)
def test_loops_may_be_written_in_many_ways(way, r1):
    options = {"clean": lambda batch: batch[0]}
    run, end = game("momentum", r1=r1, way=way, options=options)
    assert equal(end, game("momentum", r1=r1, way=way, recorded=False)[1])
    assert run.seen.tolist() == ([0, 1, 2, 3, 4, 5] if way == "at once" else [1, 2, 3, 4, 5, 6])
    assert_closes(run.critic, noisy()[0])
    assert_closes(run.generator, latents(2))
    torch.testing.assert_close(run.points, points() * (2 if way == "scaled" else 1), rtol=0, atol=0)


@pytest.mark.parametrize("kind", GAMES)
def test_the_critic_may_make_several_steps(kind):
    run, end = game("adam", kind, 0.3, critic_steps=3)
    assert equal(end, game("adam", kind, 0.3, critic_steps=3, recorded=False)[1])
    assert run.seen.tolist() == [3, 6, 9, 12, 15, 18]
    assert len(run.critic) == 18
    assert_closes(run.critic, noisy()[0])


def test_a_step_of_the_critic_is_one_batch_of_all_its_terms():
    run, _ = game(r1=0.3)
    for k in range(len(run.critic)):
        batch, = run.critic.step(k).batches
        (x,), rows = run.critic.samples.read(batch)
        what, weight = rows.unbind(1)
        assert what.tolist() == [REAL] * BATCH + [PENALTY] * BATCH + [FAKE] * BATCH
        assert weight.tolist() == [3.0] * 12
        ids = batch.columns
        assert torch.equal(ids[BATCH:8], ids[:BATCH] + N)
        assert ids[8:].tolist() == [2 * N + j for j in range(BATCH)]
        assert torch.equal(x[:BATCH], points()[ids[:BATCH]])


def test_the_generators_targets_are_the_critics_field():
    run, _ = game("adam", "non-saturating", 0.3, critic_steps=2)
    for k, seen in enumerate(run.seen.tolist()):
        batch, = run.generator.step(k).batches
        (z,), field = run.generator.samples.read(batch)
        made = run.generated(z, run.generator.parameters(k))
        at = run.critic.parameters(seen)
        slope = run.slope(made, at)
        expected = -torch.sigmoid(-run.score(made, at))[:, None] * slope
        torch.testing.assert_close(field, expected, rtol=0, atol=1e-15)


def test_a_lazy_penalty_is_booked_where_it_is_taken():
    run, end = game("sgd", r1=0.3, lazy=2)
    assert equal(end, game("sgd", r1=0.3, lazy=2, recorded=False)[1])
    kinds = [run.critic.samples.read(run.critic.step(k).batches[0])[1] for k in range(6)]
    assert [int((rows[:, 0] == PENALTY).sum()) for rows in kinds] == [4, 0, 4, 0, 4, 0]
    assert kinds[0][kinds[0][:, 0] == PENALTY][0, 1] == 2 * 3.0
    assert_closes(run.critic, noisy()[0])


def test_gradients_of_two_halves_are_one_step():
    made, critic = players()
    loader = loader_of(points())
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with record_gan(made, critic, loader, r1=0.2) as recording:
        for (x,) in loader:
            judging.zero_grad()
            for half in x.split(2):
                real = half.clone().requires_grad_()
                scores = critic(real)
                slope, = torch.autograd.grad(scores.sum(), real, create_graph=True)
                loss = F.softplus(-scores).mean() + F.softplus(critic(made(latents(2)).detach())).mean()
                ((loss + 0.1 * slope.square().sum(1).mean()) / 2).backward()
            judging.step()
            moving.zero_grad()
            F.softplus(-critic(made(latents()))).mean().backward()
            moving.step()
    # The halves were copied, so their rows are told by their numbers.
    run = recording.run
    torch.testing.assert_close(run.points, points(), rtol=0, atol=0)
    assert_closes(run.critic, noisy()[0])


def test_penalties_on_a_part_of_the_batch_are_booked_on_that_part():
    made, critic = players()
    loader = loader_of(points())
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with record_gan(made, critic, loader, r1=0.2) as recording:
        for (x,) in loader:
            judging.zero_grad()
            half = x[:2].requires_grad_()
            slope, = torch.autograd.grad(critic(half).sum(), half, create_graph=True)
            loss = F.softplus(-critic(x)).mean() + F.softplus(critic(made(latents()).detach())).mean()
            (loss + 0.1 * slope.square().sum(1).mean()).backward()
            judging.step()
            moving.zero_grad()
            F.softplus(-critic(made(latents()))).mean().backward()
            moving.step()
    rows = [recording.run.critic.samples.read(recording.run.critic.step(k).batches[0])[1] for k in range(3)]
    assert [int((part[:, 0] == PENALTY).sum()) for part in rows] == [2, 2, 2]
    assert_closes(recording.run.critic, noisy()[0])


def gradient_penalty(critic, x, fake):
    between = (0.5 * x + 0.5 * fake).detach().requires_grad_()
    slope, = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return 10 * (slope.norm(dim=1) - 1).square().mean()


def test_a_penalty_at_interpolates_is_told_and_never_booked_on_somebody():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run, _ = game("sgd", "wasserstein", penalty=gradient_penalty)
    words = " ".join(str(w.message) for w in said)
    assert "penalties at interpolates" in words
    assert "the gradient differs by" in words
    ledger = ks.decompose(run.critic, noisy()[0])
    assert float(ledger.channels["unattributed"].abs().max()) > 1e-3


@pytest.mark.parametrize(("kind", "told"), [("hinge", "non-saturating"), ("non-saturating", "wasserstein")])
def test_another_game_than_the_loops_is_told(kind, told):
    made, critic = players()
    loader = loader_of(points())
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with pytest.warns(UserWarning, match="record_gan"):
        with record_gan(made, critic, loader, loss=told):
            play(loader, made, critic, moving, judging, kind)


def test_a_penalty_that_was_not_announced_is_told():
    made, critic = players()
    loader = loader_of(points())
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with record_gan(made, critic, loader):
            play(loader, made, critic, moving, judging, r1=2.0)
    first, second = (str(w.message) for w in said)
    assert "r1=0 was given" in first
    assert "the gradient differs by" in second


def test_optimizers_may_be_made_within_the_block_and_looks_leave_no_trace():
    made, critic = players()
    loader = loader_of(points())
    with record_gan(made, critic, loader) as recording:
        moving, judging = (OPTIMIZERS["adam"](network.parameters()) for network in (made, critic))
        play(loader, made, critic, moving, judging, epochs=1)
        critic(points()), made(latents(50)), critic(made(latents(7)))  # an evaluation, graphs and all
        x = points().requires_grad_()
        torch.autograd.grad(critic(x).sum(), x)
        play(loader, made, critic, moving, judging, epochs=1)
    assert len(recording.run.critic) == 6
    assert_closes(recording.run.critic, noisy()[0])
    assert not any(network._forward_hooks or network._forward_pre_hooks for network in (made, critic))


def test_averaged_weights_of_a_generator():
    run, _ = game("adam", average=ema)
    assert_closes(run.generator, latents(2), weights="average")


def test_points_that_were_never_drawn_are_missing_and_do_not_break_the_others():
    x = points()
    made, critic = players()
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with record_gan(made, critic, x, places=2) as recording:
        for ids in (torch.tensor([3, 5]), torch.tensor([5, 0])):
            recording.batch(ids)
            judging.zero_grad()
            (F.softplus(-critic(x[ids])).mean() + F.softplus(critic(made(latents(2)).detach())).mean()).backward()
            judging.step()
            moving.zero_grad()
            F.softplus(-critic(made(latents(2)))).mean().backward()
            moving.step()
    held = recording.run.points
    assert (~held.isnan().any(1)).nonzero().flatten().tolist() == [0, 3, 5]
    assert torch.equal(held[[0, 3, 5]], x[[0, 3, 5]])
    assert_closes(recording.run.critic, noisy()[0])


def refused_networks():
    made, critic = players()
    yield lambda: record_gan(made, made, points()), "share"
    yield lambda: record_gan(made, nn.Sequential(critic, nn.BatchNorm1d(1)), points()), "BatchNorm1d"
    yield lambda: record_gan(made, nn.Sequential(nn.Dropout(0.5), critic), points()), "Dropout"
    yield lambda: record_gan(made, ks.generative.Judged(critic), points()), "score network"
    yield lambda: record_gan(made, critic, points(), loss="least squares"), "least squares"
    yield lambda: record_gan(made, critic, points(), r1=-1.0), "r1 must be"
    yield lambda: record_gan(made, lambda x: x, points()), "critic must be"


@pytest.mark.parametrize("case", range(7))
def test_networks_that_have_no_game_of_points_are_refused(case):
    make, word = list(refused_networks())[case]
    with pytest.raises(KernelscopeError, match=word):
        make()


def test_one_optimizer_of_both_networks_is_refused():
    made, critic = players()
    both = torch.optim.SGD([*made.parameters(), *critic.parameters()], lr=0.1)
    loader = loader_of(points())
    with pytest.raises(RecordingError, match="Make two optimizers"):
        with record_gan(made, critic, loader):
            play(loader, made, critic, both, both)
    assert not any(network._forward_hooks for network in (made, critic))


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_that_were_not_stored_are_computed_again(optimizer):
    every, _ = game(optimizer, r1=0.3, critic_steps=2)
    some, _ = game(optimizer, r1=0.3, critic_steps=2, options={"keep": 5})
    for a, b in ((every.critic, some.critic), (every.generator, some.generator)):
        for row, again in zip(a.trajectory(0, a.stop), b.trajectory(0, b.stop), strict=True):
            # Its loss sums the same terms in another order than the loop did.
            torch.testing.assert_close(again, row, rtol=0, atol=1e-14)
    a, b = (diffusion(optimizer, keep=keep)[0] for keep in ("all", 5))
    for row, again in zip(a.trajectory(0, a.stop), b.trajectory(0, b.stop), strict=True):
        torch.testing.assert_close(again, row, rtol=0, atol=1e-15)


def test_a_game_on_disk_is_the_one_in_memory(tmp_path):
    kept, _ = game("adam", r1=0.3)
    game("adam", r1=0.3, options={"out": tmp_path / "gan"})
    run = ks.generative.load(tmp_path / "gan")
    assert repr(run) == repr(kept)
    assert torch.equal(run.seen, kept.seen)
    x = noisy()[0]
    for a, b in ((run.critic, kept.critic), (run.generator, kept.generator)):
        assert equal(a.trajectory(0, a.stop), b.trajectory(0, b.stop))
    assert torch.equal(ks.decompose(run.critic, x).contributions, ks.decompose(kept.critic, x).contributions)
    assert torch.equal(run.score(x), kept.score(x))
    kept.save(tmp_path / "copy")
    assert ks.generative.load(tmp_path / "copy").fingerprint() == kept.fingerprint()
    assert json.dumps(run.info())


def test_a_denoiser_on_disk_is_the_one_in_memory(tmp_path):
    kept, _ = diffusion("adam", average=ema)
    diffusion("adam", average=ema, out=tmp_path / "run")
    for run in (ks.generative.load(tmp_path / "run"), ks.load(tmp_path / "run")):
        assert torch.equal(DiffusionRun(run).denoised(*noisy()), DiffusionRun(kept).denoised(*noisy()))
        assert torch.equal(ks.decompose(run, noisy()).contributions, ks.decompose(kept, noisy()).contributions)


def test_networks_of_ones_own_are_asked_for(tmp_path):
    class Own(nn.Sequential):
        pass

    made, critic = players()
    critic = Own(*critic)
    loader = loader_of(points())
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    with record_gan(made, critic, loader, out=tmp_path / "gan") as recording:
        play(loader, made, critic, moving, judging)
    with pytest.raises(ModelError, match="code of its own"):
        ks.generative.load(tmp_path / "gan")
    run = ks.generative.load(tmp_path / "gan", critic=Own(*players()[1]))
    assert torch.equal(run.score(points()), recording.run.score(points()))


def test_an_interrupted_game_is_kept_up_to_there(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        game("adam", options={"out": tmp_path / "gan"}, stop=4)
    run = ks.generative.load(tmp_path / "gan")
    assert run.seen.tolist() == [1, 2, 3, 4]
    assert not run.critic.info()["complete"]
    assert_closes(run.critic, noisy()[0])


def test_steps_of_a_generator_whose_critic_was_lost_are_left_out():
    whole, _ = game("sgd")
    run = ks.generative.GANRun.of(whole.generator, whole.critic[:3])
    assert run.seen.tolist() == [1, 2, 3]
    assert len(run.generator) == 3


def test_a_folder_that_holds_no_game_is_refused_in_a_sentence(tmp_path):
    game("sgd", options={"out": tmp_path / "gan"})
    diffusion(out=tmp_path / "diffusion")
    with pytest.raises(StoreError, match="kernelscope.generative.load"):
        ks.load(tmp_path / "gan")
    with pytest.raises(DataError, match="not that of a denoiser"):
        ks.generative.load(tmp_path / "gan" / "critic")
    with pytest.raises(StoreError, match="There is no folder"):
        ks.generative.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="neither a run nor a game"):
        ks.generative.load(tmp_path / "empty")
    with pytest.raises(StoreExists):
        game("sgd", options={"out": tmp_path / "gan"})
    with pytest.raises(StoreExists):
        game("sgd", options={"out": tmp_path / "diffusion"})
    game("sgd", options={"out": tmp_path / "gan", "overwrite": True})
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "gan" / "critic", half / "critic")
    with pytest.raises(StoreError, match="there is no generator"):
        ks.generative.load(half)
    shutil.copytree(tmp_path / "diffusion", half / "generator")
    with pytest.raises(DataError, match="none of a recorded game"):
        ks.generative.load(half)


def test_bytes_that_were_changed_or_cut_are_refused(tmp_path):
    game("sgd", options={"out": tmp_path / "gan"})
    segment = next(file for file in sorted((tmp_path / "gan" / "generator").iterdir()) if file.suffix != ".json")
    data = segment.read_bytes()
    for bad in (data[:-9], data[:40] + bytes([data[40] ^ 1]) + data[41:], b""):
        segment.write_bytes(bad)
        with pytest.raises(StoreError):
            ks.generative.load(tmp_path / "gan")


class Forged(ks.Run):
    """A run that says something else of itself."""

    @property
    def meta(self):
        return self.said


def hostile(name):
    run, _ = game("sgd")
    critic = copy.copy(run.critic)
    critic.__class__ = Forged
    meta = critic.said = json.loads(json.dumps(critic.store.meta))
    words = {
        "kind": lambda: meta["notes"].__setitem__("kind", "least squares"),
        "kind of another type": lambda: meta["notes"].__setitem__("kind", ["hinge"]),
        "r1": lambda: meta["notes"].__setitem__("r1", float("nan")),
        "too many": lambda: meta["notes"].__setitem__("real", 10**9),
        "true": lambda: meta["notes"].__setitem__("real", True),
        "another game": lambda: meta["notes"].__setitem__("kind", "hinge"),
        "no game": lambda: meta["notes"].clear(),
        "seen": lambda: setattr(run.generator.step(3), "seen", 1),
        "not seen": lambda: setattr(run.generator.step(3), "seen", None),
    }
    words[name]()
    return run.generator, critic


@pytest.mark.parametrize("name", ["kind", "kind of another type", "r1", "too many", "true", "another game", "no game",
                                  "seen", "not seen"])
def test_what_a_hostile_folder_says_of_its_game_is_not_believed(name):
    generator, critic = hostile(name)
    with pytest.raises((StoreError, DataError), match=r"record again|Record generator"):
        ks.generative.GANRun.of(generator, critic)


def test_the_games_of_the_loops_are_those_of_the_package():
    scores = torch.linspace(-3, 3, 7)
    for kind, (against, mine) in GAMES.items():
        assert torch.equal(KINDS[kind][0](scores), against(scores))
        assert torch.equal(KINDS[kind][1](scores), mine(scores))
    assert LATENTS == 3


def test_loaders_with_labels_and_last_batches_of_another_size():
    made, critic = players()
    loader = DataLoader(TensorDataset(points(), torch.arange(N)), batch_size=5, shuffle=True)
    moving, judging = (OPTIMIZERS["adam"](network.parameters()) for network in (made, critic))
    with record_gan(made, critic, loader, r1=0.1) as recording:
        play(loader, made, critic, moving, judging, r1=0.1)
    assert_closes(recording.run.critic, noisy()[0])
