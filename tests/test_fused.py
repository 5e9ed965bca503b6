"""Products by one program, beside those by torch, which are their oracle.

Off a GPU the program is run by Triton's interpreter, in a process of its own, once for all tests.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.kernels import Gaussian, Laplacian, Matern
from kernelscope.kernels.fused import product
from kernelscope.kernels.fused.product import DIRECT, PRECISIONS, Tiles, chosen, constants, parted
from kernelscope.machine.describing import described, rebuilt
from tests.laws import assert_close

ROOT = Path(__file__).parents[1]

#: The largest error of an entry of K @ w, over the length of w. Measured were 2.5e-7 and 3.4e-3.
SINGLE, ROUNDED = 1e-6, 1e-2


@pytest.fixture(scope="module")
def interpreted():
    if find_spec("triton") is None:
        pytest.skip('needs triton, for its interpreter: pip install "kernelscope[gpu]"')
    call = [sys.executable, "-W", "ignore", "-m", "tests.interpreted"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=280, cwd=ROOT)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip("the interpreter of this triton does not run with a numpy this new; 3.7 does")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_it_is_the_product_in_float64_of_the_points_as_they_were_rounded(interpreted):
    for kind, found in interpreted["errors"].items():
        for precision, rows in found.items():
            for row in rows:
                most = ROUNDED if precision == "bf16" and row["of"] == "true" else SINGLE
                assert row["error"] <= most, (kind, precision, row)


def test_rounding_of_points_is_seen_and_so_was_done(interpreted):
    for found in interpreted["errors"].values():
        assert max(row["error"] for row in found["bf16"] if row["of"] == "true") > 1e-4


def test_equal_points_have_the_kernel_1_exactly(interpreted):
    for kind, ranges in interpreted["copies"].items():
        assert all(least == most == 1 for least, most in ranges), kind


def test_close_points_are_told_apart(interpreted):
    # As by torch, up to some 32 units in the last place; measured were 5e-6, where the points are far from nought.
    assert max(interpreted["neighbours"].values()) <= 8e-6


def test_only_tiles_with_close_points_are_computed_from_differences(interpreted):
    assert max(interpreted["apart"].values()) <= SINGLE


@pytest.mark.parametrize("large", [1e-3, 1.0, 1e5])
def test_halves_of_weights_keep_single_precision(large):
    w = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([large, 1.0, 0.0])
    high, low, scale = product.halves(w)
    assert high.dtype == low.dtype == torch.float16
    assert ((high.double() + low.double()) * scale - w).abs().max() <= 1e-7 * w.abs().max()


def test_no_column_is_lost_or_taken_twice_however_the_work_is_cut(interpreted):
    assert max(interpreted["cuts"]) <= 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_kernel_multiplies_by_the_program_what_it_multiplies_by_torch(interpreted, precision):
    found = interpreted["kernel"][precision]
    assert found["gap"] <= SINGLE
    assert found["true"] <= (ROUNDED if precision == "bf16" else SINGLE)
    # K^T is the product with the roles of the points exchanged.
    assert max(found["turned"], found["adjoint"]) <= SINGLE


@pytest.mark.parametrize("precision", PRECISIONS)
def test_twice_the_same_call_gives_the_same_bits(interpreted, precision):
    assert interpreted["kernel"][precision]["again"]


def test_torch_can_be_asked_for_and_is_taken_for_doubles_and_derivatives(interpreted):
    assert all(found["forced"] for found in interpreted["kernel"].values())


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("d", "c"), [(DIRECT, 1), (64, 1), (64, 10), (300, 64)])
def test_it_is_compiled_for_gpus_whose_processors_have_room_for_it(precision, d, c, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernelscope.kernels.fused import programs

    for kernel, tiles, capability, room in ((Laplacian(), chosen(d, c, precision)[0], 90, 232_448),
                                            (Matern(2.5), chosen(d, c, precision)[-1], 80, 101_376)):
        told = constants(d, kernel._profile, precision, tiles)
        points = "*bf16" if precision == "bf16" else "*fp32"
        kinds = dict.fromkeys(programs.multiply.arg_names, "i32")
        kinds |= dict.fromkeys(("x", "z"), points) | dict.fromkeys(("x_squares", "z_squares", "partial"), "*fp32")
        kinds |= dict.fromkeys(("high", "low"), "*fp32" if c == 1 else "*fp16")
        kinds |= dict.fromkeys(("edge", "least"), "fp32") | dict.fromkeys(told, "constexpr")
        source = ASTSource(fn=programs.multiply, signature=kinds, constexprs=told,
                           attrs={(place,): [["tt.divisibility", 16]] for place in range(10)})
        found = compiled(source, target=GPUTarget("cuda", capability, 32),
                         options={"num_warps": tiles.warps, "num_stages": tiles.stages})
        assert found.asm["cubin"]
        assert found.metadata.shared <= room


# -- without triton --------------------------------------------------------------------------------------------------


def test_the_package_neither_needs_nor_imports_triton():
    code = ("import sys; sys.modules['triton'] = None; import torch; from kernelscope.kernels import Gaussian; "
            "print(Gaussian(1.0).matmul(torch.ones(2, 1), None, torch.ones(2)).tolist())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == "[2.0, 2.0]", done.stderr


def test_a_processor_multiplies_by_torch():
    assert not product.ready(torch.device("cpu"))


def test_tiles_hold_the_problem():
    for precision in PRECISIONS:
        for d in (1, 16, 17, 64, 65, 300):
            for c in (1, 2, 16, 33, 1000):
                for tiles in chosen(d, c, precision):
                    assert (tiles.outputs == 1) == (c == 1)
                    # What the tensor cores of a GPU multiply has sides of at least 16.
                    assert min(tiles.rows, tiles.columns, tiles.inner) >= 16


@pytest.mark.parametrize(("n", "m", "c"), [(1, 10**6, 1), (10**6, 10**6, 10), (100, 100, 1), (10**4, 10**5, 1000)])
def test_columns_are_shared_out_only_as_far_as_there_is_room(n, m, c):
    room = 2**20
    shares = parted(n, m, c, Tiles(128, 64, 32, 16), room, 132)
    assert shares == 1 or (shares * n * c <= room and m // shares >= product.SHARE)


def test_few_rows_are_shared_out_among_all_processors():
    assert parted(128, 10**6, 1, Tiles(128, 64, 32, 1), 2**26, 132) >= 132


# -- rounded points --------------------------------------------------------------------------------------------------


def points(n, d=6, seed=0, shift=5.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.parametrize("make", [Gaussian, Laplacian, lambda *a, **k: Matern(1.5, *a, **k)])
def test_a_kernel_of_rounded_points_is_a_kernel(make):
    x, z = points(30), points(20, seed=1)
    kernel = make(2.0, precision="bf16").fitted(x)
    assert_close(kernel(x, z), kernel(z, x).T, 1e-12)
    whole = kernel(x)
    assert torch.equal(whole.diagonal(), torch.ones(30, dtype=torch.float64))
    assert_close(kernel(x[:7], x[20:]), whole[:7, 20:], 1e-12)  # no entry depends on the other points
    assert float(torch.linalg.eigvalsh(whole)[0]) > -1e-12
    assert_close(kernel.matmul(x, z, torch.ones(20, dtype=x.dtype)), kernel(x, z).sum(1), 1e-10)
    gap = float((whole - make(2.0)(x)).abs().max())
    assert 1e-5 < gap < 2e-2


def test_centred_points_are_rounded_less():
    x = points(40, shift=50.0)
    truth = Laplacian(3.0)(x)
    kernel = Laplacian(3.0, precision="bf16")
    assert (kernel.fitted(x)(x) - truth).abs().max() < 0.2 * (kernel(x) - truth).abs().max()


def test_a_kernel_of_rounded_points_keeps_its_center():
    x = points(40)
    kernel = Gaussian(precision="bf16").fitted(x)
    assert kernel.fitted(x[:3]) is kernel
    assert kernel.center == pytest.approx(x.mean(0).tolist())
    again = Gaussian(kernel.bandwidth, precision="bf16", center=kernel.center)
    assert torch.equal(again(x), kernel(x))
    assert Gaussian(1.0).fitted(x).center is None
    with pytest.raises(DataError, match="center of this kernel has 6 numbers, and points have 2"):
        kernel(x[:, :2])


def test_a_kernel_of_rounded_points_is_made_again_from_its_description():
    kernel = Matern(2.5, 3.0, precision="bf16").fitted(points(20))
    again = rebuilt(json.loads(json.dumps(described(kernel))), "a file")
    assert torch.equal(again(points(5)), kernel(points(5)))


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match='precision must be "exact" or "tf32x3" or "bf16"'):
        Gaussian(1.0, precision="fp8")
    with pytest.raises(DataError, match="fused must be True or False"):
        Gaussian(1.0, fused="no")


def test_a_kernel_says_how_it_rounds():
    assert repr(Laplacian(2.0, precision="bf16")) == "Laplacian(bandwidth=2, precision='bf16')"


# -- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make", [Gaussian, Laplacian, lambda *a, **k: Matern(1.5, *a, **k),
                                  lambda *a, **k: Matern(2.5, *a, **k)])
def test_on_a_gpu_it_is_what_torch_computes(device, make, precision):
    assert product.ready(device)
    for n, m, d, c in ((1, 1, 1, 1), (1000, 5001, 3, 2), (3001, 2500, 64, 1), (513, 9000, 300, 40), (200, 100, 20, 10)):
        x, z = points(n, d).float().to(device), points(m, d, seed=1).float().to(device)
        z[:1] = x[:1]
        w = torch.randn(m, c, device=device)
        kernel = make(d**0.5, precision=precision).fitted(z)
        found = ks.KernelOperator(kernel, x, z) @ w
        truth = kernel(x.double(), z.double()) @ w.double()
        assert float((found - truth).abs().max() / w.norm()) <= 5e-6
        assert torch.equal(found, kernel.matmul(x, z, w))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu_equal_points_have_the_kernel_1_exactly(device, precision):
    x = points(512, 100).float().to(device)
    for make in (Gaussian, Laplacian):
        found = make(10.0, precision=precision).matmul(x, x.clone(), torch.eye(512, device=device))
        assert float((found.diagonal() - 1).abs().max()) == 0


@pytest.mark.gpu
def test_on_a_gpu_no_block_is_written(device):
    x, w = torch.randn(40_000, 64, device=device), torch.randn(40_000, 1, device=device)
    kernel = Gaussian(8.0)
    kernel.matmul(x[:100], None, w[:100])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kernel.matmul(x, None, w)
    assert torch.cuda.max_memory_allocated() - before < 0.02 * 4 * 40_000**2
