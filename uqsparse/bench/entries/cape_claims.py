"""Networks that estimate a probability, on images whose true probabilities are known: memorisation, CaPE, and scores.

Networks with three hidden layers of 256 on 16 by 16 images, Adam. Errors are mean squared distances to the true
probabilities of 5000 fresh images, times 100; nothing is chosen by them.
"""

import functools
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from scipy import stats
from scipy.special import expit

from uqsparse import bench
from uqsparse.bounds.calibration import (
    Platt,
    Temperature,
    auc,
    brier,
    expected_calibration_error,
    log_loss,
    mse_to_truth,
)
from uqsparse.bounds.calibration.cape import REFERENCE_PLATEAU, fit_cape
from uqsparse.bounds.calibration.early_stopping import fit_early_stopped
from uqsparse.bounds.calibration.losses import cross_entropy
from uqsparse.bounds.calibration.network_training import (
    Recipe,
    Rows,
    compiled_epoch,
    compiled_logits,
    compiled_start_state,
)
from uqsparse.data.known_probability_images import KnownProbabilityImages, Scenario, known_probability_images

SYSTEM = "Calibrated probabilities"
N_TEST, N_EPOCHS = 5000, 40
TEST_SEED = 10_000  # one set of test images for all networks, as they are compared on it
# From networks that have learned little to those that have memorised.
RANKED_EPOCHS = np.array([1, 2, 3, 4, 6, 9, 13, 19, 28, 40]) - 1
SCENARIOS: tuple[Scenario, ...] = ("linear", "sigmoid", "skewed", "centred", "discrete")
SLOW, FAST = optax.adam(3e-4), optax.adam(1e-3)


class ImageNetwork(eqx.Module):
    """An image to a logit."""

    layers: eqx.nn.MLP

    def __init__(self, key: Any):
        self.layers = eqx.nn.MLP(256, "scalar", 256, 3, key=key)

    def __call__(self, image: Any) -> Any:
        return self.layers(image.reshape(-1))


def shifted(key: Any, images: Any) -> Any:
    """All images of a batch moved round by up to two pixels each way."""
    return jnp.roll(images, random.randint(key, (2,), -2, 3), axis=(1, 2))


