import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import nn

from kernelscope.errors import DataError, StoreCorrupt, StoreError
from kernelscope.nn import SNNKLinear, convert
from kernelscope.nn.layers.layer import FORMAT, TOWERS


def layers():
    for tower in TOWERS:
        for skip in (True, False, 2):
            yield SNNKLinear(5, 7, features=6, tower=tower, skip=skip, seed=3)


ids = [f"{tower}-{skip}" for tower in TOWERS for skip in (True, False, 2)]


@pytest.fixture(params=list(range(len(ids))), ids=ids)
def layer(request):
    return list(layers())[request.param]


def towers_by_hand(layer, x):
    """The features of one point, number by number."""
    p, m = layer.tower, layer.tower.size
    if layer.tower_name == "universal":
        x = p.balance @ x + p.offset
    z = [sum(float(g * u) for g, u in zip(row, x, strict=True)) + float(c)
         for row, c in zip(p.rows, p.shifts, strict=True)]
    z = torch.tensor(z, dtype=torch.float64)
    if layer.tower_name == "fourier":
        return torch.cat((z.cos(), z.sin()))[:m]
    if layer.tower_name == "rectified":
        return z.clamp(min=0)
    if layer.tower_name == "neurons":
        return nn.functional.gelu(z)
    height = (p.bases + p.rates * sum(float(u) ** 2 for u in x)).double().exp()
    return torch.cat((height * z.cos(), -height * z.sin()))


def test_a_layer_is_features_times_coefficients_plus_a_linear_skip(layer):
    layer = layer.double()
    x = torch.randn(3, 5, dtype=torch.float64)
    for point, found in zip(x, layer(x), strict=True):
        wanted = layer.coefficients @ towers_by_hand(layer, point) + layer.constant
        if layer.skip is not None:
            wanted = wanted + layer.skip @ (layer.skip_rows @ point if layer.skip_rank else point)
        assert torch.allclose(found, wanted, atol=1e-12)


def test_a_state_dict_gives_the_same_outputs_in_another_layer(layer):
    x = torch.randn(4, 5)
    rank = True if layer.skip_rank is None else layer.skip_rank
    other = SNNKLinear(5, 7, features=6, tower=layer.tower_name, skip=rank, seed=4)
    assert not torch.equal(other(x), layer(x))
    # Rows that were not kept would be drawn anew: here they come through bytes.
    other.load_state_dict(load(save(dict(layer.state_dict()))))
    assert torch.equal(other(x), layer(x))


def test_a_saved_layer_comes_back_equal(layer, tmp_path):
    x = torch.randn(4, 5, dtype=torch.float64)
    layer = layer.double()
    loaded = SNNKLinear.load(layer.save(tmp_path / "layer.safetensors"))
    assert torch.equal(loaded(x), layer(x))
    assert repr(loaded) == repr(layer)
    assert torch.equal(loaded.outside(x), layer.outside(x))


def test_a_function_of_ones_own_is_asked_for_when_its_layer_is_loaded(tmp_path):
    layer = SNNKLinear(5, 7, features=6, activation=lambda z: z**2)
    path = layer.save(tmp_path / "layer.safetensors")
    with pytest.raises(DataError, match="Pass it: SNNKLinear.load"):
        SNNKLinear.load(path)
    x = torch.randn(4, 5)
    assert torch.equal(SNNKLinear.load(path, activation=lambda z: z**2)(x), layer(x))


def test_another_file_is_no_layer(tmp_path):
    path = tmp_path / "layer.safetensors"
    path.write_bytes(save({"a": torch.ones(2)}))
    with pytest.raises(StoreCorrupt, match="holds no layer"):
        SNNKLinear.load(path)
    path.write_bytes(b"no file of tensors")
    with pytest.raises(StoreCorrupt, match="no safetensors file"):
        SNNKLinear.load(path)


@pytest.mark.parametrize("change", [
    {"features": 9}, {"features": 10**13}, {"features": "6"}, {"in_features": 10**13}, {"inner": None}, {"evil": 1},
    {"tower": "magic"}, {"tower": None}, {"activation": "os.system"}, {"skip": 3}, {"skip": False}])
def test_a_header_that_is_not_of_its_tensors_is_refused(change, tmp_path):
    path = SNNKLinear(5, 7, features=6).save(tmp_path / "layer.safetensors")
    with safe_open(str(path), "pt") as file:
        words = json.loads(file.metadata()["layer"])
    path.write_bytes(save(load(path.read_bytes()), {"format": FORMAT, "layer": json.dumps(words | change)}))
    with pytest.raises(StoreCorrupt, match="Save the layer again"):
        SNNKLinear.load(path)


