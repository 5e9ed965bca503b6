"""What comes in with a question either fits or is refused with a sentence that says what would."""

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, KernelscopeError, ModelError

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLASSES, NUMBERS = torch.arange(12) % 3, torch.randn(12, 2, generator=torch.Generator().manual_seed(1)).double()
BCE = F.binary_cross_entropy_with_logits


def record(model, y=CLASSES, loss=F.cross_entropy, x=X, steps=3, **options):
    inputs = x if isinstance(x, tuple) else (x,)
    model, optimizer = model.double(), torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(*inputs, y), batch_size=len(y))
    with ks.record(model, loader, loss=loss, **options) as recording:
        for _ in range(steps):
            for *batch, targets in loader:
                optimizer.zero_grad()
                loss(model(*batch), targets).backward()
                optimizer.step()
    return recording.run


def network(width=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, width))


@pytest.fixture(scope="module")
def run():
    return record(network())


# -- the run -----------------------------------------------------------------------------------------------------------


def test_what_is_no_run_is_refused_with_the_way_to_one(run, tmp_path):
    recording = ks.record(network(), (X, CLASSES), loss=F.cross_entropy)
    ways = [("runs/a", "a str came.*kernelscope.load.'runs/a'"), (tmp_path, r"Path came.*kernelscope.load"),
            (network(), "a Sequential came.*record its training"), (run[1], r"a Step came.*run\[k:k \+ 1\]"),
            (recording, "a Recording came.*recording.run"), (None, "a NoneType came.*kernelscope.load"),
            (ks.decompose(run, X[:1]), "a Decomposition came")]
    for wrong, sentence in ways:
        for ask in (ks.decompose, ks.explain):
            with pytest.raises(DataError, match=sentence):
                ask(wrong, X[:1])


# -- queries -----------------------------------------------------------------------------------------------------------


