"""Which real points a critic was shown: told for certain, or refused; real and generated points are never exchanged."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from kernelscope.errors import RecordingError
from kernelscope.generative import record_gan
from kernelscope.generative.games.adversary import FAKE, PENALTY, REAL
from tests.generative.loops import BATCH, GAMES, OPTIMIZERS, SIZE, N, latents, players, points


@pytest.fixture(autouse=True)
def nothing_is_said():
    """A recording that fits its loop warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


def bent(x):
    return torch.sin(3 * x + torch.randn_like(x))


def labelled(x=None):
    x = points() if x is None else x
    return DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=BATCH, shuffle=True, drop_last=True,
                      generator=torch.Generator().manual_seed(2))


def plainly(loader):
    while True:
        yield from loader


def ahead(loader):
    while True:
        waiting = None
        for batch in loader:
            if waiting is not None:
                yield waiting
            waiting = batch
        yield waiting


def listed(loader):
    while True:
        yield from list(loader)


def copied(loader):
    while True:
        yield from [(x.clone(), ids) for x, ids in loader]


def run_loop(loader, batches=plainly, real=lambda x: x, fake=lambda x: x, kind="non-saturating", first="real",
             backwards="joint", r1=0.0, said=False, steps=6):
    """A user's loop; what it showed the critic at each step, and the recorded game."""
    torch.manual_seed(7)
    made, critic = players()
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    against, mine = GAMES[kind]
    shown = []
    with record_gan(made, critic, loader, loss=kind, r1=r1) as recording:
        source = batches(loader)
        for _ in range(steps):
            x, ids = next(source)
            if said:
                recording.batch(ids)
            x, f = real(x), fake(made(latents(len(x))).detach())
            judging.zero_grad()
            if backwards == "one pass":
                if r1:
                    x = x.clone().requires_grad_()
                a, b = critic(torch.cat([x, f] if first == "real" else [f, x])).split(len(x))
                a, b = (a, b) if first == "real" else (b, a)
                loss = against(-a).mean() + against(b).mean()
                if r1:
                    slope, = torch.autograd.grad(a.sum(), x, create_graph=True)
                    loss = loss + r1 / 2 * slope.square().sum(1).mean()
                loss.backward()
            else:
                terms = [lambda x=x: against(-critic(x)).mean(), lambda f=f: against(critic(f)).mean()]
                terms = terms if first == "real" else terms[::-1]
                if backwards == "joint":
                    (terms[0]() + terms[1]()).backward()
                else:
                    for term in terms:
                        term().backward()
            judging.step()
            shown.append((ids, x.detach(), f))
            moving.zero_grad()
            mine(critic(made(latents()))).mean().backward()
            moving.step()
    return shown, recording.run


def assert_booked_right(shown, run, r1=0.0):
    assert len(run.critic) == len(shown)
    for k, (ids, x, f) in enumerate(shown):
        batch, = run.critic.step(k).batches
        (held,), rows = run.critic.samples.read(batch)
        what = rows[:, 0]
        assert torch.equal(batch.columns[what == REAL], ids)
        assert torch.equal(held[what == REAL], x)
        assert torch.equal(held[what == FAKE], f)
        assert int((what == PENALTY).sum()) == (len(x) if r1 else 0)
        if r1:
            assert torch.equal(batch.columns[what == PENALTY] - N, ids)


@pytest.mark.parametrize("kind", GAMES)
@pytest.mark.parametrize("first", ["real", "generated"])
@pytest.mark.parametrize("backwards", ["joint", "one after the other", "one pass"])
def test_noise_on_both_does_not_exchange_real_and_generated(backwards, first, kind):
    assert_booked_right(*run_loop(labelled(), real=noisy, fake=noisy, kind=kind, first=first, backwards=backwards))


@pytest.mark.parametrize("first", ["real", "generated"])
def test_scaled_points_in_one_pass_with_generated_ones_are_real(first):
    assert_booked_right(*run_loop(labelled(), real=lambda x: 2 * x - 1, backwards="one pass", first=first))


@pytest.mark.parametrize("batches", [ahead, listed, copied])
@pytest.mark.parametrize("real", [torch.clone, lambda x: 2 * x - 1, lambda x: x.float().double(), noisy],
                         ids=["copied", "scaled", "cast", "noisy"])
def test_points_of_batches_that_were_fetched_ahead_keep_their_places(batches, real):
    assert_booked_right(*run_loop(labelled(), batches, real))


@pytest.mark.parametrize("batches", [ahead, listed])
def test_what_cannot_be_told_is_refused_and_may_be_said(batches):
    with pytest.raises(RecordingError, match=r"2 batches|3 batches") as error:
        run_loop(labelled(), batches, bent)
    assert "recording.batch(ids)" in str(error.value)
    assert_booked_right(*run_loop(labelled(), batches, bent, said=True))


def test_one_batch_at_a_time_needs_no_word():
    assert_booked_right(*run_loop(labelled(), real=bent))


def test_twins_within_a_batch_are_told_by_what_comes_after_them():
    x = points()
    x[N // 2:] = x[:N // 2]
    shown, run = run_loop(labelled(x), ahead, torch.clone)
    assert_booked_right(shown, run)


def test_real_points_that_cannot_be_found_are_not_booked_as_generated():
    made, critic = players()
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    x = points()

    def loop():
        with record_gan(made, critic, x):
            real = 2 * x[torch.tensor([3, 1, 2])]
            (F.softplus(-critic(real)).mean() + F.softplus(critic(made(latents(3)).detach())).mean()).backward()
            judging.step()
            moving.step()

    with pytest.raises(RecordingError, match=r"could be told to be real.*recording.batch\(ids\)"):
        loop()


def test_a_batch_that_is_said_must_be_of_the_data():
    made, critic = players()
    with pytest.raises(RecordingError, match="no real points"):
        with record_gan(made, critic, points()) as recording:
            recording.batch([0, N])


def test_two_batches_gathered_to_one_step_are_both_real():
    made, critic = players()
    moving, judging = (OPTIMIZERS["sgd"](network.parameters()) for network in (made, critic))
    loader = labelled()
    with record_gan(made, critic, loader) as recording:
        for _ in range(2):
            judging.zero_grad()
            told = []
            for place, (x, ids) in enumerate(loader):
                if place < 2:
                    loss = F.softplus(-critic(2 * x)).mean() + F.softplus(critic(made(latents()).detach())).mean()
                    (loss / 2).backward()
                    told.append(ids)
            judging.step()
            moving.zero_grad()
            F.softplus(-critic(made(latents()))).mean().backward()
            moving.step()
    batch, = recording.run.critic.step(1).batches
    what = recording.run.critic.samples.read(batch)[1][:, 0]
    assert torch.equal(batch.columns[what == REAL], torch.cat(told))
    assert int((what == FAKE).sum()) == 2 * BATCH
    assert recording.run.points.shape == (N, SIZE)


def test_the_slope_at_the_real_points_of_one_pass_is_their_penalty():
    assert_booked_right(*run_loop(labelled(), backwards="one pass", r1=0.3), r1=0.3)