def test_a_file_that_is_cut_or_lacks_a_tensor_is_refused(tmp_path):
    path = SNNKLinear(5, 7, features=6).save(tmp_path / "layer.safetensors")
    whole = path.read_bytes()
    with safe_open(str(path), "pt") as file:
        header = file.metadata()
    for name in load(whole):
        path.write_bytes(save({key: value for key, value in load(whole).items() if key != name}, header))
        with pytest.raises(StoreCorrupt, match="Save the layer again"):
            SNNKLinear.load(path)
    path.write_bytes(save(load(whole), header | {"layer": "[1]"}))
    with pytest.raises(StoreCorrupt, match="Save the layer again"):
        SNNKLinear.load(path)
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreCorrupt, match="no safetensors file"):
            SNNKLinear.load(path)


def test_an_odd_number_of_universal_features_is_one_less():
    layer = SNNKLinear(5, 7, features=7, tower="universal")
    assert layer.tower.size == 6
    assert layer(torch.randn(2, 5)).shape == (2, 7)


def test_projections_move_with_the_layer_and_are_not_trained(layer):
    assert {name.split(".")[-1] for name, _ in layer.named_parameters()} <= {"coefficients", "skip", "constant"}
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
    x = torch.randn(4, 5)
    assert bool(half(x.bfloat16()).isfinite().all())
    assert torch.allclose(layer.double()(x.double()).float(), layer.float()(x), atol=1e-5)


def test_a_table_and_a_batch_of_tables_give_the_same(layer):
    x = torch.randn(2, 3, 5)
    assert torch.allclose(layer(x), layer(x.reshape(6, 5)).reshape(2, 3, 7), atol=1e-6)
    assert layer.outside(x).shape == (2, 3)


def test_no_random_state_of_the_users_is_touched():
    before = torch.get_rng_state()
    layer = SNNKLinear(5, 7, features=6)
    layer(torch.zeros(1, 5))
    convert(layer_to_convert(), "tanh", points(), 4)
    assert torch.equal(torch.get_rng_state(), before)


def layer_to_convert():
    linear = nn.utils.skip_init(nn.Linear, 5, 7)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(7, 5, generator=draw))
        linear.bias.copy_(torch.randn(7, generator=draw))
    return linear


def points(n=200):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(2))


def test_the_same_seed_gives_the_same_layer_and_another_seed_another():
    one, same, other = (SNNKLinear(5, 7, 6, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.tower.rows, other.tower.rows)


def test_gradients_are_those_of_differences(layer):
    layer = layer.double()
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    if layer.tower_name == "rectified":
        assert bool((layer.tower.projected(x).abs() > 1e-3).all())
    assert torch.autograd.gradcheck(layer, (x,))


def test_the_layer_is_the_machine_of_its_own_kernel(layer):
    layer = layer.double()
    x = torch.randn(6, 5, dtype=torch.float64)
    phi = layer.feature_map.phi(x)
    parts = [layer.coefficients, layer.constant[:, None]]
    if layer.skip is not None:
        parts.insert(1, layer.skip)
    assert torch.allclose(phi @ torch.cat(parts, 1).T, layer(x), atol=1e-12)
    assert torch.allclose(layer.kernel(x), phi @ phi.T, atol=1e-12)


def test_points_beyond_those_of_the_fit_are_outside():
    layer, _ = convert(layer_to_convert(), "tanh", points(), 4, held_out=0.25)
    x = points()
    assert float(layer.outside(x).double().mean()) < 0.05
    assert bool(layer.outside(100 * x).all())
    assert bool(layer.outside(x / 1e4).all())
    assert not bool(SNNKLinear(5, 7, 4).outside(100 * x).any())


def test_multiplications_are_those_of_its_products(layer):
    m, width = layer.tower.size, 0 if layer.skip is None else layer.skip.shape[1]
    wanted = layer.tower.rows.shape[0] * layer.tower.rows.shape[1] + 7 * (m + width)
    wanted += 5 * (layer.skip_rank or 0) + (25 if layer.tower_name == "universal" else 0)
    assert layer.multiplications == wanted


@pytest.mark.parametrize(("options", "words"), [
    ({"tower": "waves"}, "tower must be"), ({"skip": 9}, "at most 5"), ({"features": -1}, "features must be"),
    ({"activation": 3}, "activation must be"), ({"kind": "strange"}, "kind must be")])
def test_what_is_no_layer_is_refused(options, words):
    with pytest.raises(DataError, match=words):
        SNNKLinear(5, 7, **{"features": 6} | options)


def test_a_layer_with_a_flipped_bit_is_refused(tmp_path):
    path = SNNKLinear(5, 7, features=6).save(tmp_path / "layer.safetensors")
    data = path.read_bytes()
    words = data.index(b'neurons')
    for place in (len(data) - 1, len(data) - 400, words):
        bad = bytearray(data)
        bad[place] ^= 1
        path.write_bytes(bad)
        with pytest.raises(StoreCorrupt, match="checksum"):
            SNNKLinear.load(path)
    path.write_bytes(data)
    assert SNNKLinear.load(path).features == 6


def test_what_is_no_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors", "."):
        with pytest.raises(StoreError, match="cannot be read as a file|is a folder, a pipe or a device"):
            SNNKLinear.load(path)
