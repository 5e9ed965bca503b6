"""A machine is the sum of its terms, and stays that: added, scaled, asked, kept and opened."""

import dataclasses
import inspect
import json

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.decomposition.wording import signed
from kernelscope.errors import DataError, KernelscopeError, NonFiniteError, OutOfBudget, StoreCorrupt, StoreExists
from kernelscope.kernels.closed_form import ClosedForm
from kernelscope.machine.describing import FORMULAS, described, rebuilt
from kernelscope.result import Result
from tests.laws import assert_close

KERNELS = {
    "Gaussian": ks.kernels.Gaussian(bandwidth=1.5),
    "Laplacian": ks.kernels.Laplacian(bandwidth=torch.tensor(0.3)),
    "Cauchy": ks.kernels.Cauchy(bandwidth=2.0),
    "Matern": ks.kernels.Matern(2.5, bandwidth=1.1),
    "RationalQuadratic": ks.kernels.RationalQuadratic(0.7, bandwidth=1.0),
    "Dispersal": ks.kernels.Dispersal(0.5, bandwidth=1.0),
    "Polynomial": ks.kernels.Polynomial(3, 0.5, bandwidth=2.0),
    "Cosine": ks.kernels.Cosine(),
    "ArcCosine": ks.kernels.ArcCosine(2),
    "ReLUNTK": ks.kernels.ReLUNTK(3, 1.2, 0.1),
}
KERNELS["a mixture"] = 0.5 * KERNELS["Gaussian"] + KERNELS["Cosine"] * KERNELS["ReLUNTK"] / 3
each = pytest.mark.parametrize("name", KERNELS)


def points(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def machine_of(kernel, p=5, c=2, seed=0):
    alpha, b = points(p, c, seed + 1), points(1, c, seed + 2)[0]
    return ks.KernelMachine(kernel, points(p, seed=seed), alpha, b)


def by_loops(machine, x):
    """The terms by their definition."""
    alpha = machine.coefficients.view(len(machine), -1)
    terms = torch.empty(len(x), alpha.shape[1], len(machine), dtype=torch.float64)
    for i in range(len(x)):
        for j in range(len(machine)):
            value = machine.kernel(x[i:i + 1], machine.centers[j:j + 1])[0, 0]
            for o in range(alpha.shape[1]):
                terms[i, o, j] = value * alpha[j, o]
    return terms


# -- values and terms ------------------------------------------------------------------------------------------------


@each
def test_the_value_is_the_sum_over_centers(name):
    machine, x = machine_of(KERNELS[name]), points(4, seed=9)
    assert_close(machine(x), by_loops(machine, x).sum(-1) + machine.intercept)


@each
def test_contributions_are_the_terms_and_add_up_with_the_intercept(name):
    machine, x = machine_of(KERNELS[name]), points(4, seed=9)
    why = machine.contributions(x)
    assert why.terms.shape == (4, 2, 5)
    assert_close(why.terms, by_loops(machine, x))
    assert_close(why.terms.sum(-1) + why.intercept, machine(x), 1e-13)
    assert why.check().ok


def test_terms_that_do_not_add_up_are_told():
    why = machine_of(KERNELS["Gaussian"]).contributions(points(2))
    assert not dataclasses.replace(why, terms=why.terms * 1.001).check().ok


def test_the_largest_terms_come_first_whatever_their_sign():
    machine, x = machine_of(KERNELS["Gaussian"], p=9), points(3, seed=9)
    why = machine.contributions(x)
    top = why.top(k=4, query=1, output=1)
    true = sorted(range(9), key=lambda j: -abs(float(why.terms[1, 1, j])))[:4]
    assert top["center"].tolist() == true
    assert top["contribution"].tolist() == [float(why.terms[1, 1, j]) for j in true]
    assert len(why[1:]) == 2
    assert why[1].top(k=2, output=1)["center"].tolist() == true[:2]
    frame = why.to_frame()
    assert torch.allclose(torch.tensor((frame.intercept + frame.raised + frame.lowered).tolist()),
                          torch.tensor(frame.value.tolist()))


def test_contributions_are_kept_like_every_result(tmp_path):
    why = machine_of(KERNELS["Gaussian"]).contributions(points(2))
    why.save(tmp_path / "why")
    assert torch.equal(Result.load(tmp_path / "why").terms, why.terms)


def test_more_terms_than_memory_holds_are_refused():
    with pytest.raises(OutOfBudget, match="at most 3, or raise memory"):
        machine_of(KERNELS["Gaussian"]).contributions(points(4), memory=4 * 16 * 10 - 1)


def test_coefficients_without_an_axis_of_outputs_give_values_without_one():
    machine = ks.KernelMachine(KERNELS["Gaussian"], points(5), points(5)[:, 0])
    assert machine(points(3)).shape == (3,)
    assert machine.contributions(points(3)).terms.shape == (3, 1, 5)
    assert machine.intercept.shape == ()


def test_a_later_change_of_the_users_tensors_changes_no_machine():
    z, alpha, x = points(5), points(5, 2), points(3)
    machine = ks.KernelMachine(KERNELS["Gaussian"], z, alpha)
    before = machine(x)
    z.zero_()
    alpha.zero_()
    assert torch.equal(machine(x), before)


def test_a_bandwidth_that_is_being_learned_is_kept_as_a_number(tmp_path):
    k = ks.kernels.Gaussian(bandwidth=torch.tensor(1.5, requires_grad=True))
    machine = ks.KernelMachine(k, points(5), points(5, 2))
    machine.save(tmp_path / "m")
    assert torch.equal(ks.KernelMachine.load(tmp_path / "m")(points(3)), machine(points(3)))
    assert machine.contributions(points(3)).check().ok


def test_a_machine_says_itself_in_a_sentence():
    assert repr(machine_of(KERNELS["Gaussian"])) == (
        "KernelMachine(Gaussian(bandwidth=1.5), 5 centers, 2 outputs, with an intercept)")


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (("k", points(5), points(5)), DataError, "made of a kernel; 'k' came"),
    ((KERNELS["Gaussian"], points(5), points(4)), DataError, "each of its 5 centers; shape .4, 3. came"),
    ((KERNELS["Gaussian"], points(5), [1.0]), DataError, "a tensor of real numbers"),
    ((KERNELS["Gaussian"], points(5), torch.full((5,), torch.nan)), NonFiniteError, "coefficient is NaN"),
    ((KERNELS["Gaussian"], points(5), points(5), torch.zeros(2)), DataError, "shape .3,.; shape .2,. came"),
    ((KERNELS["Gaussian"], points(5), points(5), torch.full((3,), torch.inf)), NonFiniteError, "intercept is NaN"),
    ((KERNELS["Gaussian"], torch.full((5, 1), torch.nan), points(5)), NonFiniteError, "Point 0 holds NaN"),
])
def test_what_makes_no_machine_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ks.KernelMachine(*arguments)


