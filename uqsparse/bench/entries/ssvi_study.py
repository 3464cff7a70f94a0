"""The study behind the claims about sparse Bayesian networks: one network, two beds, five ways to train.

Ways: "SSVI"; "static", the same on a random support that stays; "dense", all weights Gaussian; "pruned", dense until
three quarters of the steps, then cut by signal-to-noise ratio and trained on; "RigL", a network without a posterior.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from sklearn.model_selection import train_test_split

from uqsparse.bench.classification_scores import nll_class, reliability
from uqsparse.bench.entries.sparse_training_study import Bed, signals
from uqsparse.data.tables import digits
from uqsparse.nn.gaussian_layers import to_bayesian
from uqsparse.pruning import gaussian_criteria
from uqsparse.pruning.allocation import erk
from uqsparse.pruning.hook import SparseState, Sparsifier
from uqsparse.pruning.masks import apply_mask
from uqsparse.pruning.recipes.one_shot import one_shot
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.recipes.ssvi import elbo_loss, predictive, ssvi

Way = Literal["SSVI", "static", "dense", "pruned", "RigL"]
Data = Literal["signals", "digits"]
CRITERIA = {
    made.name: made
    for made in (
        gaussian_criteria.posterior_mean(),
        gaussian_criteria.snr(),
        gaussian_criteria.mean_abs(),
        gaussian_criteria.snr_mean_abs(),
        gaussian_criteria.mean_exp_abs(),
        gaussian_criteria.snr_exp_abs(),
    )
}
SEEDS = (0, 1, 2, 3)
N_SAMPLES = 32
STEPS, EVERY = 1500, 75  # of the optimiser, and between changes of the support
N_GROWTH = 5  # batches, with a draw each, of the gradient that growth looks at


class Plan(NamedTuple):
    """How the networks of a bed are trained: widths, rate of Adam, rows of a batch, and the posterior's start."""

    widths: tuple[int, ...]
    rate: float
    batch_size: int
    sigma_init: float
    prior_std: float


class Scores(NamedTuple):
    """Of the test data, one number a seed, with the probabilities and what was trained.

    Args:
        accuracy: share of right answers.
        nll: mean negative log probability.
        ece: expected calibration error of the predicted class, 15 bins.
        probabilities: averaged over draws of the weights.
        entropy_shuffled: predictive entropies of test inputs whose entries are permuted, each on its own.
        masks: the final masks, with the seeds along the first axis.
    """

    accuracy: Float[np.ndarray, " seeds"]
    nll: Float[np.ndarray, " seeds"]
    ece: Float[np.ndarray, " seeds"]
    probabilities: Float[np.ndarray, "seeds m classes"]
    entropy_shuffled: Float[np.ndarray, "seeds m"]
    masks: PyTree

    def __str__(self) -> str:
        accuracy, error = 100 * self.accuracy.mean(), 100 * standard_error(self.accuracy)
        return f"{accuracy:.1f} ± {error:.1f} / {self.nll.mean():.3f} / {self.ece.mean():.3f}"


def standard_error(values: Float[np.ndarray, " seeds"]) -> float:
    """Of the mean over seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


@cache
def bed(name: Data) -> Bed:
    """Training and test data: the signals of MNIST-1D, or a quarter of the digits for testing."""
    if name == "signals":
        return signals()
    table = digits()
    X_train, X_test, y_train, y_test = train_test_split(
        table.X / 16, table.y, test_size=0.25, random_state=0, stratify=table.y
    )
    as_float, as_label = (lambda X: jnp.asarray(X, jnp.float32)), (lambda y: jnp.asarray(y, jnp.int32))
    return Bed(as_float(X_train), as_label(y_train), as_float(X_test), as_label(y_test))


PLANS = {
    "signals": Plan((100, 100), 3e-3, 64, 0.02, 0.2),
    "digits": Plan((256, 256), 2e-3, 64, 0.02, 0.2),
}


@cache
def study(
    data: Data,
    way: Way,
    density: float = 1.0,
    criterion: str = "SNR_mean_abs",
    beta: float = 0.1,
) -> Scores:
    """Train and test one way, all seeds at once."""
    there, (train, classify) = bed(data), programs(data, way != "RigL")
    params, masks = train(way, density, criterion, beta)
    keys = jax.random.split(jax.random.key(6), len(SEEDS))
    shuffled = jax.random.permutation(jax.random.key(7), there.x_test, axis=1, independent=True)
    clean, odd = (np.asarray(classify(params, x, keys), np.float64) for x in (there.x_test, shuffled))
    clean /= clean.sum(-1, keepdims=True)
    y = np.asarray(there.y_test, np.int64)
    return Scores(
        (clean.argmax(-1) == y).mean(1),
        np.array([nll_class(p, y).mean() for p in clean]),
        np.array([reliability(p, y).expected_calibration_error for p in clean]),
        clean,
        entropy(odd),
        masks,
    )


def entropy(probabilities: Float[np.ndarray, "... classes"]) -> Float[np.ndarray, "..."]:
    """In nats."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(-1)


