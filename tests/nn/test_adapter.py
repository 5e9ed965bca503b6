"""Adapters begin as nothing, learn, and are moved, copied, kept and taken out again without a trace."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, StoreCorrupt, StoreExists
from kernelscope.nn import Injected, SNNKAdapter, inject, load_adapters, save_adapters

D = 6


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def taught(adapter, seed=0):
    """Its parameters as if it had been trained."""
    with torch.no_grad():
        for i, p in enumerate(adapter.parameters()):
            p.copy_(random(*p.shape, seed=seed + i).to(p))
    return adapter


class Encoder(nn.Module):
    """Blocks of a layer of hidden neurons each, one of which gives a tuple, and dropout between."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(D, 8), nn.GELU(), nn.Linear(8, D))
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x + self.mlp(x)), "weights"

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))
        self.head = nn.Linear(D, 2)

    def forward(self, x):
        for block in self.blocks:
            x, _ = block(x)
        return self.head(x)


@pytest.fixture
def model():
    return Encoder().double()


@pytest.mark.parametrize("form", ["added", "scaled"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_adapter_begins_as_the_identity_bit_for_bit(form, dtype):
    x = random(4, 5, D, dtype=dtype) * 1e3
    adapter = SNNKAdapter(D, 3, form=form, dtype=dtype)
    assert torch.equal(adapter(x), x)
    assert not torch.equal(taught(adapter)(x), x)


@pytest.mark.parametrize("form", ["added", "scaled"])
def test_an_adapter_is_its_formula_by_loops(form):
    adapter, x = taught(SNNKAdapter(D, 3, form=form, dtype=torch.float64)), random(4, D, seed=5)
    g, psi, vector = adapter.directions, adapter.psi, adapter.vector
    with torch.no_grad():
        found = adapter(x)
        for i in range(4):
            phi = [math.sqrt(2 / 3) * max(0.0, sum(float(g[j, k] * x[i, k]) for k in range(D))) for j in range(3)]
            for k in range(D):
                sums = sum(float(psi[k, j]) * phi[j] for j in range(3))
                more = sums + float(vector[k]) if form == "added" else sums * float(vector[k])
                assert float(found[i, k]) == pytest.approx(float(x[i, k]) + more, abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 9])
def test_d_times_m_plus_1_numbers_are_trained(m):
    for form in ("added", "scaled"):
        adapter = SNNKAdapter(D, m, form=form)
        assert sum(p.numel() for p in adapter.parameters() if p.requires_grad) == D * (m + 1)
        assert f"{D * (m + 1)} trainable parameters" in repr(adapter)


def test_the_first_form_is_linear_in_what_is_trained():
    x, one, other = random(4, D), *(taught(SNNKAdapter(D, 3, dtype=torch.float64), seed) for seed in (1, 7))
    both = SNNKAdapter(D, 3, dtype=torch.float64)
    with torch.no_grad():
        for p, a, b in zip(both.parameters(), one.parameters(), other.parameters(), strict=True):
            p.copy_(2 * a - 3 * b)
        torch.testing.assert_close(both(x) - x, 2 * (one(x) - x) - 3 * (other(x) - x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("form", ["added", "scaled"])
def test_a_trained_adapter_comes_back_from_its_state(form):
    adapter, x = taught(SNNKAdapter(D, 3, form=form, seed=4)), random(5, D, dtype=torch.float32)
    again = SNNKAdapter(D, 3, form=form, seed=99)
    assert not torch.equal(again.directions, adapter.directions)
    again.load_state_dict(adapter.state_dict())
    assert torch.equal(again(x), adapter(x))


def test_directions_move_and_change_type_with_the_parameters():
    adapter = taught(SNNKAdapter(D, 3)).to(torch.float64)
    assert {t.dtype for t in adapter.state_dict().values()} == {torch.float64}
    assert adapter(random(2, D)).dtype == torch.float64
    assert {t.device.type for t in SNNKAdapter(D, 3).to("meta").state_dict().values()} == {"meta"}
    assert "directions" not in dict(adapter.named_parameters())


@pytest.mark.gpu
def test_adapters_on_a_device_give_what_they_give_elsewhere(device):
    adapter, x = taught(SNNKAdapter(D, 3, dtype=torch.float64)), random(4, D)
    torch.testing.assert_close(copy.deepcopy(adapter).to(device)(x.to(device)).cpu(), adapter(x), atol=1e-12, rtol=0)


def test_no_random_number_of_anybody_else_is_used(model):
    before = torch.get_rng_state()
    for form in ("added", "scaled"):
        SNNKAdapter(D, 3, form=form)(random(4, D, dtype=torch.float32))
    inject(model, "blocks.*.mlp", inputs=random(2, D), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_says_which_directions():
    one, same, other = (SNNKAdapter(D, 3, seed=seed).directions for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_points_alone_in_rows_and_in_sequences_give_the_same():
    adapter, x = taught(SNNKAdapter(D, 3, dtype=torch.float64)), random(4, 5, D)
    for shape in ((20, D), (2, 2, 5, D)):
        torch.testing.assert_close(adapter(x.reshape(shape)), adapter(x).reshape(shape), atol=1e-14, rtol=0)
    torch.testing.assert_close(adapter(x[1, 2]), adapter(x)[1, 2], atol=1e-14, rtol=0)


def test_gradients_are_those_of_differences():
    adapter, x = taught(SNNKAdapter(D, 3, dtype=torch.float64)), random(4, D).requires_grad_()
    names = [name for name, _ in adapter.named_parameters()]

    def f(x, *values):
        return torch.func.functional_call(adapter, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x, *adapter.parameters()))


@pytest.mark.parametrize("form", ["added", "scaled"])
def test_an_adapter_learns_from_its_first_step(form):
    x, adapter = random(64, D), SNNKAdapter(D, 12, form=form, dtype=torch.float64)
    target = taught(SNNKAdapter(D, 12, form=form, dtype=torch.float64), 3)(x).detach()
    optimizer, losses = torch.optim.Adam(adapter.parameters(), lr=0.1), []
    for _ in range(300):
        loss = F.mse_loss(adapter(x), target)
        optimizer.zero_grad()
        loss.backward()
        assert any(p.grad.abs().max() > 0 for p in adapter.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("value", [torch.ones(3, D + 1), torch.tensor(1.0), "x"])
def test_inputs_of_another_width_are_refused(value):
    with pytest.raises(DataError, match=r"last axis has 6 entries; .* came\. Make one"):
        SNNKAdapter(D, 3)(value)


@pytest.mark.parametrize(("options", "said"), [
    ({"d": 0}, "d must be"), ({"features": 0}, "features must be"), ({"features": 2.5}, "features must be"),
    ({"kind": "odd"}, "kind must be"), ({"form": "odd"}, "form must be"), ({"seed": -1}, "seed must be"),
    ({"dtype": torch.int64}, "real numbers"),
])
def test_arguments_that_are_none_are_refused(options, said):
    with pytest.raises(DataError, match=said):
        SNNKAdapter(**{"d": D, **options})


def test_a_model_with_adapters_begins_as_it_was_and_itself_stays_so(model):
    x, before = random(4, D), copy.deepcopy(model.state_dict())
    model.eval()
    injected = inject(model, "blocks.*.mlp", features=3)
    assert torch.equal(injected.model(x), model(x))
    for adapter in injected.adapters.values():
        taught(adapter)
    assert not torch.equal(injected.model(x), model(x))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_only_adapters_and_what_is_named_is_trained(model):
    injected = inject(model, "blocks.*.mlp", features=3, train=["head", "blocks.*.mlp.0.bias"])
    names = {name for name, _ in injected.named_parameters()}
    adapters = {f"blocks.{i}.mlp.snnk_adapter.{p}" for i in range(3) for p in ("psi", "vector")}
    assert names == adapters | {"head.weight", "head.bias"} | {f"blocks.{i}.mlp.0.bias" for i in range(3)}
    assert injected.count == 3 * D * 4 + 14 + 3 * 8
    assert repr(injected).startswith(f"3 adapters with {3 * D * 4} parameters and {14 + 24} of the model are trained")
    frozen = {name: p.detach().clone() for name, p in injected.model.named_parameters() if name not in names}
    optimizer = torch.optim.SGD(injected.parameters(), lr=0.1, weight_decay=0.1)
    injected.model(random(4, D)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(injected.model.get_parameter(name), value) for name, value in frozen.items())


def test_every_layer_has_an_adapter_of_its_own(model):
    adapters = list(inject(model, "blocks.*.mlp", features=3).adapters.values())
    assert len({id(adapter) for adapter in adapters}) == 3
    assert len({id(p) for adapter in adapters for p in adapter.parameters()}) == 6
    assert not torch.equal(adapters[0].directions, adapters[1].directions)
    assert not torch.equal(adapters[1].directions, adapters[2].directions)


@pytest.mark.parametrize("targets", ["blocks.*.mlp", "blocks.*.mlp.2", "blocks.*", ["head", "blocks.0.mlp"]])
def test_an_adapter_follows_its_layer_be_it_a_chain_or_one_that_gives_a_tuple(model, targets):
    model.eval()
    injected, x = inject(model, targets, features=3, inputs=random(1, D)), random(4, D)
    for i, adapter in enumerate(injected.adapters.values()):
        taught(adapter, seed=10 * i)
    after = lambda name, value: injected.adapters[name](value) if name in injected.adapters else value  # noqa: E731
    value = x
    for i, block in enumerate(model.blocks):
        hidden = after(f"blocks.{i}.mlp.2", block.mlp[2](block.mlp[1](block.mlp[0](value))))
        value = after(f"blocks.{i}", value + after(f"blocks.{i}.mlp", hidden))
    assert torch.equal(injected.model(x), after("head", model.head(value)))


def test_a_copy_of_a_model_with_adapters_uses_its_own(model):
    injected, x = inject(model.eval(), "blocks.*.mlp.2", features=3), random(4, D)
    for adapter in injected.adapters.values():
        taught(adapter)
    twin = copy.deepcopy(injected.model)
    assert torch.equal(twin(x), injected.model(x))
    before = twin(x)
    taught(injected.adapters["blocks.0.mlp.2"], seed=5)
    assert torch.equal(twin(x), before)


def test_the_fast_path_of_transformers_does_not_pass_adapters_by():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    injected, x = inject(model, "layers.*.linear2", features=3), random(2, 5, 8, dtype=torch.float32)
    torch.testing.assert_close(injected.model(x), model(x))
    for adapter in injected.adapters.values():
        taught(adapter)
    slow = injected.model(x)
    with torch.no_grad():
        fast = injected.model(x)
    torch.testing.assert_close(fast, slow.detach())
    assert float((fast - model(x)).detach().abs().max()) > 0.1


@pytest.mark.parametrize("targets", ["blocks.*.mlp", "blocks.*.mlp.2"])
def test_taken_out_adapters_leave_the_model_as_it_was(model, targets):
    model.eval().blocks[0].requires_grad_(False)
    x, before = random(4, D), copy.deepcopy(model)
    injected = inject(model, targets, features=3, train="blocks.0", in_place=True)
    assert injected.model is model
    for adapter in injected.adapters.values():
        taught(adapter)
    assert not torch.equal(model(x), before(x))
    assert injected.remove() is model
    assert torch.equal(model(x), before(x))
    assert model.state_dict().keys() == before.state_dict().keys()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == {
        n: p.requires_grad for n, p in before.named_parameters()}
    assert not any(module._forward_hooks for module in model.modules())
    assert inject(model, targets, in_place=True).count == 3 * D * 9


def test_modes_stay_as_they_are_and_inputs_only_tell_widths(model):
    model.train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    injected = inject(model, "blocks.*", inputs=(random(2, D),), in_place=True)
    injected.remove()
    assert [module.training for module in model.modules()] == modes


def test_merging_is_refused_with_the_reason(model):
    for made in (SNNKAdapter(D), inject(model, "head")):
        with pytest.raises(ModelError, match="cannot be merged .* not linear in their input"):
            made.merge()


@pytest.mark.parametrize(("options", "error", "said"), [
    ({"model": "model"}, DataError, "placed in a torch.nn.Module; 'model' came"),
    ({"targets": "blocks.*.ffn"}, DataError, r"targets='blocks.\*.ffn' fits no layer of the model. It has 'blocks'"),
    ({"targets": []}, DataError, "targets is empty"),
    ({"targets": 3}, DataError, "targets must be the name of a layer"),
    ({"train": "tail"}, DataError, "train='tail' fits no parameter"),
    ({"targets": "blocks.*"}, ModelError, "does not tell how many numbers it gives. Pass a batch"),
    ({"targets": "blocks", "inputs": torch.ones(2, D, dtype=torch.float64)}, ModelError, "is not used"),
    ({"in_place": "no"}, DataError, "in_place must be True or False"),
    ({"features": 0}, DataError, "features must be"),
])
def test_what_cannot_be_placed_is_refused(model, options, error, said):
    with pytest.raises(error, match=said):
        inject(**{"model": model, "targets": "blocks.*.mlp", **options})
    assert not any(isinstance(module, SNNKAdapter) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_a_second_adapter_at_the_same_place_is_refused(model):
    injected = inject(model, "blocks.0.mlp")
    with pytest.raises(ModelError, match="has an adapter already"):
        inject(injected.model, "blocks.*.mlp")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["added", "scaled"])
def test_kept_adapters_give_equal_outputs_in_another_copy(model, tmp_path, dtype, form):
    model = model.to(dtype).eval()
    injected = inject(model, ["blocks.*.mlp", "blocks.1.mlp.0"], features=3, train="head", form=form, seed=5)
    for p in injected.parameters():
        with torch.no_grad():
            p.add_(random(*p.shape, seed=p.numel()).to(p))
    folder, x = save_adapters(injected, tmp_path / "kept"), random(4, D).to(dtype)
    again = load_adapters(model, folder)
    assert isinstance(again, Injected)
    assert torch.equal(again.model(x), injected.model(x))
    assert not torch.equal(again.model(x), model(x))
    assert repr(again) == repr(injected)
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in injected.named_parameters()}


def test_what_is_kept_is_tensors_and_json(model, tmp_path):
    folder = save_adapters(inject(model, "blocks.*.mlp", features=3, seed=5), tmp_path / "kept")
    files = sorted(file.name for file in folder.iterdir() if file.suffix in (".json", ".safetensors"))
    assert files == ["manifest.json", "segment-00000000.safetensors"]
    meta = json.loads((folder / "manifest.json").read_text())["body"]["meta"]
    assert [said["after"] for said in meta["adapters"]] == [f"blocks.{i}.mlp" for i in range(3)]
    assert all(set(said) == {"after", "d", "features", "form", "kind", "seed"} for said in meta["adapters"])
    assert meta["version"]
    with pytest.raises(StoreExists):
        save_adapters(inject(model, "head"), folder)
    save_adapters(inject(model, "head"), folder, overwrite=True)
    assert list(load_adapters(model, folder).adapters) == ["head"]


def test_adapters_of_another_model_are_refused(model, tmp_path):
    folder = save_adapters(inject(model, "blocks.*.mlp", features=3, train="head"), tmp_path / "kept")
    smaller, shuffled, trained, renamed, headless = (copy.deepcopy(model) for _ in range(5))
    smaller.blocks[0].mlp[0] = nn.Linear(D, 7).double()
    with torch.no_grad():
        trained.blocks[2].mlp[2].weight.mul_(1 + 1e-12)
        shuffled.blocks[1].mlp[0].weight.copy_(model.blocks[1].mlp[0].weight.flip(0))
    del renamed.blocks[2]
    headless.head = nn.Linear(D, 3).double()
    for other, said in ((smaller, "with shape"), (shuffled, "checksum of .*blocks.1.mlp.0.weight"),
                        (trained, "belongs to another model: the checksum of"),
                        (renamed, "none of that name"), (headless, "trained parameter 'head")):
        with pytest.raises(DataError, match=said):
            load_adapters(other, folder)
    with pytest.raises(DataError, match="torch.nn.Module"):
        load_adapters("model", folder)
    assert load_adapters(copy.deepcopy(model).float(), folder).model(random(1, D).float()).dtype == torch.float32


def test_a_damaged_folder_and_removed_adapters_are_refused(model, tmp_path):
    injected = inject(model, "blocks.*.mlp")
    folder = save_adapters(injected, tmp_path / "kept")
    file = folder / "segment-00000000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        load_adapters(model, folder)
    injected.remove()
    with pytest.raises(DataError, match="one without adapters came"):
        save_adapters(injected, tmp_path / "other")


def test_fine_tuning_with_adapters_is_recorded_and_decomposed():
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    injected = ks.nn.inject(model, "0", features=3, train="2")
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(12) % 2
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    optimizer = torch.optim.SGD(injected.parameters(), lr=0.1)
    with ks.record(injected.model, loader, loss=nn.functional.cross_entropy) as recording:
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(injected.model(inputs), targets).backward()
            optimizer.step()
    # A copy without the adapters would be another network, whose outputs moved otherwise.
    ledger = ks.decompose(recording.run, x[:3], dtype=torch.float64)
    assert float((ledger.final - injected.model(x[:3]).detach()).abs().max()) < 1e-12
    assert float(ledger.residual.abs().max()) < 1e-10
    assert float(ledger.channels["unattributed"].abs().max()) == 0


@pytest.mark.parametrize(("kept", "other"), [
    (torch.float64, torch.float32), (torch.float64, torch.bfloat16), (torch.float32, torch.float16),
    (torch.float32, torch.float64), (torch.float16, torch.float32)])
def test_a_model_that_was_rounded_is_the_same_model(model, tmp_path, kept, other):
    model = model.to(kept)
    folder = save_adapters(inject(model, "head"), tmp_path / "kept")
    assert load_adapters(copy.deepcopy(model).to(other), folder).count == 2 * 9
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.blocks[0].mlp[0].weight.mul_(1.1)
    with pytest.raises(DataError, match="belongs to another model"):
        load_adapters(changed.to(other), folder)


@pytest.mark.parametrize("targets", ["blocks.*.mlp", "blocks.*.mlp.2"])
@pytest.mark.parametrize("in_place", [False, True])
def test_adapters_are_not_placed_twice(model, tmp_path, targets, in_place):
    injected, x = inject(model.eval(), targets, features=3), random(4, D)
    for adapter in injected.adapters.values():
        taught(adapter)
    folder, wanted = save_adapters(injected, tmp_path / "kept"), injected.model(x)
    for other in (injected.model, inject(model, "head").model):
        with pytest.raises(ModelError, match="has an adapter at .* already.*Take adapters out first"):
            load_adapters(other, folder, in_place=in_place)
    assert torch.equal(injected.model(x), wanted)
    again = load_adapters(injected.remove(), folder, in_place=in_place)
    assert torch.equal(again.model(x), wanted)


def test_adapters_that_were_frozen_belong_to_the_model(model, tmp_path):
    first = inject(model.eval(), "blocks.0.mlp.2").model
    second, x = inject(first, "head"), random(4, D)
    taught(second.adapters["head"])
    again = load_adapters(first, save_adapters(second, tmp_path / "kept"))
    assert torch.equal(again.model(x), second.model(x))


def test_a_layer_under_two_names_is_said_to_be_one():
    layer = nn.Linear(D, D)
    model = nn.ModuleDict({"a": layer, "b": layer})
    with pytest.raises(DataError, match="The layer 'b' is the layer 'a' under another name.*Name it 'a' alone"):
        inject(model, ["a", "b"])
    assert list(inject(model, "a").adapters) == ["a"]