class Parts(NamedTuple):
    """Images to train on, to validate with, and to measure the error on."""

    train: KnownProbabilityImages
    validation: KnownProbabilityImages
    test: KnownProbabilityImages

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the recipes take."""
        return self.train.images, self.train.y, self.validation.images, self.validation.y


@functools.cache
def _parts(seed: int, n: int, n_validation: int, scenario: Scenario, n_test: int = N_TEST) -> Parts:
    train = known_probability_images(2 * seed, n, scenario)
    validation = known_probability_images(2 * seed + 1, n_validation, scenario)
    return Parts(train, validation, known_probability_images(TEST_SEED, n_test, scenario))


class Case(NamedTuple):
    """One training that is followed through all its epochs, on 2000 images without augmentation."""

    seed: int
    scenario: Scenario
    n_test: int = N_TEST
    redrawn: bool = False

    @property
    def parts(self) -> Parts:
        """Its images."""
        return _parts(self.seed, 2000, 1000, self.scenario, self.n_test)


class Trajectory(NamedTuple):
    """Probabilities after each of the epochs, the validation loss that chooses among them, and the error times 100."""

    validation: np.ndarray
    test: np.ndarray
    losses: np.ndarray
    errors: np.ndarray

    @property
    def best(self) -> int:
        """The epoch of the lowest validation loss."""
        return int(self.losses.argmin())


@functools.cache
def _trajectory(case: Case) -> Trajectory:
    """Train for all epochs, on the labels or on labels drawn again in each epoch, and keep every prediction."""
    parts = case.parts
    rows = Rows(
        jnp.asarray(parts.train.images),
        jnp.asarray(parts.train.y, jnp.float32),
        jnp.asarray(parts.validation.images),
        jnp.asarray(parts.validation.y, jnp.float32),
    )
    recipe = Recipe(cross_entropy, SLOW, 128, None)
    key_start, key_epochs, key_labels = random.split(random.key(case.seed), 3)
    network = ImageNetwork(key_start)
    state = compiled_start_state(SLOW, network)
    kept, losses, labels = ([], []), [], rows.y
    for index in range(N_EPOCHS):
        if case.redrawn:
            drawn = random.uniform(random.fold_in(key_labels, index), rows.y.shape)
            labels = (drawn < jnp.asarray(parts.train.probability, jnp.float32)).astype(jnp.float32)
        key = random.fold_in(key_epochs, index)
        network, state, _, loss = compiled_epoch(recipe, key, network, state, rows, labels, np.ones(()))
        losses.append(float(loss))
        for found, images in zip(kept, (rows.x_validation, parts.test.images), strict=True):
            found.append(expit(np.asarray(compiled_logits(network, jnp.asarray(images)), np.float64)))
    errors = np.array([100 * mse_to_truth(q, parts.test.probability) for q in kept[1]])
    return Trajectory(np.array(kept[0]), np.array(kept[1]), np.array(losses), errors)


QUICK = Case(0, "linear", n_test=2000)


def _cases(quick: bool) -> list[Case]:
    return [QUICK] if quick else [Case(seed, scenario) for scenario in ("linear", "discrete") for seed in range(3)]


@bench.claim("memorising labels: error to the true probabilities over that of early stopping", system=SYSTEM)
def memorisation(context: bench.Context) -> bench.Measured:
    """The least ratio of the runs, 2000 images without augmentation."""
    ratios, listed = [], []
    for case in _cases(context.quick):
        run = _trajectory(case)
        stopped, last = run.errors[run.best], run.errors[-1]
        ratios.append(last / stopped)
        listed.append(f"{case.scenario} {case.seed}: {stopped:.2f} (epoch {run.best + 1}) to {last:.2f}")
    detail = f"n = 2000, {N_EPOCHS} epochs, least of {len(ratios)}; error x 100: {'; '.join(listed)}"
    return bench.Measured(min(ratios), ">=", 2.5, "the network of the lowest validation cross entropy", detail)


@bench.claim("temperature scaling of a network that memorised lands between it and early stopping", system=SYSTEM)
def temperature_between(context: bench.Context) -> bench.Measured:
    """How many runs land elsewhere."""
    outside, listed = 0, []
    for case in _cases(context.quick):
        run = _trajectory(case)
        scale = Temperature().fit(run.validation[-1], case.parts.validation.y)
        scaled = 100 * mse_to_truth(scale(run.test[-1]), case.parts.test.probability)
        stopped, last = run.errors[run.best], run.errors[-1]
        outside += not stopped < scaled < last
        listed.append(f"{case.scenario} {case.seed}: {stopped:.2f}, {scaled:.2f}, {last:.2f}")
    detail = f"error x 100 stopped, scaled, memorised: {'; '.join(listed)}"
    return bench.Measured(outside, "==", 0, f"runs outside, of {len(listed)}", detail)


@bench.claim(
    "labels drawn again in each epoch are not memorised: error over that of early stopping", system=SYSTEM, quick=False
)
def redrawn_labels(context: bench.Context) -> bench.Measured:
    """The largest ratio; the last epoch, without choice."""
    ratios, listed = [], []
    for case in _cases(context.quick):
        run = _trajectory(case)
        stopped, redrawn = run.errors[run.best], _trajectory(case._replace(redrawn=True)).errors[-1]
        ratios.append(redrawn / stopped)
        listed.append(f"{case.scenario} {case.seed}: {redrawn:.2f} against {stopped:.2f}")
    detail = f"n = 2000, {N_EPOCHS} epochs; error x 100: {'; '.join(listed)}"
    return bench.Measured(max(ratios), "<=", 1.0, "early stopping on labels drawn once", detail)


GAIN_SEEDS: dict[Scenario, int] = {"linear": 5, "discrete": 3}


class Gains(NamedTuple):
    """Errors times 100 of one seed; where not said otherwise, the rate is constant for labels, and CaPE's for CaPE."""

    stopped: float
    continued: float
    continued_scheduled: float
    kernel: float
    kernel_constant: float
    bins: float
    calibrating_only: float
    platt: float
    platt_of_kernel: float