class Items(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def test_queries_may_come_as_tensors_arrays_and_data_sets(run):
    truth = ks.decompose(run, X[:4]).contributions
    numbers = X[:4].numpy()
    for x in (numbers, numbers[::-1][::-1], [X[:4]], (numbers,), TensorDataset(X[:4], CLASSES[:4]),
              list(X[:4]), list(numbers), DataLoader(TensorDataset(X[:4], CLASSES[:4]), batch_size=3),
              DataLoader(X[:4], batch_size=3), DataLoader(TensorDataset(X[:5]), batch_size=4, drop_last=True),
              TensorDataset(X[:4]), Items(*X[:4]), Items(*((a, 7, "name") for a in numbers))):
        assert torch.equal(ks.decompose(run, x).contributions, truth)
    whole = torch.randint(0, 5, (2, 3))
    assert torch.equal(ks.decompose(run, whole).final, ks.decompose(run, whole.double()).final)


@pytest.mark.parametrize(("x", "sentence"), [
    ([1.0, 2.0, 3.0], "a list came. Use torch.tensor"),
    ([[1.0, 2.0, 3.0]], "a list came. Use torch.tensor"),
    ([], "a list came. Pass a row"),
    (None, "a NoneType came. Pass the inputs"),
    (7, "a int came"),
    ("points.npy", "a str came"),
    ({"x": X}, "a dict came. Pass its tensors as a tuple"),
    (DataLoader(TensorDataset(X), batch_size=2, shuffle=True), r"loader shuffles.*loader.dataset.*shuffle=False"),
    (DataLoader([{"x": X[0]}, {"x": X[1]}]), "the 1 input of the network first, as tensors; this one gives a dict"),
    (DataLoader(TensorDataset(X[:1]), batch_size=2, drop_last=True), "loader gives no sample at all"),
    ([X[0], X[0, :2]], r"as \(3,\) in training; point 0 has \(3,\) and point 1 \(2,\)"),
    ([X[0], 7], "a list came"),
    ([X, CLASSES], "takes 1 input and 2 came.*the inputs alone"),
    (Items({"x": X[0]}), "Items holds a dict. Pass a tensor"),
    (Items(), "Items holds nothing"),
    (Items(X[0], X[0, :2]), "different shapes"),
    (np.array(["a", "b"]), "one of <U1 came"),
    (np.array([None]), "one of object came"),
    (X + 1j, "trained on torch.float64, and queries of torch.complex128 came"),
    (X[0], r"came \(3,\). A single query needs a leading axis"),
    (X * torch.nan, "Query 0 holds NaN"),
    (X[:, :2], r"cannot take these queries.*\(12, 3\)"),
])
def test_queries_that_do_not_fit_are_refused(run, x, sentence):
    with pytest.raises(DataError, match=sentence):
        ks.decompose(run, x)


def test_a_data_set_of_queries_draws_none_of_the_users_random_numbers(run):
    class Drawing(Items):
        def __getitem__(self, i):
            torch.rand(1), np.random.rand(1)  # noqa: NPY002
            return super().__getitem__(i)

    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    ks.decompose(run, Drawing(*X[:2]))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# -- the output --------------------------------------------------------------------------------------------------------


def test_an_output_may_be_named_by_its_number(run):
    whole = ks.decompose(run, X[:2])
    for number in (0, 2, -1, np.int64(1)):
        one = ks.decompose(run, X[:2], output=number)
        torch.testing.assert_close(one.contributions, whole.contributions[:, [number]], rtol=1e-12, atol=1e-15)
        assert one.output_names == [str(number % 3)]


@pytest.mark.parametrize(("output", "sentence"), [
    (3, "output=3 is none of the network's 3 outputs, numbered 0 to 2"),
    (-4, "output=-4 is none"),
    (True, "True came"),
    (1.0, "1.0 came"),
    ("logit", "'logit' came"),
    (lambda out: out.mean(0), r"one row for each of the 2 queries, and it has the shape \(3, 1\)"),
    (lambda out: out.sum(), "it is a single number"),
    (lambda out: out.argmax(1), "it is a tensor of torch.int64 with shape"),
    (lambda out: 3, "it is a int"),
    (lambda out: out["logits"], "fails on the network's outputs, a tensor with shape .2, 3., with a "),
    (lambda out: out[:, 7], "with a IndexError"),
    (lambda: 3, "with a TypeError"),
])
def test_an_output_that_the_network_does_not_have_is_refused(run, output, sentence):
    with pytest.raises(KernelscopeError, match=sentence):
        ks.decompose(run, X[:2], output=output)


@dataclass
class Answer:
    hidden: list
    logits: torch.Tensor


@dataclass
class Named(OrderedDict):
    """A dictionary whose entries are attributes as well, as large models give it."""

    logits: torch.Tensor

    def __post_init__(self):
        super().__setitem__("logits", self.logits)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)

    def __reduce__(self):
        return Named, (self.logits,)


Pair = namedtuple("Pair", "name logits")
FORMS = {
    "mapping": (lambda t: OrderedDict(kind="a", logits=t), lambda out: out["logits"], r"outputs\['logits'\]\[:, 0\]"),
    "data class": (lambda t: Answer([], t), lambda out: out.logits, r"outputs.logits\[:, 0\]"),
    "both": (lambda t: Named(t), lambda out: out.logits, r"outputs\['logits'\]\[:, 0\]"),
    "named tuple": (lambda t: Pair("a", t), lambda out: out.logits, r"outputs\[1\]\[:, 0\]"),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_may_be_wrapped_and_the_advice_says_how_to_reach_them(form):
    wrap, pick, advice = FORMS[form]

    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return wrap(self.inner(x))

    loss = lambda out, y, **options: F.cross_entropy(pick(out), y, **options)
    wrapped, plain = record(Wrapping(), loss=loss), record(network())
    d = ks.decompose(wrapped, X[:2], output=pick)
    torch.testing.assert_close(d.contributions, ks.decompose(plain, X[:2]).contributions, rtol=1e-10, atol=1e-14)
    losses = [ks.decompose(r, X[:2], output="loss", targets=[1, 2]).contributions for r in (wrapped, plain)]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-14)
    for output in (None, 0, "margin"):
        with pytest.raises(KernelscopeError, match=f"output=lambda outputs: {advice}"):
            ks.decompose(wrapped, X[:2], output=output)


