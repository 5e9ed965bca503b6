"""What a run could not have learned, against Jacobians by hand, and never violated by a run."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from tests.recordings import network, points, queries, train
from tests.small_runs import drawn_run
from tests.test_path_kernels import jacobian


def recorded(model=None, make=None, seed=1, steps=8, **options):
    torch.manual_seed(seed)
    model = network() if model is None else model
    make = make or (lambda p: torch.optim.SGD(p, lr=0.1))
    x, y = points()
    return train(model, x, y, make(model.parameters()), steps=steps, diary=False, **options)[0], model


def flat(parameters):
    return torch.cat([p.reshape(-1) for p in parameters.values()])


def outputs(model, parameters, x):
    return torch.func.functional_call(model, parameters, (x,)).detach()


def by_hand(run, model, z, times, rates):
    """The path kernel of the chords with averaged gradients by the formula, all products written out."""
    total, energy = torch.zeros(len(z), len(z), dtype=torch.float64), 0.0
    for a, b in itertools.pairwise(times):
        here, there = run.parameters(a), run.parameters(b)
        d = flat(there) - flat(here)
        w = torch.full_like(d, (b - a) * rates)
        e_j = float((d * d / w).sum())
        middle = {name: (here[name] + there[name]) / 2 for name in here}
        p = jacobian(model, middle, z).detach()
        change = outputs(model, there, z) - outputs(model, here, z)
        e = change - p @ d
        phi = p + e[..., None] * (d / w) / e_j
        assert float((phi @ d - change).abs().max()) <= 1e-14
        for i, j in itertools.product(range(len(z)), repeat=2):
            total[i, j] += sum(float((w * phi[i, c] * phi[j, c]).sum()) for c in range(phi.shape[1]))
        energy += e_j
    return total, energy


# -- the path kernel of chords -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [[0, 8], [0, 3, 8], list(range(9))])
def test_modes_are_those_of_the_gradients_averaged_along_the_chords(times):
    run, model = recorded()
    z, y = queries(), torch.ones(2, 2, dtype=torch.float64)
    found = ks.null_space(run, z, y, times=times, progress=False)
    kernel, energy = by_hand(run, model, z, times, 0.1)
    again = found.modes @ torch.diag(found.values) @ found.modes.T
    assert float((again - kernel).abs().max()) <= 1e-12 * float(kernel.abs().max())
    assert abs(found.energy - energy) <= 1e-12 * energy
    assert found.check().ok


def test_weights_scaled_by_a_number_change_no_reach():
    """Momentum needs no correction: what scales all weights scales the kernel up and the energy down."""
    run, model = recorded(make=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    z, y = queries(), torch.ones(2, 2, dtype=torch.float64)
    found = ks.null_space(run, z, y, times=[0, 4, 8], progress=False)
    kernel, energy = by_hand(run, model, z, [0, 4, 8], 17.0)
    other = (torch.linalg.eigvalsh(kernel).flip(0) * energy).sqrt()
    assert float((found.reach - other).abs().max()) <= 1e-6 * float(other.max())


def test_samples_and_queries_are_blocks_of_one_kernel():
    run, model = recorded()
    (x, t), z, y = points(), queries(), torch.ones(2, 2, dtype=torch.float64)
    kernel = by_hand(run, model, torch.cat([x, z]), [0, 4, 8], 0.1)[0]
    for on, rows in (("samples", slice(0, 8)), ("queries", slice(8, 10)), ("all", slice(0, 10))):
        found = ks.null_space(run, z, y, times=[0, 4, 8], on=on, progress=False)
        values = torch.linalg.eigvalsh(kernel[rows, rows]).flip(0)
        assert float((found.values - values).abs().max()) <= 1e-12 * float(values[0])
        assert torch.equal(found.targets, torch.cat([t, y])[rows])
        assert found.predicted is not None


def test_more_chords_of_a_straight_path_change_nothing_and_of_a_bent_one_tighten():
    run, _ = recorded(nn.Linear(3, 1).double(), steps=24, loss=lambda o, t, reduction="mean": F.mse_loss(
        o, t[:, :1], reduction=reduction))
    z, y = queries(), 3 * torch.ones(2, 1, dtype=torch.float64)
    bounds = [ks.null_space(run, z, y, times=times, progress=False).bound for times in (2, 4, 25)]
    assert min(bounds) >= 0
    assert max(bounds) <= ks.null_space(run, z, y, progress=False).error * (1 + 1e-12)


def test_what_buffers_do_is_booked_and_not_bounded():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    run, _ = recorded(model)
    z, y = queries(), torch.ones(2, 2, dtype=torch.float64)
    found = ks.null_space(run, z, y, times=[0, 4, 8], progress=False)
    assert float(found.buffers.abs().max()) > 1e-3
    assert found.left <= 1e-14
    assert found.check().ok


@pytest.mark.parametrize("part", [slice(None), slice(3, 8)])
def test_the_initial_output_is_that_of_the_decomposition(part):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    run = recorded(model)[0][part]
    z = queries()
    found = ks.null_space(run, z, torch.ones(2, 2).double(), progress=False)
    assert float((found.initial - ks.decompose(run, z, progress=False).initial).abs().max()) <= 1e-13
    assert found.left <= 1e-14
    assert found.check().ok


# -- never violated ----------------------------------------------------------------------------------------------------


def assert_never_violated(seed):
    run, z, y = drawn_run(seed)
    on = ("queries", "samples", "all")[seed % 3]
    found = ks.null_space(run, z, y, on=on, times=[0, len(run)] if seed % 2 else None, progress=False)
    check = found.check()
    assert check.ok, check
    m = len(found.targets)
    change = found.final - found.initial - found.buffers
    size = float(found.final.abs().max() + found.initial.abs().max())
    for j in range(m):
        moved = float((found.modes[:, j] @ change).norm())
        assert moved <= float(found.reach[j]) + 1e-11 * size                                        # reach
        if found.values[j] <= found.slack:
            assert moved <= 1e-6 * size                                                             # N1
    null = found.modes[:, found.values <= found.slack]
    wanted = found.targets - found.initial - found.buffers
    error = float((found.targets - found.final).square().sum())
    assert float((null.T @ wanted).square().sum()) <= error + 1e-5 * max(error, size**2)            # N2
    assert found.bound <= found.error * (1 + 1e-9) + 1e-20                                          # certificate
    return found


def test_the_laws_of_the_null_space_hold_in_60_random_runs():
    found = [assert_never_violated(seed) for seed in range(60)]
    assert sum(f.null_dimension > 0 for f in found) >= 20
    assert sum(f.bound > 0.01 * f.error for f in found) >= 20


@pytest.mark.slow
def test_the_laws_of_the_null_space_hold_in_1000_random_runs():
    found = [assert_never_violated(seed) for seed in range(1000, 2000)]
    assert sum(f.null_dimension > 0 for f in found) >= 300


def test_what_the_kernel_lets_through_holds_every_contribution():
    """The recorded cross-kernel, also of momentum and Adam, ranges within the path kernel of the single steps."""
    seen = 0
    for seed in range(30):
        run, z, y = drawn_run(seed)
        output = None if y.is_floating_point() else "logits"
        found = ks.null_space(run, z, y, output=output, times=list(range(len(run) + 1)), samples=0, progress=False)
        null = found.modes[:, found.values <= found.slack]
        if not null.shape[1] or any(run[k].groups[0].get("weight_decay") for k in range(len(run))):
            continue
        ledger = ks.decompose(run, z, output=output, progress=False)
        shares = torch.einsum("qh,qcn->hcn", null, ledger.contributions)
        assert float(shares.abs().max()) <= 1e-6 * float(ledger.contributions.abs().max() + ledger.initial.abs().max())
        seen += 1
    assert seen >= 8


class Apart(nn.Module):
    """Two numbers, each with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self.first(x[:, :1]) + self.second(x[:, 1:])