@functools.cache
def _gains(seed: int, scenario: Scenario, augmented: bool, n_validation: int) -> Gains:
    parts = _parts(100 + seed, 3000, n_validation, scenario)
    settings: Any = {"optimiser": FAST, "n_epochs": N_EPOCHS, "augment": shifted if augmented else None}
    key_start, key_stop, key_more = random.split(random.key(seed), 3)

    def error(probability: np.ndarray) -> float:
        return 100 * mse_to_truth(probability, parts.test.probability)

    def recalibrated(run: Any) -> float:
        platt = Platt().fit(run.probability(parts.validation.images), parts.validation.y)
        return error(platt(run.probability(parts.test.images)))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the validation loss was still falling")
        base = fit_early_stopped(key_stop, ImageNetwork(key_start), *parts.arguments, **settings)
        more = functools.partial(fit_early_stopped, key_more, base.network, *parts.arguments, **settings)
        cape = functools.partial(fit_cape, key_more, base.network, *parts.arguments, **settings)
        kernel = cape()
        runs = [base, more(), more(plateau=REFERENCE_PLATEAU), kernel, cape(plateau=None)]
        runs += [cape(targets="bin", ce_epochs=3), cape(ce_epochs=0)]
    errors = [error(run.probability(parts.test.images)) for run in runs]
    return Gains._make([*errors, recalibrated(base), recalibrated(kernel)])


# In the order of Gains.
WAYS = (
    "stopped",
    "continued",
    "continued with CaPE's schedule",
    "CaPE kernel c = 1",
    "the same at a constant rate",
    "CaPE bin c = 3",
    "calibrating only",
    "Platt of stopped",
    "Platt of CaPE",
)


def _listed(found: list[Gains]) -> str:
    """Mean errors, and those of each seed."""
    values = np.array(found)
    ways = (
        f"{name} {values[:, i].mean():.3f} ({'/'.join(f'{v:.2f}' for v in values[:, i])})"
        for i, name in enumerate(WAYS)
    )
    return f"n = 3000, {len(found)} seeds; error x 100, mean (by seed): {'; '.join(ways)}"


def _gain(
    scenario: Scenario, over: str, augmented: bool = True, n_validation: int = 3000, n_seeds: int | None = None
) -> tuple[float, str]:
    """CaPE's mean error over that of another way, and all errors in words."""
    seeds = range(n_seeds or GAIN_SEEDS[scenario])
    found = [_gains(seed, scenario, augmented, n_validation) for seed in seeds]
    ratio = np.mean([g.kernel for g in found]) / np.mean([getattr(g, over) for g in found])
    return float(ratio), f"{scenario}, {n_validation} validation images, {_listed(found)}"


@bench.claim("CaPE with shifted images: mean error over that of early stopping", system=SYSTEM, quick=False)
def cape_gain(context: bench.Context) -> bench.Measured:
    """The kernel with one epoch on labels between two that calibrate."""
    ratio, detail = _gain("linear", "stopped")
    return bench.Measured(ratio, "<=", 0.92, "early stopping, 40 epochs", detail)


@bench.claim(
    "CaPE with shifted images: mean error over that of as many more epochs on labels", system=SYSTEM, quick=False
)
def cape_control(context: bench.Context) -> bench.Measured:
    ratio, detail = _gain("linear", "continued")
    return bench.Measured(ratio, "<=", 0.92, "40 epochs more on labels, at the rate of the first", detail)


@bench.claim(
    "CaPE with shifted images: mean error over that of more epochs on labels with CaPE's schedule of the rate",
    system=SYSTEM,
    quick=False,
)
def cape_scheduled_control(context: bench.Context) -> bench.Measured:
    ratio, detail = _gain("linear", "continued_scheduled")
    return bench.Measured(ratio, "<=", 0.92, "40 epochs more on labels, the rate halved as CaPE's is", detail)


@bench.claim("CaPE with shifted images, discrete: mean error over that of early stopping", system=SYSTEM, quick=False)
def cape_gain_discrete(context: bench.Context) -> bench.Measured:
    ratio, detail = _gain("discrete", "stopped")
    return bench.Measured(ratio, "<=", 0.92, "early stopping, 40 epochs", detail)


