"""Recording changes nothing: not the training, not the model, not the random state, not what is left afterwards."""

import random
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import DataLoader

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError, RecordingError, StoreError, StoreExists
from tests.training import Points, Truth, network, split, step

RULES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def training(record, *, workers=0, rule="AdamW", seed=3, epochs=3, keep="all", out=None, noise=0.1, norm=True,
             scheduler=False, dropout=0.3, dtype=torch.float32):
    """A loop with everything that draws random numbers; recorded or not."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    model = network(dropout, norm).to(dtype)
    loader = DataLoader(Points(noise=noise, dtype=dtype), batch_size=5, shuffle=True, num_workers=workers)
    optimizer = RULES[rule](model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10) if scheduler else None

    def loop():
        for _ in range(epochs):
            model.train()
            for x, _, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1e6)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
            model.eval()
            with torch.no_grad():
                model(loader.dataset.x)

    run = None
    if record:
        with ks.record(model, loader, loss=F.mse_loss, batch=split, keep=keep, out=out) as recording:
            loop()
        run = recording.run
    else:
        loop()
    return model, optimizer, loader, run


def surroundings(model, loader):
    return {
        "hooks": [len(getattr(m, name)) for m in model.modules() for name in vars(m) if name.endswith("_hooks")],
        "gradient hooks": [p._backward_hooks for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "optimizer hooks": (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)),
        "loader": (type(loader), type(loader.batch_sampler), sorted(vars(loader))),
        "threads": [t.name for t in threading.enumerate() if "kernelscope" in t.name],
        "grad": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("out", [None, "run"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rule", ["momentum", "AdamW"])
def test_training_is_the_same_to_the_last_bit(tmp_path, workers, rule, out):
    model, optimizer, loader, _ = training(False, workers=workers, rule=rule)
    plain = (model.state_dict(), torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(),  # noqa: NPY002
             surroundings(model, loader), [p.grad.clone() for p in model.parameters()])
    model, recorded, loader, run = training(True, workers=workers, rule=rule, out=out and tmp_path / out)
    assert same(model.state_dict(), plain[0])
    assert torch.equal(torch.get_rng_state(), plain[1])
    assert np.random.get_state()[1].tolist() == plain[2]  # noqa: NPY002
    assert random.getstate() == plain[3]
    assert surroundings(model, loader) == plain[4]
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain[5], strict=True))
    states = [[state[name] for name in sorted(state)] for state in (recorded.state[p] for p in model.parameters())]
    unrecorded = [[state[name] for name in sorted(state)] for state in optimizer.state.values()]
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for s, t in zip(states, unrecorded, strict=True)
               for a, b in zip(s, t, strict=True) if a is not None)
    # The run ends where the training ended.
    assert all(torch.equal(run.parameters()[name], p) for name, p in model.named_parameters())
    assert all(torch.equal(run.buffers(len(run))[name], b) for name, b in model.named_buffers())


def test_reading_a_run_changes_nothing_either():
    model, _, loader, run = training(True, keep=4)
    before = ({k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state(), surroundings(model, loader))
    run.trajectory(0, len(run))
    run.info()
    run.fingerprint()
    ks.decompose(run, torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
    assert same(model.state_dict(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert surroundings(model, loader) == before[2]


class Boom(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize("out", [None, "run"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, "ours", "in the optimizer"])
def test_an_error_in_the_loop_leaves_nothing_behind_and_loses_nothing(tmp_path, error, out):
    model = network()
    loader = DataLoader(Points(), batch_size=5, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = surroundings(model, loader)
    rows = []
    expected = {"ours": RecordingError, "in the optimizer": ZeroDivisionError}.get(error, error)
    with pytest.raises(expected):  # noqa: PT012
        with ks.record(model, loader, loss=F.mse_loss, batch=split, out=out and tmp_path / out) as recording:
            for j, (x, _, y) in enumerate(loader):
                rows.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
                if j == 3 and error == "ours":
                    model(input=x)
                if j == 3 and error == "in the optimizer":
                    optimizer.param_groups[0]["lr"] = Interrupting()
                if j == 3 and isinstance(error, type):
                    raise error
                step(model, optimizer, x, y, Truth(), None)
    rows.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert surroundings(model, loader) == before
    run = recording.run
    assert len(run) == 3
    assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, 3), rows[:4], strict=True))
    assert not run.info()["complete"]
    if out is not None:
        assert len(ks.load(tmp_path / out)) == recording.acknowledged == 3


class Interrupting(float):
    """A learning rate on which a step breaks off in the middle."""

    def __new__(cls):
        return super().__new__(cls, 0.1)

    def __neg__(self):
        raise ZeroDivisionError

    def __mul__(self, other):
        raise ZeroDivisionError


@pytest.mark.parametrize("keep", ["all", 2])
def test_a_step_that_was_broken_off_is_not_part_of_the_run(keep):
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, keep=keep) as recording:
        for j in range(5):
            if j == 3:
                optimizer.param_groups[0]["lr"] = Interrupting()
                with pytest.raises(ZeroDivisionError):
                    step(model, optimizer, points.x, points.y, truth, range(24))
                optimizer.param_groups[0]["lr"] = 0.1
                truth.gradients.pop(), truth.ids.pop()
            step(model, optimizer, points.x, points.y, truth, range(24))
    assert len(recording.run) == 5
    truth.hold(recording.run)
    assert ks.decompose(recording.run, points.x[:2]).check().ok


def test_averaged_weights_are_right_after_a_step_that_was_broken_off():
    points = Points()
    model = network()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7))
    average.update_parameters(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, average=average) as recording:
        for j in range(4):
            if j == 2:
                optimizer.param_groups[0]["lr"] = Interrupting()
                with pytest.raises(ZeroDivisionError):
                    step(model, optimizer, points.x, points.y, Truth(), None)
                optimizer.param_groups[0]["lr"] = 0.1
            step(model, optimizer, points.x, points.y, Truth(), None)
            average.update_parameters(model)
    assert [recorded.average for recorded in recording.run] == [0.7] * 4
    d = ks.decompose(recording.run, points.x[:2], weights="average")
    assert d.completeness() < 1e-12
    torch.testing.assert_close(d.final, average(points.x[:2]).detach(), rtol=1e-10, atol=1e-12)


def test_a_closure_is_recorded_as_the_step_it_makes():
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(points.x), points.y)
        loss.backward()
        return loss

    with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
        for _ in range(3):
            assert optimizer.step(closure).item() > 0
    d = ks.decompose(recording.run, points.x[:2])
    assert float(d.residual.abs().max()) < 1e-12
    assert not d.channels["unattributed"].any()


# -- keep --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_steps_that_were_not_stored_are_computed_again_bit_for_bit(rule, scheduler):
    options = {"rule": rule, "scheduler": scheduler, "epochs": 5}
    everything = training(True, **options)[3]
    rows = everything.trajectory(0, len(everything))
    for keep in (1, 4, 7, 1000):
        run = training(True, keep=keep, **options)[3]
        assert len(run) == len(everything) == 25
        assert [run.row(k) is not None for k in range(26)] == [k % keep == 0 or k == 25 for k in range(26)]
        assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, 25), rows, strict=True))
        assert torch.equal(run.trajectory(13, 13)[0], rows[13])
        assert same(run.parameters(11), everything.parameters(11))


def long_training(keep, out=None, steps=300, rule="AdamW"):
    torch.manual_seed(0)
    points = Points()
    model = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 2)).double()
    loader = DataLoader(points, batch_size=6, shuffle=True)
    optimizer = RULES[rule](model.parameters())
    with ks.record(model, loader, loss=F.mse_loss, batch=split, keep=keep, out=out, commit_every=0.05) as recording:
        while steps:
            for x, _, y in loader:
                step(model, optimizer, x, y, Truth(), None)
                steps -= 1
    return recording


@pytest.mark.parametrize("out", [None, "run"])
def test_a_budget_is_respected_and_every_step_is_kept(tmp_path, out):
    budget = 300_000
    out = out and tmp_path / out
    run = long_training("300KB", out).run
    assert len(run) == 300
    # A row has 2 kB, and with the states of AdamW 6 kB: all of them would be 1.9 MB.
    assert run.store.nbytes < 1.2 * budget
    assert run.info()["rows"] > 10
    everything = long_training("all").run
    assert everything.store.nbytes > 2 * budget
    rows = everything.trajectory(0, 300)
    assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, 300), rows, strict=True))
    d = ks.decompose(run, torch.randn(2, 3).double())
    assert not d.channels["unattributed"].any()
    if out is not None:
        assert sum(p.stat().st_size for p in out.iterdir()) < 1.3 * budget
        assert len(ks.load(out)) == 300


def test_a_budget_that_is_too_small_keeps_the_first_row_and_does_not_write_for_ever(tmp_path, monkeypatch):
    from kernelscope.storage import Store
    appended = []
    append = Store.append
    monkeypatch.setattr(Store, "append", lambda self, *rest: (appended.append(1), append(self, *rest))[1])
    run = long_training("5KB", tmp_path / "run", steps=120).run
    assert len(run) == 120
    assert run.row(0) is not None
    assert len(run.trajectory(0, 120)) == 121
    chunks = len(run.store.segments)
    assert len(appended) < 10 * chunks + 60


@pytest.mark.parametrize("keep", [0, -1, True, "many", "12", "1 MB!", 1.5, None])
def test_keep_is_all_or_a_number_or_a_size(keep):
    with pytest.raises(RecordingError, match='keep must be "all".*keep="all" stores'):
        ks.record(network(), (torch.zeros(1, 3), torch.zeros(1, 2)), loss=F.mse_loss, keep=keep)


@pytest.mark.parametrize("seconds", ["x", None, -1, float("nan"), [1]])
def test_commits_come_after_a_number_of_seconds(seconds):
    with pytest.raises(RecordingError, match="commit_every must be a number of seconds from 0 on.*every step"):
        ks.record(network(), (torch.zeros(1, 3), torch.zeros(1, 2)), loss=F.mse_loss, commit_every=seconds)


def test_an_optimizer_that_cannot_be_replayed_needs_every_row():
    points = Points()
    model = network()
    optimizer = torch.optim.Rprop(model.parameters())
    with pytest.raises(RecordingError, match=r'keep=3 leaves steps.*Rprop.*keep="all"'):
        with ks.record(model, (points.x, points.y), loss=F.mse_loss, keep=3):
            step(model, optimizer, points.x, points.y, Truth(), None)
    with pytest.warns(UserWarning, match="Rprop are recorded, but they cannot be unrolled"):
        with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
            step(model, optimizer, points.x, points.y, Truth(), None)
    assert len(recording.run) == 1


# -- what can go wrong -------------------------------------------------------------------------------------------------


def recorded_loop(model=None, data=None, *, change=None, out=None, loss=F.mse_loss, optimizer=None, steps=5, **options):
    """A loop that ``change(k, model, x, y)`` may spoil; returns the recording, and the error."""
    points = Points()
    model = model or network()
    data = data or (points.x, points.y)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ks.record(model, data, loss=loss, out=out, **options)
    try:
        with recording:
            for k in range(steps):
                x, y = points.x, points.y
                if change is not None:
                    x, y = change(k, model, x, y) or (x, y)
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
    except Exception as error:  # noqa: BLE001
        return recording, error
    return recording, None


@pytest.mark.parametrize("what", ["nan input", "infinite gradient", "a step too long", "dead parameter"])
def test_numbers_that_are_none_end_the_recording_and_keep_what_was(tmp_path, what):
    def change(k, model, x, y):
        if k == 3 and what == "nan input":
            return x * float("nan"), y
        if k == 3 and what == "infinite gradient":
            return x * 1e300, y * 1e300
        if k == 2 and what == "a step too long":
            optimizer.param_groups[0]["lr"] = 1e308
            model[0].weight.register_hook(lambda g: g * 1e10)
        if k == 3 and what == "dead parameter":
            # tanh hides it: the gradients are finite.
            model[0].bias.data[0] = torch.inf

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording, error = recorded_loop(model, change=change, out=tmp_path / "run", optimizer=optimizer)
    assert isinstance(error, NonFiniteError)
    assert "NaN or infinite" in str(error)
    assert "learning rate" in str(error)
    assert "steps before it are kept" in str(error)
    run = recording.run
    # Where the parameters are at fault, the step before has no end that could be kept.
    assert "At step 3 " in str(error)
    assert ("a parameter is" in str(error)) == (what == "dead parameter")
    assert len(run) == (3 if what in ("nan input", "infinite gradient") else 2)
    assert all(bool(torch.isfinite(row).all()) for row in run.trajectory(0, len(run)))
    assert len(ks.load(tmp_path / "run")) == len(run)


def other_model(k, model, x, y):
    return x[:3], y[:3]


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda k, m, x, y: (x[[1, 2]], y[[1, 2]]), r"number of rows is not that of the batch.*recording.batch\(ids\)"),
])
def test_a_pass_over_unknown_rows_says_what_to_do(change, sentence):
    _, error = recorded_loop(change=change)
    assert isinstance(error, RecordingError)
    with pytest.raises(RecordingError, match=sentence):
        raise error


def test_a_pass_over_unknown_rows_is_not_booked_to_the_batch_before():
    recording, error = recorded_loop(change=lambda k, m, x, y: (x[[1, 2]], y[[1, 2]]) if k == 2 else None)
    assert isinstance(error, RecordingError)
    assert len(recording.run) == 2


@pytest.mark.parametrize("out", [None, "run"])
def test_a_loader_that_is_never_iterated(tmp_path, out):
    out = out and tmp_path / out
    loader = DataLoader(Points(), batch_size=24)
    recording, error = recorded_loop(data=loader, out=out, batch=split)
    assert isinstance(error, RecordingError)
    assert "never iterated" in str(error)
    assert "inside the block" in str(error)
    with pytest.raises(RecordingError, match="no run yet"):
        _ = recording.run
    with pytest.raises(RecordingError, match="never iterated and no optimizer step was seen"):
        with ks.record(network(), loader, loss=F.mse_loss, out=out):
            pass
    # Nothing was recorded, so nothing is in the way of the next try.
    recording, error = recorded_loop(out=out)
    assert error is None
    assert len(recording.run) == 5


def test_an_empty_recording_over_an_old_one_leaves_the_old_one(tmp_path):
    recorded_loop(out=tmp_path / "run")
    with pytest.raises(RecordingError, match="no optimizer step was seen"):
        with ks.record(network(), (Points().x, Points().y), loss=F.mse_loss, out=tmp_path / "run", overwrite=True):
            pass
    assert len(ks.load(tmp_path / "run")) == 5
    recording, error = recorded_loop(out=tmp_path / "run", overwrite=True, steps=2)
    assert error is None
    assert len(ks.load(tmp_path / "run")) == len(recording.run) == 2


def test_a_folder_that_is_taken_is_refused_before_anything_runs(tmp_path):
    recorded_loop(out=tmp_path / "run")
    _, error = recorded_loop(out=tmp_path / "run")
    assert isinstance(error, StoreExists)
    assert "resume=True" in str(error)
    assert "overwrite=True" in str(error)
    (tmp_path / "file").write_text("x")
    _, error = recorded_loop(out=tmp_path / "file" / "run")
    assert isinstance(error, StoreError)
    assert "cannot be written" in str(error)


def test_a_model_that_was_replaced(tmp_path):
    points = Points()
    model, other = network(), network()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(RecordingError, match="none of them moved the recorded model.*replaced"):
        with ks.record(model, (points.x, points.y), loss=F.mse_loss):
            step(other, optimizer, points.x, points.y, Truth(), None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RecordingError, match="was not called on a batch.*Record the module that the loop calls"):  # noqa: PT012
        with ks.record(model, (points.x, points.y), loss=F.mse_loss):
            optimizer.zero_grad()
            F.mse_loss(model[-1](model[0](points.x)), points.y).backward()
            optimizer.step()


def test_another_model_may_be_trained_beside_it():
    points = Points()
    model, other = network(), network()
    mine, its = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    truth = Truth(mine)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
        for _ in range(3):
            step(other, its, points.x, points.y, Truth(), None)
            step(model, mine, points.x, points.y, truth, range(24))
    truth.hold(recording.run)


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda m, x: m(input=x), "keyword arguments.*model\\(x, ...\\)"),
    (lambda m, x: m([x]), "something that is no tensor.*wrap it"),
])
def test_a_network_is_called_with_tensors(call, sentence):
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, input):
            return self.inner(input[0] if isinstance(input, list) else input)

    with pytest.raises(RecordingError, match=sentence):
        with ks.record(model := Free(), (Points().x, Points().y), loss=F.mse_loss):
            call(model, Points().x)


@pytest.mark.parametrize(("batch", "sentence"), [
    (None, "must be a pair.*gives a Tensor.*batch=lambda"),
    (lambda b: (b, b.sum()), r"one row for each of its 6 samples; came of shape \(\)"),
    (lambda b: (b, [1, 2]), "one row for each of its 6 samples; came list"),
])
def test_targets_are_found_or_asked_for(batch, sentence):
    loader = DataLoader(Points().x, batch_size=6)
    model = network()
    with pytest.raises(DataError, match=sentence):  # noqa: PT012
        with ks.record(model, loader, loss=F.mse_loss, batch=batch):
            for x in loader:
                model(x).sum().backward()


def test_a_constant_belongs_inside_the_module():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x, scale):
            return self.inner(x * scale)

    points = Points()
    model = Scaled()
    with pytest.raises(DataError, match="one row for each of the 24 samples.*Keep constants inside the module"):
        with ks.record(model, (points.x, points.y), loss=F.mse_loss):
            model(points.x, torch.ones(3).double()).sum().backward()


@pytest.mark.parametrize(("loss", "sentence"), [
    ("mse", "loss must be a function"),
    (F.cross_entropy(torch.zeros(1, 2), torch.zeros(1).long()), "loss must be a function"),
    (nn.CrossEntropyLoss, r"but the class CrossEntropyLoss came.*loss=CrossEntropyLoss\(...\)"),
])
def test_a_loss_is_a_function(loss, sentence):
    with pytest.raises(DataError, match=sentence):
        ks.record(network(), (Points().x, Points().y), loss=loss)


def test_another_loss_than_the_one_that_is_minimised_is_noticed():
    points = Points()
    with pytest.warns(UserWarning, match="gradient differs by .*% from that of the recorded loss"):  # noqa: PT031
        with ks.record(model := network(), (points.x, points.y), loss=F.l1_loss):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            step(model, optimizer, points.x, points.y, Truth(), None)


@pytest.mark.parametrize(("what", "sentence"), [
    ("another loss", "gradient differs"), ("no rule", "Rprop are recorded"), ("a hook", "change what they return")])
def test_a_warning_points_at_the_line_of_the_loop(what, sentence):
    points = Points()
    model = network()
    if what == "a hook":
        model[0].register_forward_hook(lambda module, args, outputs: 2 * outputs)
    optimizer = (torch.optim.Rprop if what == "no rule" else torch.optim.SGD)(model.parameters(), lr=0.1)
    loss = F.l1_loss if what == "another loss" else F.mse_loss
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with ks.record(model, (points.x, points.y), loss=loss):
            F.mse_loss(model(points.x), points.y).backward()
            optimizer.step()
    assert [w.filename for w in heard if sentence in str(w.message)] == [__file__]


def test_a_network_that_cannot_learn():
    model = network().requires_grad_(False)
    with pytest.raises(RecordingError, match="No parameter of the model requires a gradient.*Unfreeze"):
        ks.record(model, (Points().x, Points().y), loss=F.mse_loss).__enter__()


def test_a_parameter_that_was_unfrozen_later():
    model = network()
    model[0].requires_grad_(False)

    def change(k, model, x, y):
        model[0].requires_grad_(True)

    recording, error = recorded_loop(model, change=change, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert isinstance(error, RecordingError)
    assert "frozen when the recording began" in str(error)
    assert "requires_grad before" in str(error)


def test_a_parameter_that_was_frozen_from_the_start_stays_outside(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    recording, error = recorded_loop(model, out=tmp_path / "run", optimizer=optimizer)
    assert error is None
    run = ks.load(tmp_path / "run")
    assert run.names == ["3.weight", "3.bias"]
    assert torch.equal(run.network.parameters["0.weight"], model[0].weight)
    assert torch.equal(ks.decompose(run, Points().x[:2]).final, ks.decompose(recording.run, Points().x[:2]).final)


@pytest.mark.parametrize("layer", [nn.LazyLinear(2), nn.LazyBatchNorm1d(affine=False)], ids=repr)
def test_a_lazy_layer_is_asked_to_see_a_batch_first(layer):
    model = nn.Sequential(nn.Linear(3, 3), layer)
    x, y = torch.randn(8, 3), torch.randn(8, 3)
    with pytest.raises(RecordingError, match=r"'1\..*' has no shape before the first batch.*Call the model on a batch"):
        ks.record(model, (x, y), loss=F.mse_loss).__enter__()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)
        y = torch.zeros_like(model(x))
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        step(model, torch.optim.SGD(model.parameters(), lr=0.1), x, y, Truth(), None)
    assert len(recording.run) == 1


def test_a_frozen_parameter_keeps_its_memory_while_steps_are_written():
    # Its size is that of the states that are copied at every other step, so their memory would fit.
    model = nn.Sequential(nn.Linear(128, 128, bias=False), nn.Tanh(), nn.Linear(128, 128, bias=False))
    model[0].requires_grad_(False)
    x, y = torch.randn(12, 128), torch.randn(12, 128)
    optimizer = torch.optim.Adam(model[2].parameters(), lr=0.01)
    with ks.record(model, (x, y), loss=F.mse_loss, keep=2, commit_every=0) as recording:
        for _ in range(8):
            step(model, optimizer, x, y, Truth(), None)
    assert torch.equal(recording.run.network.parameters["0.weight"], model[0].weight)
    outputs = model(x[:2]).detach().double()
    torch.testing.assert_close(ks.decompose(recording.run, x[:2]).final, outputs, rtol=1e-5, atol=1e-6)


def test_a_recording_is_used_once_and_gives_no_run_before_its_end():
    points = Points()
    recording, _ = recorded_loop()
    with pytest.raises(RecordingError, match="used once"):
        recording.__enter__()
    with ks.record(model := network(), (points.x, points.y), loss=F.mse_loss) as recording:
        with pytest.raises(RecordingError, match="no run yet"):
            _ = recording.run
        step(model, torch.optim.SGD(model.parameters(), lr=0.1), points.x, points.y, Truth(), None)
    assert len(recording.run) == 1


def test_resuming_needs_a_folder():
    with pytest.raises(RecordingError, match="none is named"):
        ks.record(network(), (Points().x, Points().y), loss=F.mse_loss, resume=True)


def test_a_fork_does_not_write_and_does_not_hang(tmp_path):
    import os
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", commit_every=0) as recording:
        step(model, optimizer, points.x, points.y, Truth(), None)
        step(model, optimizer, points.x, points.y, Truth(), None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                step(model, optimizer, points.x, points.y, Truth(), None)
            except RecordingError as error:
                os._exit(7 if "this is its fork" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        step(model, optimizer, points.x, points.y, Truth(), None)
    assert len(recording.run) == 3


def test_a_model_is_let_go_with_its_recording():
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
        step(model, optimizer, points.x, points.y, Truth(), None)
    run, gone = recording.run, (weakref.ref(model), weakref.ref(recording))
    del model, optimizer, recording
    assert [reference() for reference in gone] == [None, None]
    assert len(run) == 1


@pytest.mark.parametrize("make", [
    lambda layer: layer.register_forward_hook(lambda module, args, outputs: 2 * outputs),
    torch.nn.utils.spectral_norm,
], ids=["a hook of one's own", "old spectral norm"])
def test_a_hook_that_changes_outputs_is_named(make):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    make(model[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss):
        with pytest.warns(UserWarning, match="forward hooks on 0 change"):
            outputs = model(x)
        F.mse_loss(outputs, y).backward()
        optimizer.step()


def test_a_hook_that_only_looks_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    seen = []
    model[0].register_forward_hook(lambda module, args, outputs: seen.append(outputs.shape))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    assert len(seen) == 1
    assert len(recording.run) == 1


def test_a_table_that_shortens_its_rows_when_they_are_read_is_refused():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 2, max_norm=1.0), torch.nn.Flatten(), torch.nn.Linear(6, 2))
    tokens, targets = torch.randint(0, 5, (8, 3)), torch.randint(0, 2, (8,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tokens, targets), batch_size=4)
    with pytest.raises(RecordingError, match="max_norm"):
        with ks.record(model, loader, loss=torch.nn.functional.cross_entropy):
            pass