def test_a_direction_that_no_input_has_is_found_and_certified():
    """A network that never sees the second number cannot learn a target along it."""
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    model = Apart().double()
    run = train(model, x, x[:, :1], torch.optim.SGD(model.parameters(), lr=0.1), steps=60, size=2, diary=False)[0]
    # The second query lies along it; the first does not.
    z = torch.eye(2, dtype=torch.float64)
    found = ks.null_space(run, z, torch.tensor([[1.0], [9.0]]).double(), progress=False)
    assert found.null_dimension == 1
    assert abs(abs(float(found.modes[1, 1])) - 1) <= 1e-12
    left = (9 - float(found.initial[1, 0])) ** 2 / 2
    assert abs(found.bound - left) <= 1e-5 * left
    assert found.top(1)["mode"].tolist() == [1]
    assert found.top(1)["points"][0].startswith(("+1.00 of 1", "−1.00 of 1"))
    assert "of 2 modes on 2 queries the run could move 1, each by itself, as far" in repr(found)


def test_a_run_that_did_not_move_could_learn_nothing():
    run, _ = recorded(make=lambda p: torch.optim.SGD(p, lr=0.0))
    found = ks.null_space(run, queries(), torch.ones(2, 2).double(), progress=False)
    assert found.energy == 0
    assert found.bound == pytest.approx(found.error, rel=1e-12)
    assert found.check().ok
    assert found.plot() is not None


