"""Sequences with masks, graphs with patterns, and attention: what a matrix of all positions says, and their laws."""

import math

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, OutOfBudget
from kernelscope.kernels.infinite import (
    Aggregate,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    LayerNorm,
    ReLU,
    Residual,
    SelfAttention,
    Serial,
)
from kernelscope.kernels.infinite.images import OfImages
from kernelscope.kernels.infinite.layer import Single
from tests import laws
from tests.infinite.joint import both_of
from tests.laws import assert_close

N, M, CHANNELS, LENGTH = 5, 4, 3, 8


def spread(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prefix(lengths, size):
    """The mask of sequences of these lengths."""
    return (torch.arange(size) < torch.tensor(lengths)[:, None]).double()


def some_graphs(n, nodes, seed=0):
    """Patterns of either sign, not symmetric."""
    return spread(n, nodes, nodes, seed=seed + 100) * (spread(n, nodes, nodes, seed=seed + 200) > 0)


#: Masks with tails, with gaps, with everything, and with nothing.
MASKS = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0, 1, 1], [1] * 8, [0] * 8, [0, 0, 0, 0, 0, 0, 1, 1]])

CONV = Conv(3, 1.3, 0.4)

SEQUENCES = {
    "mean": Serial(CONV, ReLU(), CONV, ReLU(), GlobalAvgPool(), Dense(1.2, 0.3)),
    "flat": Serial(CONV, ReLU(), CONV, ReLU(), Flatten(), Dense(1.2, 0.3), ReLU(), Dense()),
    "pooled": Serial(CONV, ReLU(), AvgPool(2), CONV, ReLU(), AvgPool(2), CONV, ReLU(), Flatten(), Dense(1.2, 0.3)),
    "strided": Serial(Conv(3, 1.3, 0.4, stride=2), ReLU(), Conv(2, 1.3, 0.4, stride=2), ReLU(), Flatten(), Dense()),
    "strided mean": Serial(Conv(4, 1.3, 0.4, stride=2), ReLU(), CONV, ReLU(), GlobalAvgPool(), Dense()),
    "valid": Serial(Conv(3, 1.3, 0.4, padding="valid"), ReLU(), Conv(2, 1.3, 0.4, padding="valid"), ReLU(),
                    GlobalAvgPool(), Dense(1.2, 0.3)),
    "sum": Serial(CONV, ReLU(), CONV, ReLU(), Dense(), GlobalSumPool()),
    "residual": Serial(CONV, Residual(ReLU(), Conv(3, 1.3, 0.4, stride=2), skip=Conv(1, 0.8, 0.2, stride=2)), ReLU(),
                       Flatten(), Dense(1.2, 0.3)),
    "softmax": Serial(CONV, SelfAttention(QK_std=0.7, OV_std=1.4, b_std=0.3), ReLU(), GlobalAvgPool(), Dense()),
    "relu": Serial(SelfAttention("relu", 0.7), CONV, ReLU(), SelfAttention("relu"), GlobalAvgPool(), Dense(1.2, 0.3)),
    "identity": Serial(Dense(1.2, 0.3), SelfAttention("identity", 0.3), ReLU(), Flatten(), Dense()),
}

GRAPHS = {
    "sum": Serial(Aggregate(), Dense(1.3, 0.4), ReLU(), Aggregate(), Dense(1.3, 0.4), ReLU(), GlobalSumPool(), Dense()),
    "mean": Serial(Dense(1.3, 0.4), Aggregate(), ReLU(), Dense(1.3, 0.4), ReLU(), Aggregate(), GlobalAvgPool(),
                   Dense(1.3, 0.4)),
    "attention": Serial(Aggregate(), Dense(1.3, 0.4), ReLU(), SelfAttention(), Flatten(), Dense()),
}


# -- what others have computed ---------------------------------------------------------------------------------------


