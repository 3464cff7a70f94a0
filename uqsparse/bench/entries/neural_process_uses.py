"""What trained neural processes are used for: searching for minima, completing images, populations over time."""

import warnings
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from uqsparse.bench.entries import neural_process_study as study
from uqsparse.data.image_tasks import image_completion_tasks, pixel_coordinates
from uqsparse.data.lotka_volterra import lotka_volterra_tasks
from uqsparse.data.tables import digits
from uqsparse.data.tasks import Tasks, gp_covariance, standardise_tasks
from uqsparse.models.neural_processes import CANP, MPANP, fit
from uqsparse.models.neural_processes.bayesian_optimisation import minimise, minimise_known, surrogate
from uqsparse.models.neural_processes.mixture import Mixture
from uqsparse.models.neural_processes.process import NeuralProcess
from uqsparse.models.neural_processes.training import cosine_adam

# Searches start from as many points as the networks saw at least in training.
N_START, N_SEARCH, N_FUNCTIONS = 3, 20, 30
GRID = np.linspace(-2, 2, 100)[:, None]
N_PIXELS = 16
COMPLETION_STEPS, POPULATION_STEPS = 1000, 4000
# Three times what `fit` takes: networks with attention, in so few steps, come much further with it.
_RATE = 3e-3
_N_TRAIN_DIGITS = 1500
# Two cycles or so; longer simulations have more of them than 50 points can show.
_N_EVENTS = 4000


@cache
def search_functions() -> tuple[np.ndarray, np.ndarray]:
    """30 functions of an RBF process, values (F, 100), and their laws (F, 2): length and scale."""
    rng = np.random.default_rng(0)
    laws = np.c_[rng.uniform(0.1, 0.6, N_FUNCTIONS), rng.uniform(0.1, 1.0, N_FUNCTIONS)]
    values = []
    for length, scale in laws:
        covariance = scale**2 * np.exp(-0.5 * ((GRID - GRID.T) / length) ** 2)
        root = np.linalg.cholesky(covariance + 1e-10 * np.eye(len(GRID)))
        values.append(root @ rng.standard_normal(len(GRID)))
    return np.array(values), laws


def _true_process(length, scale, x, y, mask, candidates, key) -> tuple[Any, Any]:
    """The process that a function was drawn from, as a surrogate of one component."""
    covariance = partial(gp_covariance, "rbf", length=length, scale=scale)
    mean, full = study.gp_posterior(covariance, 0.003, x, y[:, 0], mask, candidates)
    return mean[None], jnp.sqrt(jnp.maximum(jnp.diag(full), 1e-8))[None]


@cache
def regrets() -> dict[str, np.ndarray]:
    """Regret over the range of the function, (F, 21), after the start and each step; networks: mean of two seeds."""
    values, laws = search_functions()
    lowest, spread = values.min(1), np.ptp(values, axis=1)
    key = jax.random.key(0)

    def normalised(found):
        return (found[:, N_START - 1 :] - lowest[:, None]) / spread[:, None]

    found = {}
    for name in study.NETWORKS:
        runs = [
            minimise_known(key, surrogate(model, study.N_SAMPLES), GRID, values, N_SEARCH, n_start=N_START)
            for model in (study.trained(name, seed).model for seed in study.SEEDS)
        ]
        found[name] = np.mean([normalised(run) for run in runs], axis=0)
    keys = jax.random.split(key, N_FUNCTIONS)
    true = []
    for i in range(N_FUNCTIONS):
        predict = eqx.Partial(_true_process, *jnp.asarray(laws[i], jnp.float32))
        # The same start as the networks have: the i-th key of the same split, one function at a time.
        true.append(_search_with_key(keys[i], predict, values[i]))
    found["true process"] = normalised(np.array(true))
    rng = np.random.default_rng(1)
    trials = [
        np.minimum.accumulate([rng.permutation(value)[: N_START + N_SEARCH] for value in values], axis=1)
        for _ in range(100)
    ]
    found["random"] = normalised(np.mean(trials, axis=0))
    return found


def _search_with_key(key: Any, predict: Any, value: np.ndarray) -> np.ndarray:
    table = dict(zip(np.asarray(GRID, np.float32)[:, 0].tolist(), value, strict=True))
    return minimise(key, predict, lambda x: table[float(x[0])], GRID, N_SEARCH, n_start=N_START).lowest


def search_curves() -> str:
    """Mean regrets after 10 and 20 steps, with standard errors over functions."""
    rows = []
    for name, found in regrets().items():
        error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
        rows.append(f"{name} {found.mean(0)[10]:.3f} ± {error[10]:.3f} / {found.mean(0)[20]:.3f} ± {error[20]:.3f}")
    return ", ".join(rows)


@cache
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """Digits for training and others, (n, 8, 8), intensities in [0, 1]."""
    images = digits().X.reshape(-1, 8, 8) / 16
    return images[:_N_TRAIN_DIGITS], images[_N_TRAIN_DIGITS:]


@cache
def completion_model() -> NeuralProcess:
    """A martingale posterior process with attention, trained to complete digits."""
    images, _ = digit_images()
    key_model, key_fit = jax.random.split(jax.random.key(0))
    model = MPANP(2, 1, width=48, pseudo_weight=study.PSEUDO_WEIGHT, min_scale=study.MIN_SCALE, key=key_model)
    sampler = partial(_digit_tasks, images)
    return fit(
        model, sampler, key=key_fit, n_steps=COMPLETION_STEPS, optimiser=cosine_adam(_RATE, COMPLETION_STEPS)
    ).model


def _digit_tasks(images, key, n_tasks: int) -> Tasks:
    return image_completion_tasks(key, images, n_tasks, max_points=48)