def test_a_slice_and_another_precision_are_certified_too():
    run, _ = recorded(make=lambda p: torch.optim.AdamW(p, lr=0.05))
    z, y = queries(), torch.ones(2, 2).double()
    part = ks.null_space(run[2:6], z, y, progress=False)
    torch.testing.assert_close(part.initial, outputs(recorded()[1], run.parameters(2), z), rtol=1e-13, atol=1e-15)
    assert part.check().ok
    single, double = (ks.null_space(run, z, y, dtype=dtype, progress=False) for dtype in (torch.float32, None))
    assert float((single.values - double.values).abs().max()) <= 1e-4 * float(double.values[0])
    assert single.check().ok


# -- filter and prediction ---------------------------------------------------------------------------------------------


def test_the_filter_of_a_fixed_kernel_is_what_gradient_flow_leaves():
    """Of a linear network by small steps the filter is the decay of the residual, mode by mode."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    run = train(model, x, y, torch.optim.SGD(model.parameters(), lr=1e-3), steps=300, size=6, diary=False)[0]
    found = ks.null_space(run, x, y, on="samples", progress=False)
    residual = found.modes.T @ (found.targets - found.initial), found.modes.T @ (found.targets - found.final)
    kept = (residual[1] / residual[0])[:, 0]
    assert float((kept - (1 - found.filter)).abs().max()) <= 2e-3
    assert abs(found.speed - 2) <= 1e-12


def test_momentum_and_the_number_of_outputs_set_the_speed():
    run, _ = recorded(steps=200, make=lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9))
    found = ks.null_space(run, queries(), torch.ones(2, 2).double(), times=3, progress=False)
    assert abs(found.speed - 10) <= 0.5             # 2/c = 1, times 1/(1 - 0.9)


def test_of_small_full_batch_steps_the_energy_is_the_fall_of_the_loss():
    run, _ = recorded(steps=40, size=8, make=lambda p: torch.optim.SGD(p, lr=1e-4))
    found = ks.null_space(run, queries(), torch.ones(2, 2).double(), times=41, progress=False)
    drop = float(found.loss[0] - found.loss[1])
    assert abs(found.energy - drop) <= 2e-4 * drop


@pytest.mark.parametrize(("loss", "rate"), [
    (lambda o, t: F.mse_loss(o, t, reduction="sum"), 0.002 / 8), (lambda o, t: 10 * F.mse_loss(o, t), 0.0002)])
def test_how_losses_are_reduced_changes_nothing_that_is_expected(loss, rate):
    found = []
    for backward, lr in ((F.mse_loss, 0.002), (loss, rate)):
        torch.manual_seed(1)
        (x, y), model = points(outputs=1), network(outputs=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
        with ks.record(model, (x, y), loss=F.mse_loss) as recording:
            for _ in range(40):
                optimizer.zero_grad()
                backward(model(x), y).backward()
                optimizer.step()
        found.append(ks.null_space(recording.run, queries(), torch.ones(2, 1).double(), progress=False))
    mean, other = found
    assert abs(mean.error - other.error) <= 1e-12
    assert float((mean.filter - other.filter).abs().max()) <= 1e-6
    assert abs(mean.unlearnable - other.unlearnable) <= 1e-6 * mean.unlearnable
    assert abs(mean.predicted - other.predicted) <= 1e-6 * mean.predicted
    assert abs(other.info["reduction"] - 0.002 / rate * mean.info["reduction"]) <= 1e-4 * other.info["reduction"]


# -- sketches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_sketch_of_full_rank_is_the_matrix(seed):
    run, z, y = drawn_run(seed)
    dense = ks.null_space(run, z, y, on="all", progress=False)
    full = ks.null_space(run, z, y, on="all", rank=len(dense.targets), progress=False)
    assert float((dense.values - full.values).abs().max()) <= 1e-9 * float(dense.values[0])
    assert abs(dense.trace - full.trace) <= 1e-10 * dense.trace
    assert abs(dense.bound - full.bound) <= 1e-5 * dense.error
    assert full.check().ok


@pytest.mark.parametrize("seed", range(20))
def test_no_sketch_claims_too_much(seed):
    run, z, y = drawn_run(seed)
    for rank in (1, 2, 3):
        sketch = ks.null_space(run, z, y, on="all", rank=rank, memory="1MB", progress=False)
        assert sketch.check().ok, sketch.check()
        assert sketch.bound <= sketch.error * (1 + 1e-9)


def test_a_sketch_in_small_blocks_is_the_sketch():
    run, _ = recorded()
    z, y = points()
    whole, parts = (ks.null_space(run, z, y, rank=4, samples=0, memory=memory, progress=False)
                    for memory in ("1GB", 6000))
    assert float((whole.values - parts.values).abs().max()) <= 1e-12 * float(whole.values[0])
    with pytest.raises(OutOfBudget, match="A sketch of 4 columns needs about"):
        ks.null_space(run, z, y, rank=4, samples=0, memory=1000, progress=False)


# -- classes and outputs -----------------------------------------------------------------------------------------------


def classifier(outputs=3, loss=F.cross_entropy):
    torch.manual_seed(0)
    x = torch.randn(12, 3, dtype=torch.float64)
    y = torch.arange(12) % outputs if outputs > 1 else (torch.arange(12) % 2).double()[:, None]
    model = network(outputs=outputs)
    run = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.05), steps=20, size=6, loss=loss,
                diary=False)[0]
    return run, x, y


def test_of_classes_the_probabilities_are_bounded():
    run, x, y = classifier()
    found = ks.null_space(run, x, y, progress=False)
    assert torch.equal(found.targets, F.one_hot(y, 3).double())
    assert float((found.final.sum(1) - 1).abs().max()) <= 1e-12
    assert any("Brier" in note for note in found.info["notes"])
    assert set(found.top(3)["label"]) <= {"0", "1", "2"}
    assert found.check().ok
    one = ks.null_space(run, x, y, output=1, progress=False)
    assert torch.equal(one.targets[:, 0], (y == 1).double())
    logits = ks.null_space(run, x, y, output="logits", progress=False)
    assert float(logits.final.min()) < 0
    assert torch.equal(logits.targets, found.targets)
    lead = ks.null_space(run, x, (y == 0).double(), output=lambda o: o[:, 0] - o[:, 1], progress=False)
    assert lead.targets.shape == (12, 1)
    assert lead.predicted is None


def test_one_logit_is_a_probability():
    run, x, y = classifier(1, F.binary_cross_entropy_with_logits)
    for given in (y, y.flatten(), y.flatten().long()):
        found = ks.null_space(run, x, given, progress=False)
        assert torch.equal(found.targets, y)
        assert bool(((found.final > 0) & (found.final < 1)).all())
        assert found.check().ok


class Likely(nn.Module):
    """One output that is a probability already."""

    def __init__(self):
        super().__init__()
        self.body = network(outputs=1)

    def forward(self, x):
        return self.body(x).sigmoid()


def test_an_output_that_is_a_probability_is_taken_as_it_is():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, dtype=torch.float64), (torch.arange(12) % 2).double()[:, None]
    model = Likely().double()
    run = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.05), steps=20, size=6,
                loss=F.binary_cross_entropy, diary=False)[0]
    found = ks.null_space(run, x, y, progress=False)
    assert abs(found.error - float((model(x).detach() - y).square().mean())) <= 1e-12
    assert found.check().ok
    with pytest.raises(DataError, match="probabilities from 0 to 1"):
        ks.null_space(run, x, 2 * y, progress=False)


def test_of_labels_the_probabilities_are_bounded_each_by_itself():
    torch.manual_seed(0)
    x, model = torch.randn(12, 3, dtype=torch.float64), network(outputs=2)
    y = torch.stack([x[:, 0] > 0, x.sum(1) > 0], 1).double()
    run = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.05), steps=20, size=6,
                loss=F.binary_cross_entropy_with_logits, diary=False)[0]
    found = ks.null_space(run, x, y, progress=False)
    assert abs(found.error - float((model(x).detach().sigmoid() - y).square().mean())) <= 1e-12
    assert found.predicted is not None
    assert any("Brier score averaged over labels" in note for note in found.info["notes"])
    assert found.check().ok
    with pytest.raises(DataError, match="each of the 2 explained outputs"):
        ks.null_space(run, x, y[:, 0].long(), progress=False)


def test_rows_of_classes_learned_by_the_squared_loss_are_named_by_their_index():
    torch.manual_seed(0)
    x, classes, model = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3, network(outputs=3)
    rows = F.one_hot(classes, 3).double()
    run = train(model, x, rows, torch.optim.SGD(model.parameters(), lr=0.1), size=6, diary=False)[0]
    one, other = (ks.null_space(run, x, y, progress=False) for y in (classes, rows))
    assert torch.equal(one.targets, other.targets)
    assert one.error == other.error                                     # outputs are compared as they are
    assert torch.equal(ks.null_space(run, x, classes, output=1, progress=False).targets, rows[:, 1:2])
    with pytest.raises(DataError, match="the class 3"):
        ks.null_space(run, x, classes + 1, progress=False)
    single = network(outputs=1)
    run = train(single, x, rows[:, :1], torch.optim.SGD(single.parameters(), lr=0.1), size=6, diary=False)[0]
    found = ks.null_space(run, x, (classes == 0).long(), progress=False)
    assert torch.equal(found.targets, rows[:, :1])


# -- the result --------------------------------------------------------------------------------------------------------


def test_it_is_kept_drawn_and_tabled(tmp_path):
    run, _ = recorded()
    found = ks.null_space(run, queries(), torch.ones(2, 2).double(), gramian=True, progress=False)
    found.save(tmp_path / "found")
    again = ks.NullSpace.load(tmp_path / "found")
    assert repr(again) == repr(found)
    assert torch.equal(again.modes, found.modes)
    assert torch.equal(again.reservoir.values, found.reservoir.values)
    table = found.to_frame()
    assert len(table) == 2
    assert abs(table["target"].sum() / found.targets.numel() - found.size) <= 1e-12
    assert "reach" in found._repr_html_()
    page = ks.Report("Null space", [found, found.reservoir]).html()
    assert "What it could not learn" in page
    assert "certificate" in page
    assert "beyond the reach of this run" in found.plot().get_title(loc="left")
    # What is held by whom does not fit what the run did: a check says so.
    assert not replace(found, final=found.final + 1, learned=100 * found.learned).check().ok


def test_the_reach_is_seen_in_the_drawing_or_said_to_go_on():
    run, _ = recorded()
    found = ks.null_space(run, queries(), torch.ones(2, 2).double(), progress=False)
    ax = found.plot()
    assert ax.get_ylim()[1] >= float(found.reach.square().max())
    assert [line.get_markerfacecolor() for line in ax.lines][1] == "none"       # the target, over what was learned
    far = replace(found, values=found.values * torch.tensor([1e12, 1.0])).plot()
    assert any("the reach of mode 1 goes on to" in text.get_text() for text in far.texts)


def test_looking_changes_nothing():
    run, model = recorded()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    state = torch.get_rng_state()
    ks.null_space(run, queries(), torch.ones(2, 2).double(), rank=2, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert model.training


def test_what_does_not_fit_is_refused():
    run, model = recorded()
    z, y = queries(), torch.ones(2, 2).double()
    for problem, (args, options) in {
        "must be a recorded run": ((model, z, y), {}),
        "on must be": ((run, z, y), {"on": "test"}),
        "needs queries and their targets": ((run, z, None), {}),
        "each of the 2 explained outputs": ((run, z, y[:, :1]), {}),
        "one target for each of the 2": ((run, z, y[:1]), {}),
        "Target 1 is NaN": ((run, z, y * torch.tensor([[1.0], [torch.nan]])), {}),
        "Query 0 holds NaN": ((run, z * torch.nan, y), {}),
        "A course needs two times": ((run, z, y), {"times": [3]}),
        "rank must be": ((run, z, y), {"rank": 0}),
        "samples must be": ((run, z, y), {"samples": 1.5}),
        "there are none": ((run, z, y), {"samples": 0, "on": "all"}),
        "without a target of its own": ((run, z, y), {"output": "margin"}),
        "Or pass samples=": ((run, z, y), {"memory": 100}),
        "This run has no steps": ((run[:0], z, y), {}),
    }.items():
        with pytest.raises((DataError, OutOfBudget), match=problem):
            ks.null_space(*args, **options, progress=False)
    with pytest.raises(NonFiniteError):
        ks.null_space(run, z, y * torch.inf, progress=False)


def test_of_many_samples_a_thousand_are_looked_at_and_it_is_said():
    torch.manual_seed(0)
    x = torch.randn(1200, 5, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    model = nn.Linear(5, 1).double()
    run = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.05), steps=30, size=1200, diary=False)[0]
    z = torch.randn(40, 5, dtype=torch.float64)
    w = torch.sin(2 * z[:, :1]) + z[:, 1:2] * z[:, 2:3]
    usual, whole, fifth = (ks.null_space(run, z, w, times=3, samples=samples, progress=False)
                           for samples in (None, 1200, 240))
    assert usual.info["samples"] == 1000
    assert ("1,000 of 1,200 training samples, evenly chosen, join the matrix for the expected error; "
            "samples=1200 takes all.") in usual.info["notes"]
    assert not any("evenly chosen" in note for note in whole.info["notes"])
    assert abs(usual.bound - whole.bound) <= 1e-12 * whole.bound
    # All samples trained the run, whichever of them are looked at.
    assert abs(usual.predicted - whole.predicted) <= 0.02 * whole.predicted
    assert abs(fifth.predicted - whole.predicted) <= 0.1 * whole.predicted
    on = ks.null_space(run, on="samples", times=2, progress=False)
    assert any("are looked at; samples=1200" in note for note in on.info["notes"])


def test_sentences_count_and_say_when():
    run, _ = recorded()
    z, y = queries(), torch.zeros(2, 2).double()
    one = ks.null_space(run, z[:1], y[:1], progress=False)
    assert "of 1 mode on 1 query the run could" in repr(one)
    part = ks.null_space(run, z, y, times=[0, 5], progress=False)
    assert "its mean squared error at step 5 of 8 is" in repr(part)
    assert "at step" not in repr(one)
    there = outputs(recorded()[1], run.parameters(5), z)
    assert abs(part.error - float(there.square().mean())) <= 1e-12
    final = one.final
    there = replace(one, targets=final)                         # a target that was reached
    assert there.bound == 0
    assert "a fixed kernel trained on all these points would have left" in repr(there)
    assert "and eigenlearning, which counts the samples, expects" in repr(there)
    assert "e-" not in repr(replace(one, targets=final + 1e-6))


def test_a_part_of_the_samples_is_enough():
    run, _ = recorded()
    z, y = queries(), torch.ones(2, 2).double()
    whole, some, none = (ks.null_space(run, z, y, samples=samples, progress=False) for samples in (None, [0, 5], 0))
    assert whole.info["samples"] == 8
    assert some.info["samples"] == 2
    assert none.predicted is None
    assert abs(whole.bound - none.bound) <= 1e-10