def determined(shape, c=0.1):
    """Numbers between -1 and 1 that no generator has to make."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    inner = torch.remainder(i * i * 0.5698402909980532, 1)
    return (torch.remainder(i * 0.7548776662466927 + c + inner, 1) * 2 - 1).reshape(shape).mT


def of_edges(edges):
    pattern = torch.eye(6, dtype=torch.float64)
    for p, q in edges:
        pattern[p, q] = pattern[q, p] = 1
    return pattern


#: Of neural-tangents, in double precision.
WINDOWS = {"nngp": [[0.3424776945780379, 0.39093605635747486], [0.2952702504240465, 0.31720413951169296],
                  [0.3552017699314023, 0.3915872257413171]],
         "ntk": [[0.4838837332838242, 0.5636386132893256], [0.40945833344387367, 0.4152997573266194],
                 [0.5038157761712626, 0.5409174807586612]]}
SUM = {"nngp": [[71.17499871897928, 151.31302790915046], [47.00090299018973, 54.27400763133956],
                [111.76802248077445, 146.3239418107034]],
       "ntk": [[75.2161140940019, 249.90286552734514], [84.94056964979981, 73.91261041564063],
               [160.71039857645425, 174.5247098791876]]}
LEFT = [[(0, 1), (1, 4), (2, 4)], [(0, 4)],
        [(0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (2, 5), (4, 5)]]
RIGHT = [[(1, 5), (3, 5), (4, 5)], [(1, 3), (2, 4), (3, 5)]]


def assert_entries(found, known):
    for name, values in known.items():
        true = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(getattr(found, name), true, rtol=1e-12, atol=0)


def test_sequences_are_those_of_neural_tangents():
    net = Serial(Conv(5, 1.5, 0.05), ReLU(), Conv(5, 1.5, 0.05), ReLU(), GlobalAvgPool(), Dense(1.5, 0.05))
    assert_entries(net.both(determined((3, 12, 4)), determined((2, 12, 4), c=0.37)), WINDOWS)


def test_graphs_are_those_of_neural_tangents():
    layers = Aggregate(), Dense(1.5, 0.05), ReLU()
    net = Serial(*layers, *layers, GlobalSumPool(), Dense(1.5, 0.05))
    left, right = (torch.stack([of_edges(edges) for edges in graphs]) for graphs in (LEFT, RIGHT))
    assert_entries(net.both((determined((3, 6, 4)), left), (determined((2, 6, 4), c=0.37), right)), SUM)


# -- against one matrix of all positions -----------------------------------------------------------------------------


def assert_joint(net, points, true):
    """Both matrices of all points, and those of the first of them with the rest, are as found on one matrix."""
    found = net.both(points)
    parts = [tuple(each[part] for each in points) for part in (slice(3), slice(3, None))]
    apart = net.both(*parts)
    for name, matrix in zip(("nngp", "ntk"), true, strict=True):
        assert_close(getattr(found, name), matrix)
        assert_close(getattr(apart, name), matrix[:3, 3:], scale=matrix.abs().max())


@pytest.mark.parametrize("name", SEQUENCES)
def test_masks_are_those_of_the_joint_matrix(name):
    x, net = spread(N, CHANNELS, LENGTH), SEQUENCES[name]
    assert_joint(net, (x, MASKS), both_of(net, x, MASKS))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_those_of_the_joint_matrix(name, masked):
    x, pattern, net = spread(N, CHANNELS, 6), some_graphs(N, 6), GRAPHS[name]
    mask = MASKS[:, :6] if masked else None
    true = both_of(net, x, mask, pattern)
    if not masked:
        return assert_joint(net, (x, pattern), true)
    found = net.both({"x": x, "pattern": pattern, "mask": mask})
    assert_close(found.nngp, true[0])
    assert_close(found.ntk, true[1])


def test_attention_on_images_is_that_on_their_pixels_in_a_row():
    x = spread(N, CHANNELS, 3, 4)
    net = Serial(Dense(1.2, 0.3), SelfAttention(QK_std=0.7, b_std=0.2), ReLU(), GlobalAvgPool(), Dense())
    mask = (spread(N, 3, 4, seed=3) > 0).double()
    for image, row in ((x, x.flatten(2)), ((x, mask), (x.flatten(2), mask.flatten(1)))):
        for found, true in zip(net.both(image), net.both(row), strict=True):
            assert_close(found, true, 1e-13)


def test_the_graph_tangent_kernel_is_that_of_its_authors():
    x, nodes = spread(3, CHANNELS, 5), 5
    pattern = (spread(3, nodes, nodes, seed=7) > 0).double()
    pattern = ((pattern + pattern.mT) > 0).double()
    pattern.diagonal(dim1=1, dim2=2).fill_(1)
    block = Aggregate(), Dense(2**0.5), ReLU(), Dense(2**0.5), ReLU()
    net = Serial(*block, *block, Dense(2**0.5), GlobalSumPool())

    def correlations(i, j):
        """The recursion of the paper for two graphs, on sums of neighbours, with layers of two weights."""
        gather = torch.kron(pattern[i].contiguous(), pattern[j].contiguous())
        sums = lambda matrix: (gather @ matrix.reshape(-1)).reshape(nodes, nodes)
        covariances = {(p, q): sums(x[p].T @ x[q] * 2 / CHANNELS) if (p, q) == (i, j) else
                       pattern[p] @ (x[p].T @ x[q] * 2 / CHANNELS) @ pattern[q] for p, q in {(i, j), (i, i), (j, j)}}
        tangent = covariances[i, j].clone()
        for number in range(2):
            for _ in range(2):
                roots = {p: covariances[p, p].diagonal().sqrt() for p in {i, j}}
                new = {}
                for p, q in covariances:
                    size = torch.outer(roots[p], roots[q])
                    cosine = (covariances[p, q] / size).clamp(-1, 1)
                    angle = cosine.acos()
                    new[p, q] = size * ((math.pi - angle) * cosine + angle.sin()) / math.pi
                    if (p, q) == (i, j):
                        tangent = tangent * (math.pi - angle) / math.pi + new[p, q]
                covariances = new
            if number == 0:
                covariances = {(p, q): pattern[p] @ c @ pattern[q] for (p, q), c in covariances.items()}
                tangent = sums(tangent)
        return tangent.sum()

    true = torch.stack([torch.stack([correlations(i, j) for j in range(3)]) for i in range(3)])
    off = ~torch.eye(3, dtype=torch.bool)
    found = net.ntk((x, pattern))
    assert_close(found[off], true[off], 1e-12)
    # Of a graph with itself the angles are those of equal nodes, which an arc cosine loses half of the digits of.
    assert_close(found, true, 1e-6)


# -- masks -----------------------------------------------------------------------------------------------------------

#: Lengths that every stride and pooling of the networks divides.
SHORTER = [LENGTH, 4]


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_masked_sequence_is_the_shorter_one(name):
    net, x = SEQUENCES[name], spread(6, CHANNELS, LENGTH)
    mask = prefix([LENGTH, 4, LENGTH, 4, LENGTH, 4], LENGTH)
    found = net.both((x, mask))
    for start, length in enumerate(SHORTER):
        some = slice(start, None, 2)
        for masked, short in zip(found, net.both(x[some, :, :length].contiguous()), strict=True):
            assert_close(masked[some, some], short, 1e-13)


@pytest.mark.parametrize("length", range(3, LENGTH + 1))
def test_where_noughts_are_put_around_every_length_is_the_shorter_sequence(length):
    net = Serial(CONV, ReLU(), CONV, Residual(ReLU(), CONV), ReLU(), SelfAttention(), ReLU(), Flatten(), Dense())
    x = spread(N, CHANNELS, LENGTH)
    for masked, short in zip(net.both((x, prefix([length] * N, LENGTH))), net.both(x[..., :length]), strict=True):
        assert_close(masked, short, 1e-13)


@pytest.mark.parametrize("over", ["channels", "all"])
def test_normalization_counts_only_what_is_there(over):
    net, x = Serial(CONV, LayerNorm(over=over), ReLU(), CONV, ReLU(), Flatten(), Dense()), spread(N, CHANNELS, LENGTH)
    for masked, short in zip(net.both((x, prefix([4] * N, LENGTH))), net.both(x[..., :4]), strict=True):
        assert_close(masked, short, 1e-13)


class Cosine(Single):
    """An activation that makes one of nought."""

    def normal(self, before):
        return False

    def variances(self, own):
        return (1 + (-2 * own.a.square()).exp()) / 2

    def between(self, c, a, b):
        size = (-(c.left.square() + c.right.square()) / 2).exp()
        tangent = None if c.tangent is None else c.tangent * size * c.value.sinh()
        return c.after(a, b, size * c.value.cosh(), tangent, lacking=False)


@pytest.mark.parametrize("end", [GlobalAvgPool(), Flatten(), GlobalSumPool()])
def test_what_an_activation_makes_of_nought_is_not_there(end):
    net = Serial(Dense(1.2, 0.3), Cosine(), CONV, Cosine(), end, Dense())
    x = spread(N, CHANNELS, LENGTH)
    for masked, short in zip(net.both((x, prefix([5] * N, LENGTH))), net.both(x[..., :5]), strict=True):
        assert_close(masked, short, 1e-13)


def test_in_the_standard_parameterisation_too():
    net = Serial(CONV, ReLU(), CONV, ReLU(), GlobalAvgPool(), Dense(1.2, 0.3), parameterization="standard")
    x = spread(N, CHANNELS, LENGTH)
    for masked, short in zip(net.both((x, prefix([5] * N, LENGTH))), net.both(x[..., :5]), strict=True):
        assert_close(masked, short, 1e-13)


@pytest.mark.parametrize("end", [GlobalAvgPool(), Flatten(), GlobalSumPool()])
def test_a_masked_image_is_the_smaller_one(end):
    net = Serial(CONV, ReLU(), AvgPool((2, 3)), Conv((3, 2), 1.3, 0.4), ReLU(), end, Dense(1.2, 0.3))
    x, mask = spread(N, CHANNELS, 6, 9), torch.zeros(N, 6, 9)
    mask[:, :4, :6] = 1
    for masked, small in zip(net.both((x, mask)), net.both(x[:, :, :4, :6].contiguous()), strict=True):
        assert_close(masked, small, 1e-13)


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_not_there_does_not_matter(name):
    net, x = SEQUENCES[name], spread(N, CHANNELS, LENGTH)
    other = torch.where(MASKS[:, None] > 0, x, 1e3 * spread(N, CHANNELS, LENGTH, seed=1))
    for found, true in zip(net.both((other, MASKS)), net.both((x, MASKS.bool())), strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=0)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_mask_of_ones_is_no_mask(name):
    net, x, z = SEQUENCES[name], spread(N, CHANNELS, LENGTH), spread(N, CHANNELS, LENGTH, seed=1)
    ones = torch.ones(N, LENGTH)
    for points, others, same in (((x, ones), None, (x,)), ((x, ones), z, (x, z)), (x, {"x": z, "mask": ones}, (x, z))):
        for found, true in zip(net.both(points, others), net.both(*same), strict=True):
            assert_close(found, true, 1e-13)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_point_of_which_nothing_is_there_is_nought(name):
    for found in SEQUENCES[name].both((spread(N, CHANNELS, LENGTH), MASKS)):
        assert bool(found.isfinite().all())
        assert not found[3].any()
        assert not found[:, 3].any()
        assert bool((found[:3:2, :3:2] != 0).all())


def test_what_near_duplicates_lack_stays_exact_under_masks():
    net = Serial(CONV, ReLU(), CONV, ReLU(), CONV, ReLU(), Flatten(), Dense(1.2, 0.3))
    x = spread(4, CHANNELS, LENGTH).float()
    points = torch.cat([x, x + 1e-4 * spread(4, CHANNELS, LENGTH, seed=1).float()])
    mask = MASKS[[0, 1, 2, 4]].repeat(2, 1)
    assert net.keeps
    for found, true in zip(net.both((points, mask)), net.both((points.double(), mask)), strict=True):
        assert found.dtype == torch.float32
        assert float(((found - true) / true).abs().max()) < 2e-6


# -- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_the_order_of_nodes_does_not_matter(name):
    net, x, pattern = GRAPHS[name], spread(N, CHANNELS, 6), some_graphs(N, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = x[:, :, order], pattern[:, order][:, :, order]
    other = spread(M, CHANNELS, 6, seed=1), some_graphs(M, 6, seed=1)
    for left, right, same in ((moved, None, ((x, pattern),)), (moved, other, ((x, pattern), other))):
        for found, true in zip(net.both(left, right), net.both(*same), strict=True):
            assert_close(found, true, 1e-13)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_masked_graph_is_the_smaller_one(name):
    net, x, pattern = GRAPHS[name], spread(N, CHANNELS, 6), some_graphs(N, 6)
    masked = {"x": x, "pattern": pattern, "mask": prefix([4] * N, 6)}
    for found, true in zip(net.both(masked), net.both((x[:, :, :4], pattern[:, :4, :4])), strict=True):
        assert_close(found, true, 1e-13)


def test_a_graph_without_edges_but_those_to_itself_is_a_set_of_nodes():
    x, alone = spread(N, CHANNELS, 6), torch.eye(6).expand(N, 6, 6)
    plain = Serial(Dense(1.3, 0.4), ReLU(), Dense(), GlobalSumPool())
    net = Serial(Aggregate(), *plain.layers)
    for found, true in zip(net.both((x, alone.contiguous())), plain.both(x), strict=True):
        assert_close(found, true, 1e-13)


# -- laws ------------------------------------------------------------------------------------------------------------


def instances():
    found = {}
    for name, net in SEQUENCES.items():
        masks = MASKS[[0, 1, 2, 4, 0]]
        found[f"masked {name}"] = net, lambda n, dtype, device, masks=masks: (
            spread(n, CHANNELS, LENGTH, seed=n).to(device, dtype), masks[:n].to(device))
    for name, net in GRAPHS.items():
        found[f"graph {name}"] = net, lambda n, dtype, device: (
            spread(n, CHANNELS, 6, seed=n).to(device, dtype), some_graphs(n, 6, n).to(device, dtype))
    return found


INSTANCES = instances()


@pytest.mark.parametrize("law", laws.KERNELS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("name", "which"), [("masked flat", "nngp"), ("masked softmax", "ntk"), ("graph sum", "ntk")])
def test_law(name, which, law, dtype, device):
    net, points = INSTANCES[name]
    law(getattr(net, which), points(N, dtype, device), points(M, dtype, device))


@pytest.mark.parametrize("name", INSTANCES)
def test_both_kernels_and_their_difference_are_symmetric_and_have_no_negative_eigenvalue(name):
    net, points = INSTANCES[name]
    nngp, ntk = net.both(points(N, torch.float64, torch.device("cpu")))
    for matrix in (nngp, ntk, ntk - nngp):
        assert torch.equal(matrix, matrix.T)
        values = torch.linalg.eigvalsh(matrix)
        assert values[0] >= -1e-12 * values[-1]


def test_a_machine_is_fitted_on_sequences_with_masks():
    x, y = (spread(N, CHANNELS, LENGTH), MASKS[[0, 1, 2, 4, 0]]), spread(N, 2, seed=5)
    machine = ks.fit(SEQUENCES["mean"].ntk, x, y)
    assert_close(machine(x), y, 1e-6)


@pytest.mark.parametrize("name", ["masked softmax", "masked identity", "graph attention"])
def test_little_memory_is_a_matter_of_time_alone(name):
    net, make = INSTANCES[name]
    points = make(N, torch.float64, torch.device("cpu"))
    small = OfImages(net, "ntk", memory=272 * LENGTH**2)
    assert small._band_size(small.points(points)) < N
    for found, true in zip(small.both(points), net.both(points), strict=True):
        assert_close(found, true, 1e-13)
    assert_close(small.diagonal(points), net.ntk.diagonal(points), 1e-13)
    with pytest.raises(OutOfBudget, match="Raise memory"):
        OfImages(net, "ntk", memory=1000).both(points)


# -- random networks of finite width ---------------------------------------------------------------------------------


class Finite:
    """A random network of finite width for one point at a time: values of shape (positions, channels)."""

    def __init__(self, layers, width, seed):
        self.layers, self.width = layers, width
        self.generator, self.weights = torch.Generator().manual_seed(seed), {}

    def weight(self, name, *shape):
        if name not in self.weights:
            drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
            self.weights[name] = drawn.requires_grad_()
        return self.weights[name]

    def __call__(self, x, mask, pattern):
        there = mask[:, None].double()
        h = x.T * there
        for number, layer in enumerate(self.layers):
            h, there = getattr(self, type(layer).__name__.lower())(layer, number, h, there, pattern)
            h = h * there
        return h.squeeze()

    def random(self, name, h, units):
        return h @ self.weight(name, h.shape[-1], units) / h.shape[-1]**0.5

    def units(self, number):
        return 1 if number == len(self.layers) - 1 else self.width

    def dense(self, layer, number, h, there, pattern):
        units = self.units(number)
        h = layer.W_std * self.random((number, "w"), h, units) + layer.b_std * self.weight((number, "b"), units)
        return h, there

    def conv(self, layer, number, h, there, pattern):
        padded = torch.nn.functional.pad(h, (0, 0, 1, 1))
        seen = sum(self.random((number, s), padded[s:s + len(h)], self.width) for s in range(3)) / 3**0.5
        return layer.W_std * seen + layer.b_std * self.weight((number, "b"), self.width), there

    def relu(self, layer, number, h, there, pattern):
        return h.relu(), there

    def aggregate(self, layer, number, h, there, pattern):
        return pattern.T @ h, there

    def selfattention(self, layer, number, h, there, pattern):
        queries = self.random((number, "q"), h, self.width)
        compared = layer.QK_std * queries @ queries.T / self.width
        weights = compared.masked_fill(there.T == 0, -math.inf).softmax(-1)
        values = weights @ self.random((number, "v"), h, self.width)
        outputs = self.random((number, "o"), values, self.width)
        return layer.OV_std * outputs + layer.b_std * self.weight((number, "b"), self.width), there

    def globalavgpool(self, layer, number, h, there, pattern):
        return h.sum(0, keepdim=True) / there.sum(), there.amax(0, keepdim=True)

    def both(self, x, mask, pattern):
        """The products of gradients: those by the readout alone, which are the NNGP, and those by all weights."""
        outputs = [self(*point) for point in zip(x, mask, pattern, strict=True)]
        total = {True: 0.0, False: 0.0}
        rows = [torch.autograd.grad(output, list(self.weights.values()), retain_graph=True) for output in outputs]
        for (number, _), *gradients in zip(self.weights, *rows, strict=True):
            features = torch.stack([gradient.flatten() for gradient in gradients])
            total[number == len(self.layers) - 1] += features @ features.T
        return torch.stack([total[True], total[True] + total[False]])


RANDOM = {
    "masks": Serial(CONV, ReLU(), CONV, ReLU(), GlobalAvgPool(), Dense(1.2, 0.3)),
    "graphs": Serial(Aggregate(), Dense(1.3, 0.4), ReLU(), Aggregate(), Dense(1.3, 0.4), ReLU(), GlobalAvgPool(),
                     Dense(1.2, 0.3)),
    "attention": Serial(Dense(1.3, 0.4), ReLU(), SelfAttention(OV_std=1.4, b_std=0.3), ReLU(),
                        GlobalAvgPool(), Dense(1.2, 0.3)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_wide_random_networks_come_close(name):
    net, x, mask, pattern = RANDOM[name], spread(3, CHANNELS, 6), MASKS[[0, 1, 4], 2:], some_graphs(3, 6)
    points = {"x": x, "mask": mask} | ({"pattern": pattern} if net.patterned else {})
    networks = [Finite(net.layers, 512, seed).both(x, mask, pattern) for seed in range(8)]
    for found, true in zip(torch.stack(networks).mean(0), net.both(points), strict=True):
        assert_close(found, true, 0.05)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "said"), [
    (torch.ones(N, LENGTH - 1), r"shape \(8,\) for a point of shape \(3, 8\); shape \(7,\) came"),
    (torch.ones(N, CHANNELS, LENGTH), "Leave out the axis of channels"),
    (torch.full((N, LENGTH), 0.5), "other values came"),
    (torch.arange(N * LENGTH).reshape(N, LENGTH), "other values came"),
])
def test_masks_that_are_none_are_refused(mask, said):
    with pytest.raises(DataError, match=said):
        SEQUENCES["mean"].nngp((spread(N, CHANNELS, LENGTH), mask))


@pytest.mark.parametrize(("pattern", "said"), [
    (torch.ones(N, 6, 5), r"shape \(6, 6\) for a point of shape \(3, 6\); shape \(6, 5\) came"),
    (torch.ones(N, 6), "one row and one column for each node"),
    (torch.ones(N, 6, 6, dtype=torch.complex64), "holds finite numbers"),
])
def test_patterns_that_are_none_are_refused(pattern, said):
    with pytest.raises(DataError, match=said):
        GRAPHS["sum"].nngp((spread(N, CHANNELS, 6), pattern))


def test_graphs_come_with_patterns_and_other_points_without():
    x, pattern = spread(N, CHANNELS, 6), some_graphs(N, 6)
    with pytest.raises(DataError, match="no pattern came. Pass one"):
        GRAPHS["sum"].nngp(x)
    with pytest.raises(DataError, match="a pattern came. Leave it out"):
        SEQUENCES["mean"].nngp({"x": x, "pattern": pattern})
    with pytest.raises(DataError, match="Put the nodes on one axis"):
        GRAPHS["sum"].nngp((x.reshape(N, CHANNELS, 2, 3), torch.ones(N, 3, 3)))
    with pytest.raises(DataError, match="needs a pattern of the 3 nodes before it, and the pattern has 6"):
        Serial(Dense(), ReLU(), AvgPool(2), Aggregate(), GlobalAvgPool(), Dense()).nngp((x, pattern))


def test_attention_says_what_it_cannot_do():
    x = spread(N, CHANNELS, 6)
    with pytest.raises(DataError, match='zeta must be "softmax" or "relu" or "identity"'):
        SelfAttention("max")
    with pytest.raises(DataError, match="OV_std must be a number from 0 on"):
        SelfAttention(OV_std=-1.0)
    with pytest.raises(DataError, match="no standard parameterisation"):
        Serial(SelfAttention(), GlobalAvgPool(), Dense(), parameterization="standard").nngp(x)
    with pytest.raises(DataError, match="there are none before it"):
        Serial(Dense(), GlobalAvgPool(), SelfAttention()).nngp(x)


def test_layers_are_written_as_they_are_made():
    layers = Aggregate(), SelfAttention("relu", QK_std=0.5), GlobalSumPool()
    assert repr(Serial(*layers)) == "Serial(Aggregate(), SelfAttention(zeta='relu', QK_std=0.5), GlobalSumPool())"
    assert layers[1].arguments() == {"zeta": "relu", "QK_std": 0.5, "OV_std": 1.0, "b_std": 0.0}