def test_a_function_may_give_numbers_in_another_precision(run):
    halves = ks.decompose(run, X[:2], output=lambda outputs: outputs.float()[:, :1])
    whole = ks.decompose(run, X[:2], output=lambda outputs: outputs[:, :1])
    torch.testing.assert_close(halves.contributions, whole.contributions, rtol=1e-5, atol=1e-7)
    assert halves.completeness() <= 1e-12


@pytest.mark.parametrize("function", [
    lambda outputs: (outputs > 0).float()[:, :1], lambda outputs: outputs[:, 0] * 0 + 2,
])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_of_a_constant_every_share_is_nought(run, function, dtype):
    d = ks.decompose(run, X[:2], output=function, dtype=dtype)
    assert d.contributions.shape == (2, 1, 12)
    assert not d.contributions.any()
    why = ks.explain(run, X[:2], output=function, dtype=dtype)
    assert not why.decomposition.contributions.any()
    assert why.sentence()


# -- targets -----------------------------------------------------------------------------------------------------------


def test_targets_may_be_lists_and_arrays(run):
    truth = ks.decompose(run, X[:2], output="loss", targets=torch.tensor([1, 2])).contributions
    for targets in ([1, 2], (1, 2), np.array([1, 2], dtype=np.int32), torch.tensor([[1], [2]])):
        assert torch.equal(ks.decompose(run, X[:2], output="loss", targets=targets).contributions, truth)
    alone = ks.decompose(run, X[:1], output="loss", targets=1).contributions
    torch.testing.assert_close(alone, truth[:1], rtol=1e-12, atol=1e-15)


def test_targets_are_never_broadcast_against_the_outputs():
    run = record(network(1), NUMBERS[:, :1], F.mse_loss)
    flat, columns = (ks.decompose(run, X[:4], output="loss", targets=t) for t in (NUMBERS[:4, 0], NUMBERS[:4, :1]))
    assert torch.equal(flat.contributions, columns.contributions)
    whole = ks.decompose(run, X[:2], output="loss", targets=[1, 2])
    assert torch.equal(whole.final, ks.decompose(run, X[:2], output="loss", targets=[1.0, 2.0]).final)


@pytest.mark.parametrize(("targets", "sentence"), [
    (None, "none came. Pass targets="),
    (3, "the number 3 came"),
    ([1], "each of the 2 queries; 1 came"),
    ([1, 2, 0], "3 came"),
    ("ab", "a str came that is no array of numbers"),
    (["cat", "dog"], "a list came that is no array of numbers.*by their index"),
    ([None, 1], "no array of numbers"),
    ([1.0, 2.0], r"whole numbers as targets \(torch.int64\), and torch.float64 came. Use targets.long"),
    ([1, 3], "hold the class 3, and the network tells 3 classes apart, 0 to 2"),
    ([-1, 0], "hold the class -1"),
    (torch.zeros(2, 3, dtype=torch.int64), r"had 1 axes, as \(12,\), and the shape \(2, 3\) came"),
])
def test_targets_that_the_loss_cannot_take_are_refused(run, targets, sentence):
    with pytest.raises(DataError, match=sentence):
        ks.decompose(run, X[:2], output="loss", targets=targets)


def test_a_loss_of_ones_own_may_refuse_targets_in_its_own_words():
    def loss(outputs, targets, reduction="mean"):
        if bool((targets > 2).any()):
            raise ValueError("no such class")
        return F.cross_entropy(outputs, targets, reduction=reduction)

    with pytest.raises(DataError, match="cannot take these targets .no such class.*Those in training were"):
        ks.decompose(record(network(), loss=loss), X[:2], output="loss", targets=[1, 3])


def test_an_ignored_class_is_no_mistake(run):
    assert float(ks.decompose(run, X[:2], output="loss", targets=[-100, 1]).final[0]) == 0