# -- sums and multiples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [0, 7])
def test_sums_and_multiples_of_machines_are_those_of_their_values(other):
    f, x = machine_of(KERNELS["Gaussian"]), points(6, seed=9)
    g = ks.KernelMachine(ks.kernels.Gaussian(bandwidth=1.5), points(5, seed=other), points(5, 2, 4), points(1, 2, 5)[0])
    assert_close((2 * f - g / 4 + f)(x), 3 * f(x) - g(x) / 4)
    assert_close((-f)(x), -f(x))
    assert len(f + g) == (5 if other == 0 else 10)


def test_machines_of_different_kernels_or_outputs_are_not_added():
    f = machine_of(KERNELS["Gaussian"])
    with pytest.raises(DataError, match="no machine of one kernel"):
        f + machine_of(ks.kernels.Gaussian(bandwidth=1.4))
    with pytest.raises(DataError, match="output by output"):
        f + machine_of(KERNELS["Gaussian"], c=3)
    with pytest.raises(DataError, match="no machine of one kernel"):
        f + machine_of(KERNELS["Cosine"])
    with pytest.raises(DataError, match="other than nought"):
        f / 0
    with pytest.raises(DataError, match="do not go together"):
        f + ks.KernelMachine(KERNELS["Gaussian"], points(5, 4), points(5, 2))
    for odd in (1, "f"):
        with pytest.raises(TypeError):
            f + odd


# -- on the disk -----------------------------------------------------------------------------------------------------


@each
def test_a_machine_comes_back_bit_for_bit(name, tmp_path):
    machine, x = machine_of(KERNELS[name]), points(4, seed=9)
    machine.save(tmp_path / "m")
    found = ks.KernelMachine.load(tmp_path / "m")
    assert torch.equal(found(x), machine(x))
    assert repr(found) == repr(machine)


def test_every_closed_form_kernel_is_known_with_all_its_numbers():
    public = {value for name, value in vars(ks.kernels).items() if inspect.isclass(value)}
    assert {kind for kind in public if issubclass(kind, ClosedForm)} == set(FORMULAS)
    for kind in FORMULAS:
        assert set(inspect.signature(kind).parameters) <= set(described(kind()))


@each
def test_a_description_is_plain_and_makes_the_same_kernel(name):
    words = json.loads(json.dumps(described(KERNELS[name])))
    assert described(rebuilt(words, "here")) == described(KERNELS[name])
    assert torch.equal(rebuilt(words, "here")(points(4)), KERNELS[name](points(4)))


@pytest.mark.parametrize("words", [
    None, {}, {"kernel": "Tangent"}, {"kernel": "Gaussian", "bandwidth": -1.0, "memory": 1000},
    {"kernel": "Gaussian", "bandwidth": 1.0, "memory": 1000, "more": 1}, {"kernel": "__import__", "name": "os"},
    {"kernel": "Sum", "left": {"kernel": "Cosine", "memory": 1000}},
    {"kernel": "Scaled", "factor": "2", "part": {"kernel": "Cosine", "memory": 1000}},
])
def test_what_describes_no_kernel_is_refused(words):
    with pytest.raises(StoreCorrupt, match="names a kernel that is not known here"):
        rebuilt(words, "a file")


