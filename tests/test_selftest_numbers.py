"""The rows about numbers: a share of each is survived, and a wrong subject is counted as one."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, NonFiniteError
from kernelscope.selftest.judging import must_hold, must_refuse
from kernelscope.selftest.row import Lost, NotTried, Silent
from kernelscope.selftest.rows import (
    absent,
    alike,
    budgets,
    conditioning,
    degenerate,
    derivatives,
    hostile_words,
    interrupted,
    known_rows,
    mismatches,
    models,
    non_finite,
    precision,
    processes,
)
from kernelscope.selftest.subjects import chords, points, run, saved, symmetric

MODULES = (non_finite, conditioning, alike, degenerate, mismatches, models, budgets, interrupted, hostile_words,
           precision, derivatives, absent, processes)
#: How far apart the trials are that are made each time; those of the slow rows are all slow.
APART = {"F8": 41, "F9": 23, "F10": 7, "F11": 17, "F12": 11, "F13": 37, "F17": 67, "F20": 31, "F22": 17}
ROWS = {row.id: row for module in MODULES for row in (kind() for kind in module.ROWS)}


def attempt(row, trials, folder):
    (folder / "ground").mkdir()
    row.prepare(folder / "ground")
    for place, trial in enumerate(trials):
        (folder / str(place)).mkdir()
        try:
            trial.attempt(folder / str(place))
        except ks.errors.KernelscopeError:
            pass
        except NotTried:
            pass
        except Exception as error:
            raise AssertionError(f"{row.id}, {trial.what}") from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", APART)
def test_some_trials_of_each_row_are_survived(name, tmp_path):
    attempt(ROWS[name], list(ROWS[name].trials())[::APART[name]], tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROWS)
def test_all_trials_of_a_row_are_survived(name, tmp_path):
    attempt(ROWS[name], ROWS[name].trials(), tmp_path)


def test_the_rows_are_listed_and_have_as_many_trials_as_are_said():
    assert set(ROWS) <= set(known_rows())
    assert sum(len(list(row.trials())) for row in ROWS.values()) >= 900


def silent(call, *args):
    with pytest.raises(Silent):
        call(*args)


def test_an_answer_to_a_nan_is_silent_and_another_error_is_broken():
    silent(must_refuse, lambda: torch.tensor(1.0), DataError)
    with pytest.raises(ZeroDivisionError):
        must_refuse(lambda: 1 / 0, DataError)
    with pytest.raises(AssertionError, match="names none"):
        must_refuse(lambda: ks.kernels.Precomputed(torch.ones(2, 3)), DataError, naming=("zebra",))
    silent(must_hold, lambda: "off by 3")


def test_a_wrong_solution_without_a_note_is_silent():
    K, y = symmetric(), points(8, 1)[:, 0]
    right = torch.linalg.solve(K, y)
    assert conditioning.verdict(K, right, y, []) is None
    silent(conditioning.verdict, K, 1.001 * right, y, [])
    assert conditioning.verdict(K, 1.001 * right, y, ["It has not converged."]).typed


def test_a_machine_of_other_numbers_is_silent():
    x, y = points(40, 2), points(40, 1)[:, 0]
    wrong = lambda *args, **options: ks.fit(*args, **{**options, "ridge": 1e-1})
    assert alike.agrees(x, y, "direct") is True
    assert alike.agrees(x, y, "direct", wrong) is not True


def test_a_nan_that_comes_out_is_silent():
    silent(degenerate.defined, lambda: (torch.ones(2), {"a": torch.tensor([1.0, float("nan")])}))


@pytest.mark.parametrize("spoil", [
    lambda model: model[1].running_mean.add_(1), lambda model: model.eval(), lambda model: torch.rand(1),
    lambda model: model[0].weight.data.mul_(2), lambda model: model[0].register_forward_hook(print),
])
def test_a_call_that_changes_the_network_is_silent(spoil):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    with torch.random.fork_rng():
        silent(models.untouched, model, lambda model: spoil(model) if spoil(model) is None else torch.ones(1))


def test_two_calls_that_differ_are_silent():
    values = iter([torch.ones(1), torch.zeros(1)])
    silent(models.untouched, nn.Linear(3, 4), lambda model: next(values))


def test_memory_that_is_taken_without_a_word_is_silent():
    silent(budgets.keeps_to, lambda room: torch.ones(150_000_000).sum(), "2KB", None)
    silent(budgets.keeps_to, lambda room: torch.tensor(float(room == "2KB")), "2KB", "1GB")


def test_other_bits_after_an_interruption_are_silent(tmp_path):
    count = iter(range(10))
    silent(interrupted.goes_on, lambda folder: torch.tensor(float(next(count))), tmp_path, 0.5)


@pytest.mark.parametrize("page", [
    lambda word: f"<p>{word}</p>", lambda word: f"<p title='{word}'>", lambda word: "<a href='javascript:x'>",
    lambda word: "<p onload=x>",
])
def test_a_page_that_is_built_of_words_is_silent(page):
    word = "'><script>alert(1)</script>"
    silent(hostile_words.stays_words, page, word, False)


def test_every_place_of_a_word_shows_it():
    for name in ("fact", "layer name", "name of an error", "cell of a ledger", "drawing of a trade-off",
                 "name of a query's output", "cell of tokens"):
        assert "zebrazebra" in hostile_words.SLOTS[name]("zebrazebra")


def test_numbers_that_move_too_far_are_silent():
    silent(precision.within, torch.ones(3), torch.ones(3) * 1.1, 1e-2)
    silent(precision.within, torch.tensor([float("nan")]), torch.ones(1), 1e-2)
    silent(derivatives.near, torch.ones(3), torch.ones(3) * 1.1, 1e-2)


def test_what_is_no_kernel_is_silent_where_nobody_says_so(monkeypatch):
    with pytest.raises(Silent):
        must_hold(lambda: conditioning._warned(lambda K: "a spectrum", conditioning.indefinite(5, torch.float64)))
    monkeypatch.setattr(ks, "fit", lambda *args, **options: SimpleNamespace(fitting=None))
    silent(conditioning.told, conditioning.lopsided(3, torch.float64), "direct")


def test_an_answer_without_the_other_process_is_silent_and_another_word_is_broken():
    silent(processes.together, "killed", "ProcessLost", "print('ANSWERED')")
    with pytest.raises(AssertionError, match="ProcessLost was to be said"):
        processes.together("killed", "ProcessLost", "print('SAID DataError')")
    with pytest.raises(AssertionError, match="have no answer"):
        processes.together("nothing", "", "print('SAID DataError')")


def test_a_loader_that_loses_steps_or_says_nothing_is_told(tmp_path):
    run().save(tmp_path / "run")
    loop = f"import shutil, sys; shutil.copytree({str(tmp_path / 'run')!r}, sys.argv[2]); print({{!r}})".format
    silent(processes.loading, "killed", loop("ENDED"))
    with pytest.raises(Lost, match="9 steps were acknowledged, and 6 are there"):
        processes.loading("killed", loop("STEP 9\nSAID RuntimeError"))
    with pytest.raises(AssertionError, match="did not end with a word"):
        processes.loading("killed", loop("STEP 2"))
    assert processes.loading("killed", loop("STEP 6\nSAID RuntimeError")).typed


def test_an_answer_without_a_package_is_silent_and_an_error_must_name_the_way_to_get_it():
    silent(absent.without, ("sklearn",), "ks.__version__", "kernelscope[sklearn]")
    for call, naming in (("raise ImportError('no such thing')", "kernelscope[sklearn]"), ("1 / 0", "a package"),
                         ("raise ImportError('no')", None)):
        with pytest.raises(AssertionError):
            absent.without(("sklearn",), call, naming)


def test_a_call_that_changes_the_run_is_silent():
    def spoil(recorded, model):
        recorded._index.steps[0].groups[0]["lr"] = 7.0
        return torch.ones(1)

    silent(models.asked, "layer norm", spoil)


# -- what the battery found ------------------------------------------------------------------------------------------


def test_eigenpairs_of_a_matrix_with_a_nan_are_refused():
    K = symmetric()
    K[1, 5] = float("nan")
    with pytest.raises(NonFiniteError, match="product of the matrix"):
        ks.KernelOperator(ks.kernels.Precomputed(K), torch.arange(8)[:, None]).eigenpairs(2)


def test_minus_infinity_has_no_features_and_makes_no_critic():
    x = points()
    x[-1, -1] = -torch.inf
    with pytest.raises(NonFiniteError, match="Point 11"):
        ks.features.RandomFourier(4).phi(x)
    with pytest.raises(NonFiniteError, match="generated must be finite, and point 11"):
        ks.generative.kernel_critic(ks.kernels.Gaussian(1.0), points(), x)
    with pytest.raises(NonFiniteError, match="weights must be finite"):
        ks.generative.kernel_critic(ks.kernels.Gaussian(1.0), points(2), points(2),
                                    weights=(torch.tensor([1.0, torch.inf]), torch.ones(2)))


def test_queries_that_are_sparse_or_have_no_values_are_refused_and_byte_orders_are_read():
    x = points()[:2]
    for odd, words in ((x.to_sparse(), "sparse"), (x.to("meta"), "without values")):
        with pytest.raises(DataError, match=words):
            ks.decompose(run(), odd)
    assert torch.equal(ks.decompose(run(), x.numpy().astype(">f8")).contributions,
                       ks.decompose(run(), x).contributions)


def test_a_layer_says_which_points_it_takes():
    with pytest.raises(DataError, match="real points of shape"):
        ks.nn.SNNKLinear(3, 4, 8)(torch.ones(2, 5))


def test_a_matrix_of_no_kernel_is_named_in_one_sentence():
    found = ks.eigenlearning(conditioning.indefinite(5, torch.float64), points(5, 1)[:, 0], 1, ridge=1e-3)
    assert "the matrix is that of no kernel, 20% of its eigenvalues’ size was negative" in repr(found)
    assert "no kernel" not in repr(ks.eigenlearning(symmetric(), points(8, 1)[:, 0], 1, ridge=1e-3))


def test_checkpoints_of_other_numbers_and_data_of_another_model_are_refused():
    weight = torch.ones(2, 3)
    for odd, words in ((weight + 0j, "as torch.complex64, and the model as torch.float64"), (weight.long(), "int64")):
        with pytest.raises(ModelError, match=words):
            chords(saved(odd))
    with pytest.raises(DataError, match=r"cannot take these samples .* shapes \[\(5,\)\]"):
        chords(x=points(12, 5))
    with pytest.raises(DataError, match="finite learning rate"):
        chords(lr=float("inf"))


def test_a_posterior_that_takes_long_tells_of_its_passes(capsys):
    x = points(300)
    ks.posterior(ks.kernels.Gaussian(1.0), x, x[:, 0], x[:2], ridge=1e-2, memory="1MB", progress=True)
    assert "PCG" in "".join(capsys.readouterr())
    ks.posterior(ks.kernels.Gaussian(1.0), x, x[:, 0], x[:2], ridge=1e-2, memory="1MB", progress=False)
    assert not "".join(capsys.readouterr())