# -- the margin of two classes -----------------------------------------------------------------------------------------


def test_the_margin_of_one_logit_is_the_lead_of_the_class_it_predicts():
    y = (X[:, :1] > 0).double()
    run = record(network(1), y, BCE, steps=20)
    logit, margin = ks.decompose(run, X), ks.decompose(run, X, output="margin")
    sign = logit.final.sign()
    assert {-1.0, 1.0} == set(sign.flatten().tolist())
    torch.testing.assert_close(margin.final, logit.final.abs(), rtol=0, atol=0)
    torch.testing.assert_close(margin.contributions, logit.contributions * sign[:, :, None], rtol=1e-12, atol=1e-15)
    for other in (record(network(1), NUMBERS[:, :1], F.mse_loss), record(network(1), y, F.mse_loss)):
        with pytest.raises(DataError, match="A margin needs.*gives a tensor with shape .12, 1."):
            ks.decompose(other, X, output="margin")


# -- where and how -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "sentence"), [
    ({"device": "gpu"}, "device='gpu' cannot be computed on here .*leave device out"),
    ({"device": "cuda:99"}, "device='cuda:99' cannot be computed on here"),
    ({"device": "meta"}, "it holds no numbers"),
    ({"device": 1.5}, "device='1.5'"),
    ({"memory": "much"}, "'much' came. The default"),
    ({"memory": 0}, "0 came"),
    ({"memory": -5}, "-5 came"),
    ({"memory": None}, "None came"),
    ({"memory": True}, "True came"),
    ({"memory": float("nan")}, "nan came"),
    ({"dtype": "float32"}, "torch.float32; 'float32' came"),
    ({"groups": ["a"]}, "each of the 12 training samples; 1 came"),
])
def test_a_place_or_a_size_that_there_is_not_is_refused(run, options, sentence):
    with pytest.raises(DataError, match=sentence):
        ks.decompose(run, X[:1], **options)


def test_memory_may_be_given_in_words(run):
    assert torch.equal(ks.decompose(run, X[:2], memory="1 GiB").contributions,
                       ks.decompose(run, X[:2], memory=2**30).contributions)


# -- networks that are no function of the query ------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.inner, self.how, self.calls = network(), how, 0
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x):
        out = self.inner(x)
        if self.training:
            return out
        if self.how == "draws":
            return F.dropout(out, 0.5)
        if self.how == "counts":
            self.calls += 1
            return out * self.calls
        return self.norm(out) if self.how == "normalises" else out - out.mean(0)


@pytest.mark.parametrize(("how", "sentence"), [
    ("draws", "another output each time.*It draws random numbers"),
    ("counts", "another output each time.*keeps state outside"),
    ("averages", "with the queries beside it.*over the first axis"),
    ("normalises", "by itself.*'norm' has track_running_stats=False"),
])
def test_a_network_that_is_no_function_of_the_query_is_refused_for_what_was_seen(how, sentence):
    model = Odd(how)
    run = record(model)
    if how != "normalises":
        model.norm = run.network._skeleton.norm = nn.Identity()
        run.network._modules.clear()
    calls, state = model.calls, torch.get_rng_state()
    with pytest.raises(ModelError, match=sentence) as caught:
        ks.decompose(run, X[:2])
    assert ("ormalisation" in str(caught.value)) == (how == "normalises")
    assert model.calls == calls
    assert torch.equal(state, torch.get_rng_state())


def test_one_query_alone_is_asked_twice_as_well():
    run = record(Odd("draws"))
    with pytest.raises(ModelError, match="draws random numbers"):
        ks.decompose(run, X[:1])


# -- explanations ------------------------------------------------------------------------------------------------------


def test_an_explanation_takes_queries_in_any_form(run):
    truth = ks.explain(run, X[:3])
    for x in (X[:3].numpy(), [X[:3]], TensorDataset(X[:3], CLASSES[:3])):
        assert torch.equal(ks.explain(run, x).shares, truth.shares)
        assert torch.equal(ks.explain(run, x).inputs, X[:3])
    for x in (X[0], X[0].numpy(), (X[0],)):
        torch.testing.assert_close(ks.explain(run, x).shares, truth.shares[:1], rtol=1e-12, atol=1e-15)
    with pytest.raises(DataError, match=r"shaped like the run's samples, \(q, 3\); got \(12, 2\)"):
        ks.explain(run, X[:, :2])


