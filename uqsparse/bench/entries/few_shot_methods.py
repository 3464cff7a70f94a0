"""Few-shot methods of the leaderboards: hierarchical Bayes, neural processes, meta-learned starts, and no learning."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from uqsparse import bench
from uqsparse.data import FewShotTasks, Tasks
from uqsparse.models import MAML, NIWMeta, ProtoNet, Reptile
from uqsparse.models.few_shot_learner import FewShotLearner
from uqsparse.models.neural_processes import CNP, MPNP, Mixture, fit

N_SAMPLES = 20
Sample = Callable[[Any, int], FewShotTasks]


def _steps(context: bench.Context, full: int) -> int:
    return full // 8 if context.quick else full


def _mixture(found: Mixture) -> bench.GaussianMixture:
    """(K, T, Q, 1) as K Gaussians of T Q points."""
    k = len(found.means)
    return bench.GaussianMixture(np.asarray(found.means).reshape(k, -1), np.asarray(found.scales).reshape(k, -1))


def _learned(context: bench.Context, model: FewShotLearner, sample: Sample, *tasks: np.ndarray, n_steps: int) -> Any:
    """Predictions of the test tasks after training on others."""
    key_fit, key_predict = jax.random.split(jax.random.key(context.seed))
    trained = model.fit(sample, key_fit, _steps(context, n_steps), steps_per_call=50).model
    support_x, support_y, query_x = map(jnp.asarray, tasks)
    # No learner looks at the targets of queries, and here there are none to look at.
    query_y = jnp.zeros((*query_x.shape[:2], *support_y.shape[2:]), support_y.dtype)
    return trained.predict_tasks(FewShotTasks(support_x, support_y, query_x, query_y), key_predict, N_SAMPLES)


def _network(context: bench.Context, x: np.ndarray, out: int) -> eqx.nn.MLP:
    return eqx.nn.MLP(x.shape[-1], out, 40, 2, key=jax.random.key(context.seed))


@bench.method("NIW head", kind="few-shot regression")
def niw_regression(context, sample, support_x, support_y, query_x) -> bench.GaussianMixture:
    """A Bayesian linear head on features that all tasks share, its prior learned from them."""
    model = NIWMeta(_network(context, support_x, 40))
    return _mixture(_learned(context, model, sample, support_x, support_y, query_x, n_steps=2500))


@bench.method("MAML", kind="few-shot regression", quick=False)
def maml_regression(context, sample, support_x, support_y, query_x) -> bench.GaussianMixture:
    """Five gradient steps from a start that is trained for them; one width for all predictions."""
    model = MAML(_network(context, support_x, 1))
    return _mixture(_learned(context, model, sample, support_x, support_y, query_x, n_steps=2500))


@bench.method("Reptile", kind="few-shot regression", quick=False)
def reptile_regression(context, sample, support_x, support_y, query_x) -> bench.GaussianMixture:
    """Five gradient steps from a start near where they lead on all tasks."""
    model = Reptile(_network(context, support_x, 1))
    return _mixture(_learned(context, model, sample, support_x, support_y, query_x, n_steps=2500))


def _process(context: bench.Context, model: Any, sample: Sample, *tasks: np.ndarray, n_steps: int) -> Any:
    """Predictions of a neural process, which sees supports as contexts, in units of the supports' spread."""
    support_x, support_y, query_x = map(jnp.asarray, tasks)
    unit_x, unit_y = support_x.std(), support_y.std()

    def as_tasks(few: FewShotTasks) -> Tasks:
        there = [jnp.ones(x.shape[:2], bool) for x in (few.support_x, few.query_x)]
        support = few.support_x / unit_x, few.support_y / unit_y, there[0]
        return Tasks(*support, few.query_x / unit_x, few.query_y / unit_y, there[1])

    key_fit, key_predict = jax.random.split(jax.random.key(context.seed))
    n_steps = _steps(context, n_steps)
    trained = fit(model, lambda key, n: as_tasks(sample(key, n)), key=key_fit, n_steps=n_steps, steps_per_call=50).model
    test = as_tasks(FewShotTasks(support_x, support_y, query_x, jnp.zeros((*query_x.shape[:2], 1))))
    found = trained.predict_tasks(test, key_predict, N_SAMPLES)
    return _mixture(Mixture(found.means * unit_y, found.scales * unit_y))


@bench.method("CNP", kind="few-shot regression", quick=False)
def cnp_regression(context, sample, support_x, support_y, query_x) -> bench.GaussianMixture:
    """A conditional neural process: one Gaussian at each query."""
    model = CNP(support_x.shape[-1], 1, min_scale=0.02, key=jax.random.key(context.seed))
    return _process(context, model, sample, support_x, support_y, query_x, n_steps=2500)


@bench.method("MPNP", kind="few-shot regression", quick=False)
def mpnp_regression(context, sample, support_x, support_y, query_x) -> bench.GaussianMixture:
    """A martingale posterior neural process: a mixture over futures of the context."""
    model = MPNP(support_x.shape[-1], 1, min_scale=0.02, pseudo_weight=0.1, key=jax.random.key(context.seed))
    return _process(context, model, sample, support_x, support_y, query_x, n_steps=2500)


@bench.method("Gaussian process of each task", kind="few-shot regression")
def gaussian_process_alone(context, sample, support_x, support_y, query_x) -> bench.GaussianMixture:
    """Nothing learned from other tasks: a Gaussian process fitted to each support by marginal likelihood."""
    means, sds = [], []
    for x, y, at in zip(support_x, support_y[..., 0], query_x, strict=True):
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(x.std(), (1e-1, 1e2)) + WhiteKernel(0.1, (1e-4, 1e1))
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=context.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ten points leave some scales at their bounds
            process.fit(x, y)
        mean, sd = process.predict(at, return_std=True)
        means.append(mean)
        sds.append(sd)
    return bench.GaussianMixture(np.concatenate(means)[None], np.concatenate(sds)[None])


def _probabilities(found: Any) -> np.ndarray:
    p = np.asarray(found, float).reshape(-1, found.shape[-1])
    return p / p.sum(axis=1, keepdims=True)


def _n_way(support_y: np.ndarray) -> int:
    return int(support_y.max()) + 1


@bench.method("NIW head", kind="few-shot classification", quick=False)
def niw_classification(context, sample, support_x, support_y, query_x) -> np.ndarray:
    """A Bayesian softmax head on the features as they are, its prior learned from other classes."""
    model = NIWMeta(eqx.nn.Identity(), "categorical", n_way=_n_way(support_y), x_size=support_x.shape[-1])
    return _probabilities(_learned(context, model, sample, support_x, support_y, query_x, n_steps=800))


@bench.method("ProtoNet", kind="few-shot classification", quick=False)
def prototypes(context, sample, support_x, support_y, query_x) -> np.ndarray:
    """Near means of classes are probable; a temperature is learned from other classes."""
    model = ProtoNet(eqx.nn.Identity(), _n_way(support_y))
    return _probabilities(_learned(context, model, sample, support_x, support_y, query_x, n_steps=800))


@bench.method("MAML", kind="few-shot classification", quick=False)
def maml_classification(context, sample, support_x, support_y, query_x) -> np.ndarray:
    """Five gradient steps from a start that is trained for them, on other classes."""
    way = _n_way(support_y)
    model = MAML(_network(context, support_x, way), "categorical", n_way=way, inner_rate=0.1)
    return _probabilities(_learned(context, model, sample, support_x, support_y, query_x, n_steps=800))
