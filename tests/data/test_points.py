"""Points are the same points wherever they come from: each source against slices of the tensors it was made of."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kernelscope.data.points import Points, as_points
from kernelscope.errors import DataError, NonFiniteError
from tests.points import NAMED, SOURCES, N, Samples, X, Y, array, chunks, each, same


@each({**SOURCES, **NAMED})
def test_every_part_and_every_choice_is_a_slice_of_the_tensors(source, tmp_path):
    points = as_points(source(tmp_path), targets=True)
    assert len(points) == N
    for start, stop in ((0, N), (0, 1), (3, 9), (10, 11), (7, 99)):
        same(points.part(start, stop), X[start:stop], Y[start:stop])
    numbers = [8, 3, 3, 0, 10]
    same(points.chosen(numbers).part(0, 5), X[numbers], Y[numbers])
    same(points.chosen(range(2, 9)).part(1, 3), X[3:5], Y[3:5])
    same(points.chosen(range(0, 9, 2)).part(1, 4), X[2:8:2], Y[2:8:2])
    same(points.chosen(numbers).chosen([4, 1]).part(0, 2), X[[10, 3]], Y[[10, 3]])


@each({name: source for name, source in {**SOURCES, **NAMED}.items()
       if "data set" in name or name.startswith("loader") or name == "list of samples"})
def test_a_data_set_gives_its_inputs_alone_where_targets_are_not_asked_for(source, tmp_path):
    same(as_points(source(tmp_path)).part(2, 7), X[2:7], None)


def test_without_targets_every_tensor_is_an_input():
    part = as_points((X, Y)).part(0, 2)
    assert [len(arg) for arg in part.args] == [2, 2]
    part = as_points({"x": X, "labels": Y}).part(0, 2)
    assert sorted(part.kwargs) == ["labels", "x"]


@pytest.mark.parametrize("source", [lambda _: X, lambda _: X.numpy(), lambda f: array(f / "x.npy", X),
                                    lambda f: chunks(f, X, "x"), lambda _: TensorDataset(X),
                                    lambda _: Samples(lambda i: X[i]), lambda _: DataLoader(Samples(lambda i: X[i]))])
def test_inputs_alone_are_points_and_have_no_targets(source, tmp_path):
    same(as_points(source(tmp_path)).part(1, 6), X[1:6], None)
    with pytest.raises(DataError, match="target"):
        as_points(source(tmp_path), targets=True).part(0, 1)


def test_a_sample_of_several_inputs_keeps_their_nesting():
    points = as_points(Samples(lambda i: ((X[i], X[i] + 1), Y[i])), targets=True)
    (first, second), = points.part(0, 2).args
    assert torch.equal(second, first + 1)


def test_points_are_points_already():
    points = as_points(X)
    assert as_points(points, targets=True) is points


# -- what is refused -------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class WithoutLength(Dataset):
    def __getitem__(self, i):
        return X[i]


@pytest.mark.parametrize(("source", "match"), [
    (Stream(), "iterable"),
    (DataLoader(Stream()), "iterable"),
    (WithoutLength(), "iterable"),
    (X[:0], "no rows"),
    (TensorDataset(X[:0], Y[:0]), "no rows"),
    ([], "no points"),
    ({}, "no points"),
    ((), "no points"),
    (torch.tensor(1.0), "leading axis"),
    ((X, Y[:5]), r"one row of each tensor.*\(11, 3\), \(5,\)"),
    ({"x": X, "mask": Y[:5]}, "one row of each tensor"),
    ({"x": X, "text": ["a"] * N}, "'a' is neither"),
    ({"x": X, "text": [1, 2]}, "entry 'text' is a list"),
    ({"x": X, "cache": None}, "entry 'cache' is a NoneType"),
    (np.array([{"a": 1}], dtype=object), "arrays of numbers.*object"),
    (np.array(["a", "b"]), "arrays of numbers"),
    (np.array(["2020-01-01"], dtype="datetime64[D]"), "arrays of numbers"),
    ([[1.0, 2.0], [3.0, 4.0]], "a list came. Use torch.as_tensor"),
    ([1.0, 2.0], "a list came"),
    (3.0, "a float came"),
    (torch.eye(3).to_sparse(), "dense tensors.*to_dense"),
    (None, "a NoneType came"),
    (torch.nn.Sequential(torch.nn.Linear(3, 1)), "a Sequential came"),
    (iter([X]), "came"),
], ids=lambda value: None if isinstance(value, str) else type(value).__name__)
def test_what_are_no_points_is_refused(source, match):
    with pytest.raises(DataError, match=match):
        as_points(source)


def test_a_table_of_something_else_than_numbers_is_refused():
    pandas = pytest.importorskip("pandas")
    words = pandas.DataFrame({"a": [1.0, 2.0], "word": ["b", "c"]})
    for source in (words, (words, torch.ones(2)), {"x": words}):
        with pytest.raises(DataError, match=r"DataFrame of points.*its column 'word' \((object|str)\)"):
            as_points(source)
    for odd in (words["word"], words["word"].astype("category")):
        with pytest.raises(DataError, match="A Series of points.*holds object"):
            as_points((torch.ones(2, 3), odd), targets=True)


def test_tensors_in_a_list_are_told_how_points_are_put_together():
    with pytest.raises(DataError, match=r"shapes \(4, 3\), \(4, 3\), \(3, 3\)\. .*torch\.cat"):
        as_points(list(X.split(4)))
    with pytest.raises(DataError, match=r"\(3,\), \(3,\), \(3,\), \(3,\), and 7 more.*torch\.stack"):
        as_points([*X[:10], X[0][:2]])


def test_targets_may_not_come_twice_nor_without_a_loss():
    with pytest.raises(DataError, match="came twice"):
        as_points(({"x": X, "labels": Y}, Y), targets=True)
    with pytest.raises(DataError, match="Pass the dictionary"):
        as_points(({"x": X}, Y))


@pytest.mark.parametrize(("make", "match"), [
    (lambda i: torch.ones(i + 1), "samples 0 to 10 could not be put together.*collate_fn"),
    (lambda i: (X[i], object()), "could not be put together"),
    (lambda i: {"x": X[i], "text": "abc"}, "entry 'text' of the points is a list"),
    (lambda i: {"input_ids": [1, 2, 3]}, "entry 'input_ids' of the points is a list"),
    (lambda i: ("abc", Y[i]), "entry 0 of the points is a str"),
], ids=["ragged", "no tensor", "text", "lists of numbers", "texts"])
def test_samples_that_do_not_fit_together_are_refused_when_they_are_read(make, match):
    points = as_points(Samples(make))
    with pytest.raises(DataError, match=match):
        points.part(0, N)


def test_a_collate_that_loses_samples_is_refused():
    points = as_points(DataLoader(Samples(lambda i: X[i]), batch_size=4, collate_fn=lambda xs: torch.stack(xs).mean(0)))
    with pytest.raises(DataError, match="11 points need as many rows"):
        points.part(0, N)


def test_an_error_of_the_data_set_is_its_own():
    with pytest.raises(ZeroDivisionError):
        as_points(Samples(lambda i: 1 / 0)).part(0, 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("make", [lambda x: x, lambda x: {"x": x}, lambda x: (x, Y), lambda x: TensorDataset(x),
                                  lambda x: Samples(lambda i: x[i]), lambda x: x.numpy(), lambda x: x[:, 0]])
def test_a_point_that_is_not_finite_is_named_when_it_is_read(make, bad):
    x = X.clone()
    x[7, 0] = bad
    points = as_points(make(x))
    points.part(0, 7)
    with pytest.raises(NonFiniteError, match="Point 7 holds NaN"):
        points.part(5, N)
    with pytest.raises(NonFiniteError, match="Point 7 holds NaN"):
        points.chosen([0, 7]).part(0, 2)


def test_targets_are_looked_at_too():
    with pytest.raises(NonFiniteError, match="entry 1"):
        as_points((X, torch.full((N,), torch.nan)), targets=True).part(0, 1)


def test_a_mask_may_hold_minus_infinity():
    mask = torch.zeros(N, 3).masked_fill(torch.ones(N, 3).triu(1).bool(), -torch.inf)
    assert torch.equal(as_points({"x": X, "mask": mask}).part(0, N).kwargs["mask"], mask)


def test_named_targets_must_be_there():
    for source in ({"x": X, "label": Y}, {"labels": Y}):
        with pytest.raises(DataError, match="'labels' of a dictionary"):
            as_points(source, targets=True)
    with pytest.raises(DataError, match="'labels' of a dictionary"):
        as_points(Samples(lambda i: {"x": X[i]}), targets=True).part(0, 1)


def test_inputs_that_require_gradients_are_points_without_them():
    x = X.clone().requires_grad_()
    assert not as_points(x).part(0, 2).args[0].requires_grad


def test_points_of_ones_own_are_read_by_their_numbers():
    asked = []
    points = Points(5, lambda numbers: asked.append(list(numbers)))
    points.part(1, 9), points.chosen([4, 0]).part(0, 2)
    assert asked == [[1, 2, 3, 4], [4, 0]]