@pytest.mark.parametrize(("options", "sentence"), [
    ({"k": 0}, "got k=0"), ({"k": -1}, "got k=-1"), ({"k": 2.5}, "got k=2.5"), ({"k": "3"}, "got k='3'"),
    ({"k": True}, "got k=True"), ({"labels": 5}, "as a list; 5 came"), ({"labels": ["a"]}, "12 samples; got 1"),
    ({"output": 99}, "output=99 is none"), ({"output": "logits"}, "one output for each query, and the ledger has 3"),
])
def test_an_explanation_refuses_what_does_not_fit(run, options, sentence):
    with pytest.raises(DataError, match=sentence):
        ks.explain(run, X[:2], **options)
    assert ks.explain(run, X[:2], k=np.int64(2)).k == 2


@pytest.mark.parametrize("targets", [
    [1, 2], np.array([1, 2], dtype=np.uint8), torch.tensor([[1], [2]]), F.one_hot(torch.tensor([1, 2])),
    torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])])
def test_true_classes_come_in_any_form(run, targets):
    assert ks.explain(run, X[:2], targets=targets).targets == ["1", "2"]
    assert ks.explain(run, X[:1], targets=targets[:1]).targets == ["1"]
    assert ks.explain(run, X[0], targets=2).targets == ["2"]


@pytest.mark.parametrize(("targets", "sentence"), [
    ([1], "each of the 2 queries; 1 came"),
    (4, "the number 4 came"),
    ([1, 3], "hold the class 3, and the network tells 3 classes apart"),
    ([-1, 0], "hold the class -1"),
    ([1.0, 2.0], "one of 3 for each query, and a tensor with shape .2,. of torch.float"),
    ([[1, 0], [0, 1]], "one of 3 for each query"),
    ([[0.5, 0.2, 0.2], [1.0, 0.0, 0.0]], "one of 3 for each query"),
    (["a", "b"], "no array of numbers"),
])
def test_true_classes_that_there_are_not_are_refused(run, targets, sentence):
    for output in (None, 1):
        with pytest.raises(DataError, match=sentence):
            ks.explain(run, X[:2], targets=targets, output=output)


SECOND = (X[:, :1] + 0.3 * X[:, 1:2] > 0).double()


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network(1)

    def forward(self, x):
        return self.inner(x)[:, 0]


@pytest.mark.parametrize(("make", "y", "loss", "kind"), [
    (lambda: network(1), SECOND, BCE, "logit"),
    (lambda: network(1), SECOND, nn.BCEWithLogitsLoss(), "logit"),
    (lambda: network(1), SECOND, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), "logit"),
    (Flat, SECOND[:, 0], BCE, "logit"),
    (Flat, 0.1 + 0.8 * SECOND[:, 0], BCE, "logit"),
    (lambda: network(1), SECOND[:, 0], lambda out, y, **o: BCE(out[:, 0], y, **o), "logit"),
    (lambda: network(1), SECOND[:, 0].long(), lambda out, y, **o: BCE(out[:, 0], y.to(out), **o), "logit"),
    (lambda: network(1), SECOND, lambda out, y, **o: BCE(2 * out, y, **o), "output"),
    (lambda: nn.Sequential(network(1), nn.Sigmoid()), SECOND, F.binary_cross_entropy, "output"),
    (lambda: network(1), SECOND, F.mse_loss, "output"),
    (lambda: network(1), 3 * CLASSES, lambda out, y, **o: F.mse_loss(out[:, 0], y.to(out), **o), "output"),
    (lambda: network(3), F.one_hot(CLASSES).double() * 0.9 + 0.1 / 3, F.cross_entropy, "margin"),
    (lambda: network(2), SECOND[:, 0].long(), F.cross_entropy, "margin"),
])
def test_what_is_explained_is_what_says_most(make, y, loss, kind):
    torch.manual_seed(0)
    model = make()
    run = record(model, y, loss, steps=30)
    why = ks.explain(run, X)
    final = model(X).detach().reshape(12, -1)
    assert why.kind == kind
    if kind == "margin":
        top = final.topk(2)
        torch.testing.assert_close(why.decomposition.final, top.values[:, :1] - top.values[:, 1:])
        assert [why.answer(q)[0] for q in range(12)] == top.indices[:, 0].tolist()
        return
    torch.testing.assert_close(why.decomposition.final, final)
    if kind == "output":
        assert why.answer() is None
        return
    assert [why.answer(q)[0] for q in range(12)] == (final[:, 0] > 0).long().tolist()
    truth = torch.stack([why.probabilities(q)[1, -1] for q in range(12)])
    torch.testing.assert_close(truth, final[:, 0].sigmoid())
    given = ks.explain(run, X[:2], targets=y[:2])
    assert given.targets == [run.class_names[int(t > 0.5)] for t in y[:2].reshape(-1)]
    lead = ks.explain(run, X, output="margin")
    torch.testing.assert_close(lead.decomposition.final, final.abs())
    assert [lead.answer(q) for q in range(12)] == [why.answer(q) for q in range(12)]