@cache
def completion_problems() -> tuple[Tasks, np.ndarray]:
    """Every test digit with 16 pixels shown and all others to predict; the pixels in their order, (n, 64)."""
    _, images = digit_images()
    rng = np.random.default_rng(0)
    order = np.array([rng.permutation(64) for _ in images])
    x = pixel_coordinates(8, 8)[order]
    y = (np.take_along_axis(images.reshape(-1, 64), order, 1) - 0.5)[..., None].astype(np.float32)
    shown, hidden = np.ones((len(x), N_PIXELS), bool), np.ones((len(x), 64 - N_PIXELS), bool)
    parts = x[:, :N_PIXELS], y[:, :N_PIXELS], shown, x[:, N_PIXELS:], y[:, N_PIXELS:], hidden
    return Tasks(*(jnp.asarray(part) for part in parts)), order


@cache
def completions() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the hidden pixels, (n, 48), in their order."""
    tasks, _ = completion_problems()
    found = completion_model().predict_tasks(tasks, jax.random.key(0), study.N_SAMPLES)
    return np.asarray(found.mean[..., 0]), np.asarray(found.standard_deviation[..., 0])


def completion_errors() -> dict[str, float]:
    """Mean squared errors of hidden pixels: the network, pixel means, and a Gaussian of all 64 pixels, conditioned.

    The Gaussian's covariance is that of the training digits plus 1e-3 on its diagonal; it knows which pixel is which
    and is fitted to this one grid.
    """
    images, _ = digit_images()
    tasks, order = completion_problems()
    shown, hidden = np.asarray(tasks.context_y[..., 0], float), np.asarray(tasks.target_y[..., 0], float)
    flat = images.reshape(-1, 64) - 0.5
    mean, covariance = flat.mean(0), np.cov(flat.T) + 1e-3 * np.eye(64)
    by_pixel, gaussian = [], []
    for row, seen in zip(order, shown, strict=True):
        a, b = row[:N_PIXELS], row[N_PIXELS:]
        by_pixel.append(mean[b])
        gain = np.linalg.solve(covariance[np.ix_(a, a)], covariance[np.ix_(a, b)])
        gaussian.append(mean[b] + (seen - mean[a]) @ gain)
    guesses = {"MPANP": completions()[0], "pixel means": by_pixel, "Gaussian of all pixels": gaussian}
    return {name: float(np.mean((np.asarray(guess) - hidden) ** 2)) for name, guess in guesses.items()}


class PopulationScores(NamedTuple):
    """Log likelihoods of held-out populations, per point, and the coverage of 90% intervals.

    Args:
        ours: of the network, one entry a simulation.
        peer: of a Gaussian process fitted to each context and population.
        coverage: of the network's intervals.
        peer_coverage: of the Gaussian process's.
    """

    ours: np.ndarray
    peer: np.ndarray
    coverage: float
    peer_coverage: float


@cache
def population_model() -> NeuralProcess:
    """A process with attention, trained on 2,000 simulations of predators and prey."""
    pool = _populations(0, 2000)
    key_model, key_fit = jax.random.split(jax.random.key(0))
    model = CANP(1, 2, width=64, min_scale=study.MIN_SCALE, key=key_model)
    optimiser = cosine_adam(_RATE, POPULATION_STEPS)
    return fit(model, partial(_some_of, pool), key=key_fit, n_steps=POPULATION_STEPS, optimiser=optimiser).model


def _populations(seed: int, n_tasks: int) -> Tasks:
    drawn = lotka_volterra_tasks(seed, n_tasks, max_points=50, min_context=15, min_target=15, n_events=_N_EVENTS)
    return standardise_tasks(jax.tree.map(jnp.asarray, drawn))


def _some_of(pool: Tasks, key, n_tasks: int) -> Tasks:
    return _rows(pool, jax.random.randint(key, (n_tasks,), 0, len(pool.context_x)))


@jax.jit
def _rows(pool: Tasks, rows) -> Tasks:
    return jax.tree.map(lambda array: array[rows], pool)


@cache
def population_problems() -> Tasks:
    """64 simulations that no training has seen."""
    return _populations(1, 64)


@cache
def population_predictions() -> Mixture:
    """What the network predicts of them."""
    return population_model().predict_tasks(population_problems(), jax.random.key(0), 1)


@cache
def population_scores() -> PopulationScores:
    """The network against a Gaussian process that is fitted to each context anew."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    tasks, found = population_problems(), population_predictions()
    ours, peer, inside, peer_inside = [], [], [], []
    half = stats.norm.ppf(0.95)
    for i in range(len(tasks.context_x)):
        seen, there = np.asarray(tasks.context_mask[i]), np.asarray(tasks.target_mask[i])
        y = np.asarray(tasks.target_y[i], float)[there]
        mean, sd = np.asarray(found.means[0, i], float)[there], np.asarray(found.scales[0, i], float)[there]
        ours.append(stats.norm.logpdf(y, mean, sd).sum(1).mean())
        inside.append((np.abs(y - mean) < half * sd).mean())
        densities = []
        for j in range(2):
            kernel = kernels.ConstantKernel(1.0) * kernels.RBF(0.5, (0.02, 10)) + kernels.WhiteKernel(0.01, (1e-5, 1))
            process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                process.fit(np.asarray(tasks.context_x[i], float)[seen], np.asarray(tasks.context_y[i], float)[seen, j])
            at, width = process.predict(np.asarray(tasks.target_x[i], float)[there], return_std=True)
            densities.append(stats.norm.logpdf(y[:, j], at, width))
            peer_inside.append((np.abs(y[:, j] - at) < half * width).mean())
        peer.append(np.sum(densities, axis=0).mean())
    return PopulationScores(np.array(ours), np.array(peer), float(np.mean(inside)), float(np.mean(peer_inside)))
