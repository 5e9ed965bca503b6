"""What makes no kernel is refused in a sentence that says what came, and nothing comes out as a bare traceback."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, NonFiniteError, OutOfBudget

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
X, Y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])


class Tokens(nn.Module):
    """Takes inputs by name, as models of text do."""

    def __init__(self):
        super().__init__()
        self.embed, self.readout = nn.Embedding(11, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.readout((self.embed(input_ids) * attention_mask[..., None]).mean(1))}


BATCH = {"input_ids": torch.arange(10).view(5, 2), "attention_mask": torch.ones(5, 2)}


def spoilt(value):
    x = X.clone()
    x[2, 1] = value
    return x


def kernel(**options):
    return ks.kernels.Tangent(MODEL, **options)


def operator(**options):
    return ks.KernelOperator(kernel(**options), X)


def losses(x, **options):
    return kernel(loss=F.cross_entropy, **options)(x)


REFUSED = {
    "no model": (lambda: ks.kernels.Tangent(None), ModelError, "NoneType came"),
    "a class": (lambda: ks.kernels.Tangent(nn.Linear), ModelError, "a type came"),
    "nothing trainable": (lambda: ks.kernels.Tangent(nn.ReLU()), ModelError, "No parameter requires a gradient"),
    "a model without values": (lambda: ks.kernels.Tangent(nn.Linear(2, 1, device="meta")), ModelError, "meta"),
    "points with NaN": (lambda: kernel()(spoilt(torch.nan)), NonFiniteError, "Point 2 holds NaN"),
    "points with infinity": (lambda: kernel()(X, spoilt(torch.inf)), NonFiniteError, "Point 2 holds"),
    "points of another width": (lambda: kernel()(torch.ones(5, 7)), ModelError, r"shape \(2, 7\)"),
    "columns of another width": (lambda: kernel()(X, torch.ones(3, 5)), ModelError, r"shape \(2, 5\)"),
    "columns with other outputs": (lambda: kernel()(X, torch.ones(3, 2, 4)), ModelError, "3 outputs.*6 for others"),
    "no points": (lambda: kernel()(X[:0]), DataError, "no points"),
    "nothing for points": (lambda: kernel()(None), DataError, "NoneType came"),
    "points without values": (lambda: kernel()(X.to("meta")), DataError, "only a shape"),
    "columns without values": (lambda: kernel()(X, X.to("meta")), DataError, "only a shape"),
    "points in a list": (lambda: kernel()(list(X)), ModelError, r"these 5 tensors are points.*torch\.stack"),
    "targets for outputs": (lambda: kernel()((X, Y)), ModelError, "inputs alone"),
    "points in any order": (lambda: kernel()(DataLoader(TensorDataset(X, Y), shuffle=True)), DataError, "shuffles"),
    "unknown outputs": (lambda: kernel(outputs="foo"), DataError, "'foo' came"),
    "output out of range": (lambda: kernel(output=7)(X), DataError, "one of 3 outputs"),
    "output that is a sum": (lambda: kernel(output=lambda o: o.sum())(X), ModelError, "one row for each sample"),
    "unknown parameters": (lambda: kernel(parameters=["nope"]), DataError, "no parameter or module 'nope'"),
    "no parameters": (lambda: kernel(parameters=[]), DataError, "such as '0.weight'; none came"),
    "parameters by number": (lambda: kernel(parameters=0), DataError, "a int came"),
    "parameters themselves": (lambda: kernel(parameters=MODEL.parameters()), DataError, "a Parameter came"),
    "too little memory": (lambda: kernel(memory=5)(X), OutOfBudget, "memory allows 5 bytes"),
    "memory in words": (lambda: kernel(memory="lots"), DataError, "'lots' came"),
    "unknown precision": (lambda: kernel(precision="foo"), DataError, "'foo' came"),
    "dtype in words": (lambda: kernel(dtype="float64"), DataError, "'float64' came"),
    "unknown device": (lambda: kernel(device="foo"), DataError, "no device 'foo'"),
    "a loss without targets": (lambda: losses(X), DataError, "needs its target"),
    "a loss and few targets": (lambda: losses((X, Y[:3])), DataError, "one row of each tensor"),
    "a loss and listed targets": (lambda: losses((X, Y.tolist())), DataError, "entry 1 of the points is a list"),
    "a loss and no target": (lambda: losses((X, None)), DataError, "entry 1 of the points is a NoneType"),
    "a loss and other classes": (lambda: losses((X, Y + 5)), ModelError, "out of bounds. Look at loss="),
    "a loss in words": (lambda: kernel(loss="cross_entropy"), DataError, "'cross_entropy' came"),
    "inputs by other names": (lambda: ks.kernels.Tangent(Tokens())({"ids": X}), ModelError, "inputs of ids"),
    "inputs of other lengths": (lambda: ks.kernels.Tangent(Tokens())({**BATCH, "attention_mask": X[:4]}), DataError,
                                "one row of each tensor"),
    "inputs without labels": (lambda: ks.kernels.Tangent(Tokens(), loss=F.cross_entropy)(BATCH), DataError, "'labels'"),
    "a state of another module": (lambda: kernel().at(nn.Linear(2, 1).state_dict()), ModelError, "another module"),
    "a module for a state": (lambda: kernel().at(MODEL), ModelError, "a Sequential came"),
    "no state": (lambda: kernel().at(None), ModelError, "NoneType came"),
    "no kernel": (lambda: ks.KernelOperator(MODEL, X), DataError, "a Sequential came"),
    "a short vector": (lambda: operator() @ torch.ones(4), DataError, r"shape \(5, 5\), v has shape \(4,\)"),
    "a flat vector": (lambda: operator(outputs="full") @ torch.ones(15), DataError, r"\(5, 3, 5, 3\)"),
    "a listed vector": (lambda: operator() @ [1.0] * 5, DataError, "v is a list"),
    "a vector without columns": (lambda: operator() @ torch.ones(5, 0), DataError, "no columns"),
    "a vector without values": (lambda: operator() @ torch.ones(5, device="meta"), DataError, "only a shape"),
    "a vector with NaN": (lambda: operator() @ torch.full((5,), torch.nan), NonFiniteError, "v holds some"),
    "a row out of range": (lambda: operator()[7], DataError, "point 7 does not exist"),
    "a row by name": (lambda: operator()["a"], DataError, "'a' came"),
    "no row": (lambda: operator()[None], DataError, "None came"),
    "three sides": (lambda: operator()[0, 1, 2], DataError, "3 entries came"),
}


@pytest.mark.parametrize(("call", "error", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_what_makes_no_kernel_is_refused_in_words(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("form", [lambda: X.numpy(), lambda: X.double(), lambda: X.clone().requires_grad_(),
                                  lambda: DataLoader(TensorDataset(X, Y), batch_size=2), lambda: [X], lambda: (X,)],
                         ids=["array", "float64", "with a gradient", "loader", "list", "tuple"])
def test_points_of_any_form_give_the_same_kernel(form):
    assert torch.allclose(kernel()(form()), kernel()(X))


@pytest.mark.parametrize("names", ["0", ["0"], ("0.weight", "0.bias"), (name for name in ["0.bias", "0.weight"])],
                         ids=["word", "list", "tuple", "generator"])
def test_parameters_are_selected_by_names_in_any_form(names):
    assert torch.allclose(kernel(parameters=names)(X), kernel().by_layer(X)["0"], rtol=1e-4)


def test_a_compiled_module_has_the_names_of_the_module_within():
    compiled = torch.compile(MODEL, backend="eager")
    k = ks.kernels.Tangent(compiled)
    assert list(k.by_parameter(X)) == [name for name, _ in MODEL.named_parameters()]
    for names in (["_orig_mod.0"], ["0"], ["_orig_mod.0.weight", "0.bias"]):
        assert torch.equal(ks.kernels.Tangent(compiled, parameters=names)(X), kernel(parameters=["0"])(X))
        assert torch.equal(kernel(parameters=names)(X), kernel(parameters=["0"])(X))
    state = {name: 2 * value for name, value in MODEL.state_dict().items()}
    for known in (state, {f"_orig_mod.{name}": value for name, value in state.items()}):
        assert torch.equal(k.at(known)(X), kernel().at(state)(X))
        assert torch.equal(kernel().at(known)(X), kernel().at(state)(X))
    part = torch.nn.Sequential(torch.compile(MODEL[0], backend="eager"), *MODEL[1:])
    for names in (["0"], ["0._orig_mod.weight", "0.bias"]):
        assert torch.allclose(ks.kernels.Tangent(part, parameters=names)(X), kernel(parameters=["0"])(X))