@pytest.mark.parametrize("y", [NUMBERS[:, 0], NUMBERS[:, :1]])
def test_quantities_are_explained_by_samples_of_low_middle_and_high_targets(y):
    run = record(Flat() if y.ndim == 1 else network(1), y, F.mse_loss)
    why = ks.explain(run, X[:2], targets=[0.5, 1.5])
    assert [name.split(" ")[0] for name in why.group_names()] == ["high", "low", "middle"]
    assert why.group_sizes() == [4, 4, 4]
    shares = dict(zip(why.group_names(), why.group_shares().tolist(), strict=True))
    order = y.flatten().argsort()
    for word, part in zip(("low", "middle", "high"), order.split(4), strict=True):
        share = next(value for name, value in shares.items() if name.startswith(word))
        assert abs(share - float(why.shares[0, part].sum())) < 1e-12
    assert why.targets == ["0.50", "1.50"]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.inner = nn.Embedding(5, 2), nn.Linear(5, 3)

    def forward(self, x, tokens):
        return self.inner(torch.cat([x, self.words(tokens).mean(1)], 1))


def test_a_network_of_several_inputs_is_explained_drawn_and_saved(tmp_path):
    tokens = torch.randint(0, 5, (12, 61), generator=torch.Generator().manual_seed(2))
    run = record(Two(), x=(X, tokens))
    truth = ks.decompose(run, (X[:2], tokens[:2]), output="margin")
    for asked in ((X[:2], tokens[:2]), TensorDataset(X[:2], tokens[:2], CLASSES[:2])):
        why = ks.explain(run, asked, targets=CLASSES[:2], k=3)
        assert torch.equal(why.shares, truth.contributions[:, 0])
    assert len(ks.explain(run, (X[0], tokens[0]))) == 1
    # 3 + 61 numbers would make a picture of 8 x 8.
    assert why.inputs.shape == (2, 1, 64)
    assert torch.equal(why.inputs[:, 0, 3:].long(), tokens[:2])
    for row, i in enumerate(why.samples.tolist()):
        assert torch.equal(why.sample_inputs[row, 0], torch.cat([X[i], tokens[i]]))
    for text in (why._repr_html_(), ks.Report("Two inputs", [why, why[1]]).html()):
        assert "data:image/png" not in text
        assert f"#{int(why.helpful()['sample'][0])}" in text
    loaded = ks.Explanation.load(why.save(tmp_path / "why"))
    assert loaded._repr_html_() == why._repr_html_()
    with pytest.raises(DataError, match=r"takes 2 inputs and 1 came. Pass x as a tuple of 2 tensors"):
        ks.explain(run, X)
    with pytest.raises(DataError, match=r"trained on torch.int64, and queries of torch.float64"):
        ks.explain(run, (X, tokens.double()))
    with pytest.raises(DataError, match=r"rows. Give each the same number"):
        ks.explain(run, (X[:2], tokens[:3]))


