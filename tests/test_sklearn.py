"""Estimators for scikit-learn, by its own checks and against its own models."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kernelscope as ks
from kernelscope.sklearn import KernelClassifier, KernelRegressor
from kernelscope.solvers import Huber, Newton


@parametrize_with_checks([KernelRegressor(), KernelRegressor(loss="huber"), KernelClassifier(),
                          KernelClassifier(loss="logistic"), KernelRegressor("gaussian", centers=50)])
def test_it_is_an_estimator_as_scikit_learn_checks_it(estimator, check):
    check(estimator)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    return x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=80)


@pytest.fixture
def classes(data):
    x, y = data
    return x, np.digitize(y, np.quantile(y, [0.3, 0.7]))


def test_a_regressor_without_intercept_is_kernel_ridge_regression(data):
    x, y = data
    both = np.stack([y, y**2], 1)
    for targets in (y, both):
        ours = KernelRegressor("gaussian", bandwidth=1.5, ridge=1e-3, intercept=False).fit(x, targets)
        other = KernelRidge(kernel="rbf", gamma=1 / (2 * 1.5**2), alpha=len(x) * 1e-3).fit(x, targets)
        np.testing.assert_allclose(ours.predict(x + 0.1), other.predict(x + 0.1), rtol=0, atol=1e-10)


def test_an_intercept_takes_the_mean_out_of_the_ridge(data):
    x, y = data
    near, far = (KernelRegressor(ridge=1e-2).fit(x, y + shift).predict(x) - shift for shift in (0.0, 1000.0))
    np.testing.assert_allclose(near, far, atol=1e-9)


def test_a_classifier_with_the_squared_loss_fits_indicators(classes):
    x, y = classes
    ours = KernelClassifier("gaussian", bandwidth=1.5, ridge=1e-3, intercept=False).fit(x, y)
    other = KernelRidge(kernel="rbf", gamma=1 / (2 * 1.5**2), alpha=len(x) * 1e-3).fit(x, np.eye(3)[y])
    np.testing.assert_allclose(ours.decision_function(x), other.predict(x), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(ours.predict(x), other.predict(x).argmax(1))
    # Of two classes, one machine does what a machine for each would do.
    two = KernelClassifier("gaussian", bandwidth=1.5, ridge=1e-3).fit(x, y == 1)
    each = KernelRegressor("gaussian", bandwidth=1.5, ridge=1e-3).fit(x, np.stack([y != 1, y == 1], 1).astype(float))
    np.testing.assert_allclose(two.decision_function(x), np.diff(each.predict(x))[:, 0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_classifiers_are_logistic_regressions_of_their_features(classes, weighted):
    x, y = classes
    w = np.random.default_rng(1).uniform(0.5, 2.0, len(x)) if weighted else np.ones(len(x))
    features = np.stack([x[:, i] * x[:, j] for i in range(3) for j in range(3)], 1)
    k = ks.kernels.Polynomial(2, offset=0.0)
    for labels, name in ((y, "softmax"), (y == 1, "logistic")):
        ours = KernelClassifier(k, loss="logistic", ridge=1e-3, solver=Newton(name, tolerance=1e-15)).fit(x, labels, w)
        other = LogisticRegression(C=1 / (2 * w.sum() * 1e-3), tol=1e-12, max_iter=10_000, solver="newton-cg")
        other.fit(features, labels, sample_weight=w)
        np.testing.assert_allclose(ours.predict_proba(x), other.predict_proba(features), rtol=0, atol=1e-7)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("names", [[3, 7, 9], ["cat", "dog", "fish"], [-1.0, 0.0, 1.0]], ids=str)
def test_classes_of_any_name_are_told_apart(classes, names, loss):
    x, y = classes
    labels = np.asarray(names)[y]
    model = KernelClassifier(loss=loss, ridge=1e-4).fit(x, labels)
    assert model.classes_.tolist() == names
    assert model.score(x, labels) > 0.95
    two = KernelClassifier(loss=loss, ridge=1e-4).fit(x[y < 2], labels[y < 2])
    assert two.decision_function(x).shape == (80,)
    assert two.score(x[y < 2], labels[y < 2]) > 0.95


def test_probabilities_are_of_the_logistic_loss_only(classes):
    x, y = classes
    model = KernelClassifier(loss="logistic").fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1.0, atol=1e-12)
    assert not hasattr(KernelClassifier().fit(x, y), "predict_proba")
    with pytest.raises(AttributeError, match="predict_proba"):
        KernelClassifier().fit(x, y).predict_proba(x)


def test_a_rare_class_keeps_its_share_of_the_probability():
    x = np.random.default_rng(0).normal(size=(300, 2))
    y = (np.arange(300) % 30 == 0).astype(int)
    model = KernelClassifier(loss="logistic", ridge=1e-2, solver=Newton("logistic", tolerance=1e-12)).fit(x, y)
    assert model.predict_proba(x)[:, 1].mean() == pytest.approx(1 / 30, rel=1e-6)


@pytest.mark.parametrize("make", [KernelRegressor, lambda: KernelClassifier(loss="logistic")], ids=["r", "c"])
def test_points_without_weight_are_as_if_they_were_not_there(classes, make):
    x, y = classes
    w = np.random.default_rng(2).integers(0, 3, len(x))
    values = lambda model: model.decision_function(x) if hasattr(model, "classes_") else model.predict(x)
    one, other = make().fit(x, y, w), make().fit(np.repeat(x, w, 0), np.repeat(y, w))
    assert one.machine_.kernel.bandwidth == other.machine_.kernel.bandwidth
    np.testing.assert_allclose(values(one), values(other), rtol=0, atol=1e-6)


def test_outliers_hardly_move_a_huber_regressor(data):
    x, y = data
    spoiled = y.copy()
    spoiled[::8] += 50.0
    robust, plain = (KernelRegressor(loss=loss, ridge=1e-3).fit(x, spoiled) for loss in (Huber(0.3), "squared"))
    assert robust.score(x, y) > 0.5 > plain.score(x, y)


def test_a_search_over_a_pipeline_of_digits_finds_a_good_machine():
    train, test = ks.data.digits("train"), ks.data.digits("test")
    model = make_pipeline(StandardScaler(), KernelClassifier(centers=150, random_state=0))
    grid = {"kernelclassifier__ridge": [1e-1, 1e-4], "kernelclassifier__kernel": ["laplacian", "cosine"]}
    search = GridSearchCV(model, grid, cv=2).fit(train.x.double().numpy(), train.y.numpy())
    assert search.best_params_ == {"kernelclassifier__ridge": 1e-4, "kernelclassifier__kernel": "laplacian"}
    assert search.score(test.x.double().numpy(), test.y.numpy()) > 0.93
    assert len(search.best_estimator_[-1].machine_) == 150


def test_probabilities_of_digits_are_good_ones():
    train, test = ks.data.digits("train"), ks.data.digits("test")
    model = KernelClassifier(loss="logistic", centers=100, ridge=1e-5, random_state=0).fit(train.x.double(), train.y)
    p = model.predict_proba(test.x.double())[np.arange(360), test.y.numpy()]
    assert -np.log(p).mean() < 0.2
    assert model.score(test.x.double(), test.y) > 0.93


def test_estimators_go_through_copies_clones_and_pickles(classes):
    x, y = classes
    k = ks.kernels.Gaussian() + 0.5 * ks.kernels.Polynomial(2)
    model = KernelClassifier(k, loss="logistic", solver=Newton("softmax", tolerance=1e-4)).fit(x, y)
    fresh = clone(model)
    assert not hasattr(fresh, "machine_")
    assert cross_val_score(fresh, x, y, cv=2).shape == (2,)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.decision_function(x), model.decision_function(x))
        assert repr(other.machine_) == repr(model.machine_)
        assert len(other.machine_) == 80
    assert (model.machine_ + pickle.loads(pickle.dumps(model.machine_))).coefficients.shape == (80, 3)


def test_a_fitted_machine_tells_each_center_s_part(data):
    x, y = data
    model = KernelRegressor(centers=20, random_state=0).fit(x, y)
    why = model.machine_.contributions(torch.from_numpy(x[:5]))
    np.testing.assert_allclose(why.terms.sum(2).numpy()[:, 0] + float(model.machine_.intercept), model.predict(x[:5]))


def test_what_is_done_to_the_data_later_leaves_the_machine_alone(data):
    x, y = (values.copy() for values in data)
    model = KernelRegressor().fit(x, y)
    before = model.predict(data[0])
    x[:], y[:] = 0.0, 0.0
    np.testing.assert_array_equal(model.predict(data[0]), before)


def test_centers_are_drawn_by_the_random_state_from_points_that_differ(data):
    x, y = data
    twice, both = np.concatenate([x, x]), np.concatenate([y, y])
    centers = lambda state, x, y: KernelRegressor(centers=10, random_state=state).fit(x, y).machine_.centers.numpy()
    np.testing.assert_array_equal(centers(0, x, y), centers(0, twice, both))
    assert not np.array_equal(centers(0, x, y), centers(1, x, y))
    assert len(np.unique(centers(0, twice, both), axis=0)) == 10
    assert len(KernelRegressor(centers=1000).fit(twice, both).machine_) == 80


def test_single_precision_stays_single(data):
    x, y = (values.astype(np.float32) for values in data)
    assert KernelRegressor().fit(x, y).predict(x).dtype == np.float32
    assert KernelRegressor().fit(x.astype(np.float64), y).predict(x).dtype == np.float64


@pytest.mark.parametrize("name", ["laplacian", "gaussian", "matern", "cauchy", "rational quadratic", "dispersal",
                                  "polynomial", "cosine", "arc-cosine", "relu ntk"])
def test_kernels_are_called_by_their_names(data, name):
    x, y = data
    assert KernelRegressor(name).fit(x, y).score(x, y) > (0.2 if name == "cosine" else 0.5)


def test_what_a_solver_says_is_a_warning(data):
    x, y = data
    with pytest.warns(ConvergenceWarning, match="has not converged"):
        KernelRegressor(loss="huber", solver=Newton("huber", passes=2), ridge=1e-8).fit(x, y)


@pytest.mark.parametrize(("options", "said"), [
    ({"kernel": "rbf"}, 'kernel must be "laplacian" or "gaussian"'),
    ({"kernel": ks.kernels.Gaussian(1.0), "bandwidth": 2.0}, "has numbers of its own, and bandwidth=2.0 came"),
    ({"bandwidth": -1.0}, "bandwidth must be a positive number"),
    ({"centers": 0}, "centers must be None for all points"),
    ({"centers": 2.5}, "centers must be None for all points"),
    ({"ridge": -1.0}, "A ridge is a number from 0 on"),
    ({"intercept": "no"}, "intercept must be True or False"),
    ({"loss": "hinge"}, "loss must be"),
    ({"loss": "huber", "solver": "direct"}, r"is minimised by Newton\(Huber"),
    ({"loss": "huber", "solver": Newton("logistic")}, "Leave solver out, or pass a Newton with this loss"),
    ({"memory": "much"}, "memory must be a number of bytes"),
])
def test_parameters_that_cannot_be_used_are_refused_in_a_sentence(data, options, said):
    with pytest.raises(ValueError, match=said):
        KernelRegressor(**options).fit(*data)


def test_one_class_alone_is_refused(classes):
    x, y = classes
    for loss in ("squared", "logistic"):
        with pytest.raises(ValueError, match="at least two classes.*all are of the class"):
            KernelClassifier(loss=loss).fit(x, np.ones(80, dtype=int))
        with pytest.raises(ValueError, match="with a weight above 0"):
            KernelClassifier(loss=loss).fit(x, y, (y == 1).astype(float))
    with pytest.raises(ValueError, match="[wW]eights"):
        KernelClassifier().fit(x, y, np.zeros(80))


def test_without_scikit_learn_the_module_says_what_is_missing_and_the_rest_works():
    code = ("import sys; sys.modules['sklearn'] = None\n"
            "import kernelscope as ks; ks.kernels.Gaussian(1.0), ks.fit\n"
            "try:\n    ks.sklearn\n"
            "except ImportError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'pip install "kernelscope[sklearn]"' in done.stdout


def test_the_module_does_not_stand_in_the_way_of_scikit_learn():
    assert ks.sklearn.BaseEstimator is sklearn.base.BaseEstimator
    assert ks.sklearn is not sklearn


def test_the_loss_that_is_fitted_is_the_one_that_was_asked_for():
    x, y = np.linspace(0, 1, 30)[:, None], np.linspace(0, 1, 30)
    for loss, solver in ((ks.solvers.Huber(0.01), ks.solvers.Newton(ks.solvers.Huber(5.0))),
                         ("squared", ks.solvers.Newton(ks.solvers.Huber(0.01)))):
        with pytest.raises(ValueError, match="loss"):
            KernelRegressor(loss=loss, solver=solver).fit(x, y)