def network(key: Array, there: Bed, plan: Plan, *, bayesian: bool) -> PyTree:
    """A perceptron with rectified units; weights, or their means, from N(0, 2 / inputs)."""
    mlp = eqx.nn.MLP(there.x.shape[1], 10, plan.widths[0], len(plan.widths), key=key)
    made: Any = to_bayesian(mlp, prior_std=plan.prior_std, sigma_init=plan.sigma_init, key=key)
    if bayesian:
        return made
    means = [part for layer in made.layers for part in (layer.weight.mu, layer.bias)]
    return eqx.tree_at(lambda net: [part for layer in net.layers for part in (layer.weight, layer.bias)], mlp, means)


def transformation(way: Way, density: float, criterion: str, plan: Plan, key: Array) -> Sparsifier:
    """How the parameters are updated; changes of the mask are made outside of the steps."""
    adam = optax.adam(optax.cosine_decay_schedule(plan.rate, STEPS))
    if way == "RigL":
        return rigl(adam, density=density, steps=STEPS, every=EVERY, key=key, automatic=False)
    if way == "pruned":
        snr = CRITERIA["snr"]
        return one_shot(adam, density=density, steps=STEPS, key=key, criterion=snr, allocation=erk(), automatic=False)
    return ssvi(
        adam,
        density=1.0 if way == "dense" else density,
        steps=STEPS,
        key=key,
        criterion=CRITERIA[criterion],
        every=EVERY,
        alpha=0.3 if way == "SSVI" else 0.0,
        automatic=False,
    )


@cache
def programs(data: Data, bayesian: bool) -> tuple[Callable, Callable]:
    """What trains a way, and what classifies with what was trained; steps are compiled once for all ways."""
    plan, there = PLANS[data], bed(data)
    n = len(there.x)
    starts = jax.vmap(jax.random.key)(jnp.array(SEEDS))
    warm_up = optax.linear_schedule(0.0, 1.0, STEPS // 2)

    @eqx.filter_jit
    def start() -> PyTree:
        return eqx.filter_vmap(lambda key: network(key, there, plan, bayesian=bayesian))(starts)

    params_0, static = eqx.partition(start(), eqx.is_inexact_array)
    step_hook = transformation("SSVI" if bayesian else "RigL", 0.5, "snr", plan, starts[0])

    def slope(params: PyTree, key: Array, t: Array, beta: Array) -> PyTree:
        row_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (plan.batch_size,), 0, n)
        batch = there.x[rows], there.y[rows]

        def loss(params: PyTree) -> Array:
            return elbo_loss(noise_key, eqx.combine(params, static), batch, n_data=n, beta=beta * warm_up(t))

        return jax.grad(loss)(params)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0, None))
    def stretch(params: PyTree, state: SparseState, key: Array, beta: Array) -> tuple[PyTree, SparseState]:
        """`EVERY` steps; all that depends on the way is in the state."""

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            grads = slope(params, jax.random.fold_in(key, state.step), state.step, beta)
            updates, state = step_hook.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), None, EVERY)[0]

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0, None))
    def dense_slope(params: PyTree, step: Array, key: Array, beta: Array) -> PyTree:
        """The gradient that growth looks at, over `N_GROWTH` batches and draws."""
        keys = jax.random.split(jax.random.fold_in(key, STEPS + step), N_GROWTH)
        return jax.tree.map(lambda g: g.mean(0), jax.lax.map(lambda k: slope(params, k, step, beta), keys))

    def train(way: Way, density: float, criterion: str, beta: float) -> tuple[PyTree, PyTree]:
        make = partial(transformation, way, density, criterion, plan)
        keys = jax.vmap(lambda key: jax.random.split(key, 2))(starts)
        with warnings.catch_warnings():  # small densities leave a layer less than a weight for each output
            warnings.simplefilter("ignore", UserWarning)
            hook = make(starts[0])
            state = jax.jit(jax.vmap(lambda key, params: make(key).init(params)))(keys[:, 0], params_0)
        params = jax.vmap(apply_mask)(state.mask, params_0)
        move = jax.jit(jax.vmap(hook.update_mask))
        changes = () if way in ("static", "dense") else hook.change_steps
        for t in range(0, STEPS, EVERY):
            if t in changes:
                params, state = move(state, params, dense_slope(params, state.step, keys[:, 1], beta))
            params, state = stretch(params, state, keys[:, 1], beta)
        return params, state.mask

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, 0))
    def classify(params: PyTree, x: Array, key: Array) -> Array:
        return jax.nn.softmax(predictive(key, eqx.combine(params, static), x, N_SAMPLES)).mean(0)

    return train, classify