def test_samples_are_shown_by_their_place_whatever_their_ids():
    loader = DataLoader(TensorDataset(X, torch.arange(12) * 7 + 100, CLASSES), batch_size=6)
    model = network().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, loader, loss=F.cross_entropy, ids=lambda b: b[1], batch=lambda b: (b[0], b[2])) as recording:
        for x, _, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    why = ks.explain(recording.run, X[:1])
    assert len(why.samples) > 0
    assert torch.equal(why.sample_inputs, X[why.samples])
    assert set(why.helpful()["sample"]) <= set(range(100, 184, 7))


# -- outputs with several axes -----------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A class for each position of a sequence: outputs with shape (n, positions, classes)."""

    def __init__(self, wrapped=False):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.steps, self.head = nn.Embedding(5, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 2)
        self.wrapped = wrapped

    def forward(self, words):
        tags = self.head(self.steps(self.table(words))[0])
        return {"tags": tags} if self.wrapped else tags


WORDS = torch.randint(0, 5, (12, 3), generator=torch.Generator().manual_seed(2))


def tag_loss(outputs, targets):
    tags = outputs["tags"] if isinstance(outputs, dict) else outputs
    return F.cross_entropy(tags.transpose(1, 2), targets, reduction="none").mean(1)


def tagged(wrapped=False):
    model = Tagger(wrapped).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with ks.record(model, (WORDS, WORDS % 2), loss=tag_loss) as recording:
        for _ in range(3):
            optimizer.zero_grad()
            tag_loss(model(WORDS), WORDS % 2).mean().backward()
            optimizer.step()
    return recording.run


def advised(error):
    """The function that an error advises."""
    return eval(re.search(r"output=(lambda outputs: outputs\S*?(?:\[:[0, ]*\]))", str(error))[1])


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("ask", "output"), [
    (ks.decompose, "margin"), (ks.explain, "margin"), (ks.explain, "logits"), (ks.explain, lambda out: tags_of(out)),
    (ks.explain, lambda out: tags_of(out)[:, 1]), (ks.decompose, lambda out: tags_of(out)[1]),
])
def test_what_is_advised_for_outputs_with_several_axes_works(ask, output, wrapped):
    run = tagged(wrapped)
    if wrapped and output == "logits":
        output = "margin"
    with pytest.raises(DataError) as refused:
        ask(run, WORDS[:2], output=output)
    ledger = ks.decompose(run, WORDS[:2], output=tags_of)
    found = ask(run, WORDS[:2], output=advised(refused.value))
    found = found if ask is ks.decompose else found.decomposition
    torch.testing.assert_close(found.contributions, ledger.contributions[:, :1])
    assert found.check().ok


def tags_of(outputs):
    return outputs["tags"] if isinstance(outputs, dict) else outputs


def test_each_entry_of_several_axes_is_explained_by_its_place():
    run = tagged()
    ledger = ks.decompose(run, WORDS[:2])
    for position in range(3):
        for cls in range(2):
            why = ks.explain(run, WORDS[:2], output=lambda outputs, t=position, c=cls: outputs[:, t, c])
            torch.testing.assert_close(why.shares, ledger.contributions[:, 2 * position + cls])
            assert why.check().ok


def test_several_numbers_for_a_query_are_refused_before_the_run_is_gone_through(monkeypatch):
    run = tagged()
    monkeypatch.setattr("kernelscope.decomposition.exact.sweep", None)
    sentence = (r"gives 2, with the shape \(2, 2\); the network's outputs are a tensor with shape \(2, 3, 2\). "
                r"Pass a function .* outputs\[:, 0, 0\], one entry of the \(3, 2\)")
    with pytest.raises(DataError, match=sentence):
        ks.explain(run, WORDS[:2], output=lambda outputs: outputs[:, 1])