def test_a_subclass_of_a_known_kernel_is_another_kernel():
    class Own(ks.kernels.Gaussian):
        pass

    assert described(Own(bandwidth=1.0)) is None
    assert described(2 * Own(bandwidth=1.0)) is None
    assert described(Own(bandwidth=1.0) + KERNELS["Cosine"]) is None


def tangent(seed=0):
    torch.manual_seed(seed)
    return ks.kernels.Tangent(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double())


def test_a_kernel_that_holds_a_model_is_passed_when_a_machine_is_opened(tmp_path):
    machine, x = machine_of(tangent()), points(4)
    machine.save(tmp_path / "m")
    with pytest.raises(DataError, match="holds more than numbers and was not kept.*kernel=..."):
        ks.KernelMachine.load(tmp_path / "m")
    assert torch.equal(ks.KernelMachine.load(tmp_path / "m", kernel=tangent())(x), machine(x))
    with pytest.raises(DataError, match="not the kernel that .* was saved with"):
        ks.KernelMachine.load(tmp_path / "m", kernel=tangent(1))
    with pytest.raises(DataError, match="not the kernel|no points for"):
        ks.KernelMachine.load(tmp_path / "m", kernel=KERNELS["Gaussian"])


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1).double()

    def forward(self, a, b):
        return self.linear(a) * b


def test_centers_of_several_tensors_come_back_too(tmp_path):
    torch.manual_seed(0)
    k = ks.kernels.Tangent(Both())
    centers = (points(4), points(4, 1))
    for z in (centers, {"a": centers[0], "b": centers[1]}):
        machine = ks.KernelMachine(k, z, points(4, 2))
        machine.save(tmp_path / "m", overwrite=True)
        found = ks.KernelMachine.load(tmp_path / "m", kernel=k)
        assert type(found.centers) is type(z)
        assert torch.equal(found(z), machine(z))
        assert_close((found + machine)(z), 2 * machine(z))
    one = ks.KernelMachine(k, centers, points(4, 2))
    other = ks.KernelMachine(k, (points(2), points(2, 1)), points(2, 2))
    assert_close((one + other)(centers), one(centers) + other(centers))


def test_nothing_is_replaced_unasked_and_no_flipped_bit_is_read(tmp_path):
    machine = machine_of(KERNELS["Gaussian"])
    path = machine.save(tmp_path / "m")
    with pytest.raises(StoreExists):
        machine.save(path)
    machine.save(path, overwrite=True)
    (segment,) = path.glob("segment-*")
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(bytes(data))
    with pytest.raises(StoreCorrupt):
        ks.KernelMachine.load(path)
    with pytest.raises(KernelscopeError):
        ks.KernelMachine.load(tmp_path / "nothing")


def test_a_machine_in_single_precision_stays_there(tmp_path):
    k = ks.kernels.Gaussian(bandwidth=1.0)
    machine = ks.KernelMachine(k, points(5).float(), points(5, 2).float())
    assert machine(points(3).float()).dtype == torch.float32
    machine.save(tmp_path / "m")
    assert ks.KernelMachine.load(tmp_path / "m").coefficients.dtype == torch.float32
    assert machine.contributions(points(3).float()).check().ok


# -- drawings --------------------------------------------------------------------------------------------------------


def test_the_bars_of_a_value_add_up_to_it():
    why = machine_of(KERNELS["Gaussian"], p=20).contributions(points(3, seed=9))
    ax = why.plot(query=1, output=1, k=4)
    widths = [bar.get_width() for bar in ax.patches]
    assert sum(widths) == pytest.approx(float(why.outputs[1, 1]))
    assert widths[:4] == why.top(4, 1, 1).contribution.tolist()
    assert [label.get_text() for label in ax.get_yticklabels()][4:] == ["16 others", "intercept"]
    assert signed(float(why.outputs[1, 1])) in ax.get_title(loc="left")


def test_a_fitting_draws_its_ridges_or_its_passes():
    x, y = points(30), points(30, 1, 1)
    fit = lambda **options: ks.fit(KERNELS["Gaussian"], x, y, centers=9, progress=False, **options).fitting
    several = fit(ridge=[0.0, 1e-3, 1.0], validation=(x, y))
    (line,) = several.plot().lines
    assert line.get_ydata().tolist() == several.validation.tolist()
    assert "ridge 0 was taken" in several.plot().get_title(loc="left")
    one = fit(solver="cg", ridge=1e-2)
    (line,) = one.plot().lines
    assert line.get_ydata().tolist() == [passed["residual"] for passed in one.history]
    assert fit(solver="direct").plot().get_title(loc="left") == "One pass: solved at once"