@bench.claim("CaPE with shifted images: the worst seed's error over that of early stopping", system=SYSTEM, quick=False)
def cape_worst_seed(context: bench.Context) -> bench.Measured:
    ratios = {
        (scenario, seed): _gains(seed, scenario, True, 3000).kernel / _gains(seed, scenario, True, 3000).stopped
        for scenario, n_seeds in GAIN_SEEDS.items()
        for seed in range(n_seeds)
    }
    detail = "; ".join(f"{scenario} {seed}: {ratio:.3f}" for (scenario, seed), ratio in ratios.items())
    return bench.Measured(max(ratios.values()), "<=", 1.03, "early stopping, each seed by itself", detail)


@bench.claim("CaPE without augmentation: mean error over early stopping", system=SYSTEM, quick=False)
def cape_without_augmentation(context: bench.Context) -> bench.Measured:
    """No gain is expected here."""
    ratio, detail = _gain("linear", "stopped", augmented=False, n_seeds=3)
    return bench.Measured(ratio, "<=", 1.03, "early stopping; well below 1 would be a gain", detail)


@bench.claim(
    "CaPE with 1000 validation images, not 3000: mean error over that of more epochs on labels with its schedule",
    system=SYSTEM,
    quick=False,
)
def cape_few_validation_images(context: bench.Context) -> bench.Measured:
    """Fewer labels choose the epoch by chance, and its start where they find no better one."""
    ratio, detail = _gain("linear", "continued_scheduled", n_validation=1000)
    return bench.Measured(ratio, "<=", 1.0, "40 epochs more on labels, the rate halved as CaPE's is", detail)


SCORES = {
    "Brier": brier,
    "log loss": lambda q, y: log_loss(q, y).value,
    "ECE": lambda q, y: expected_calibration_error(q, y).value,
    "1 - AUC": lambda q, y: 1 - auc(q, y),
}


@functools.cache
def _ranks(quick: bool) -> dict[str, dict[str, float]]:
    """For each scenario, how each score ranks networks of several epochs and seeds, against the error."""
    scenarios: tuple[Scenario, ...] = ("linear",) if quick else SCENARIOS
    chosen = np.arange(N_EPOCHS) if quick else RANKED_EPOCHS
    ranks = {}
    for scenario in scenarios:
        scores, errors = {name: [] for name in SCORES}, []
        for case in [QUICK] if quick else [Case(seed, scenario) for seed in range(3)]:
            run = _trajectory(case)
            errors += run.errors[chosen].tolist()
            for q in run.test[chosen]:
                for name, score in SCORES.items():
                    scores[name].append(score(q, case.parts.test.y))
        found: dict[str, Any] = {name: stats.spearmanr(values, errors) for name, values in scores.items()}
        ranks[scenario] = {name: float(one.statistic) for name, one in found.items()}
    return ranks


def _listed_ranks(quick: bool) -> str:
    per = (
        "40 networks of one seed"
        if quick
        else "each 30 networks, 10 epochs of 3 seeds (1, 2, 3, 4, 6, 9, 13, 19, 28, 40)"
    )
    return f"{per}; " + "; ".join(
        f"{scenario}: " + ", ".join(f"{name} {rank:.3f}" for name, rank in ranks.items())
        for scenario, ranks in _ranks(quick).items()
    )


@bench.claim("rank correlation of the Brier score with the error to the true probabilities", system=SYSTEM)
def brier_ranks(context: bench.Context) -> bench.Measured:
    """The least of the scenarios."""
    least = min(ranks["Brier"] for ranks in _ranks(context.quick).values())
    return bench.Measured(least, ">", 0.9, "Spearman's correlation in a scenario", _listed_ranks(context.quick))


@bench.claim(
    "the Brier score ranks networks better than the calibration error and the AUC do", system=SYSTEM, quick=False
)
def other_ranks(context: bench.Context) -> bench.Measured:
    """The least margin of the scenarios."""
    margins = [ranks["Brier"] - max(ranks["ECE"], ranks["1 - AUC"]) for ranks in _ranks(context.quick).values()]
    return bench.Measured(min(margins), ">", 0.0, "the better of the two", _listed_ranks(context.quick))
