import pytest
import torch

# It asks for triton's interpreter, in a process of its own; to read it here would ask for it in all tests.
collect_ignore = ["interpreted.py"]


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device the tests run on, for example cuda (default: cpu)")
    parser.addoption("--dtype", default="float64", help="floating point type of the tests (default: float64)")


def pytest_configure(config):
    # The tensors are small: more threads would only wait for each other, and a forked child would wait for ever.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device").startswith("cuda"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU: run with --device cuda"))


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request):
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(autouse=True)
def _same_seed_for_every_test():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
