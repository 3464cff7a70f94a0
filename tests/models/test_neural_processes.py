"""What every neural process owes: no order, no padding, no NaN; and what its door refuses."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.stats import norm

from uqsparse.models.neural_processes import (
    ANP,
    BANP,
    BNP,
    CANP,
    CNP,
    MPANP,
    MPNP,
    NP,
    Mixture,
    count_parameters,
    log_likelihoods,
)
from uqsparse.models.neural_processes.process import context_points

SMALL = {"width": 8, "encoder_depth": 2, "decoder_depth": 2, "min_scale": 0.05}
HEADS = {"heads": 2}


@eqx.filter_jit  # one program for all the first weights
def _models(key):
    keys = jax.random.split(key, 8)
    return {
        "CNP": CNP(1, 2, **SMALL, key=keys[0]),
        "CANP": CANP(1, 2, **SMALL, **HEADS, key=keys[1]),
        "NP": NP(1, 2, **SMALL, key=keys[2]),
        "ANP": ANP(1, 2, **SMALL, **HEADS, key=keys[3]),
        "BNP": BNP(1, 2, **SMALL, key=keys[4]),
        "BANP": BANP(1, 2, **SMALL, **HEADS, key=keys[5]),
        "MPNP": MPNP(1, 2, **SMALL, **HEADS, n_pseudo=3, key=keys[6]),
        "MPANP": MPANP(1, 2, **SMALL, **HEADS, n_pseudo=3, key=keys[7]),
    }


MODELS = _models(jax.random.key(0))
N_COMPONENTS = {"CNP": 1, "CANP": 1}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 1)), RNG.normal(size=(6, 2))
AT, KEY = RNG.normal(size=(4, 1)), jax.random.key(9)
MASK = np.array([True, True, False, True, True, False])


class Tasks(NamedTuple):
    """Three tasks: four points of context, one, and none."""

    context_x: np.ndarray = RNG.normal(size=(3, 6, 1)).astype(np.float32)
    context_y: np.ndarray = RNG.normal(size=(3, 6, 2)).astype(np.float32)
    context_mask: np.ndarray = np.array([MASK, np.arange(6) == 2, np.zeros(6, bool)])
    target_x: np.ndarray = RNG.normal(size=(3, 4, 1)).astype(np.float32)
    target_y: np.ndarray = RNG.normal(size=(3, 4, 2)).astype(np.float32)
    target_mask: np.ndarray = np.array([[True] * 4, [True, True, False, True], [False, True, True, True]])


def poisoned(tasks):
    """The same tasks with something else in their padding."""
    parts = {
        name: np.where(getattr(tasks, f"{name[:-2]}_mask")[..., None], getattr(tasks, name), np.nan)
        for name in ("context_x", "context_y", "target_x", "target_y")
    }
    return tasks._replace(**parts)


class Seen(NamedTuple):
    """Loss, its slope, and predictions: all that is asked of a model, from one compiled program."""

    loss: np.ndarray
    slope: list[np.ndarray]
    means: np.ndarray
    scales: np.ndarray


@eqx.filter_jit
def _seen(model, tasks, key):
    if isinstance(model, BANP):  # its slopes are those of BNP's and CANP's parts, and dear to compile
        loss, slope = model.loss(tasks, key), []
    else:
        loss, slope = eqx.filter_value_and_grad(lambda model: model.loss(tasks, key))(model)
    mixture = model.components(context_points(tasks), tasks.target_x, key, 5)
    return loss, jax.tree.leaves(slope), *mixture


def seen(model, tasks) -> Seen:
    return Seen(*jax.device_get(_seen(model, tasks, KEY)))


@pytest.mark.parametrize("name", MODELS)
def test_order_and_padding_do_not_matter_and_nothing_is_nan(name):
    model, tasks = MODELS[name], Tasks()
    found = seen(model, tasks)
    assert found.means.shape == found.scales.shape == (N_COMPONENTS.get(name, 5), 3, 4, 2)
    assert (found.scales >= 0.05).all()
    assert all(np.isfinite(array).all() for array in (found.loss, found.means, found.scales, *found.slope))
    assert all(np.abs(slope).max() > 0 for slope in found.slope)  # every part learns
    if name not in N_COMPONENTS:
        assert found.means[:, 0].std(axis=0).max() > 1e-5
    other = seen(model, poisoned(tasks))
    assert other.loss == found.loss
    for one, two in zip(other.slope, found.slope, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(*(np.where(tasks.target_mask[..., None], x.means, 0) for x in (other, found)))

    parts = tasks._asdict()
    rows, ats = np.array([4, 1, 0, 5, 3, 2]), np.array([3, 1, 0, 2])
    if name in ("BNP", "BANP"):  # they resample by position, so that only the law does not know the order
        rows = np.arange(6)
    shuffled = seen(model, Tasks(*(parts[k][:, rows if k.startswith("context") else ats] for k in parts)))
    np.testing.assert_allclose(shuffled.means, found.means[:, :, ats], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shuffled.scales, found.scales[:, :, ats], rtol=1e-4, atol=1e-5)
    if name not in ("NP", "ANP"):  # whose loss sees the union of both
        np.testing.assert_allclose(shuffled.loss, found.loss, rtol=1e-4)


def test_contexts_are_looked_at():
    tasks = Tasks()
    moved = tasks._replace(context_y=tasks.context_y + np.float32(1))
    for name in ("CNP", "CANP"):
        assert np.abs(seen(MODELS[name], moved).means[:, :2] - seen(MODELS[name], tasks).means[:, :2]).max() > 1e-3


@pytest.mark.parametrize("name", ["CNP", "CANP"])
def test_contexts_without_rows_are_masked_contexts(name):
    """CNP pools and CANP attends over nothing at all."""
    nothing = MODELS[name].predict(np.zeros((0, 1)), np.zeros((0, 2)), AT, KEY, 5)
    masked = MODELS[name].predict(X, Y, AT, KEY, 5, context_mask=np.zeros(6, bool))
    np.testing.assert_allclose(nothing.means, masked.means, rtol=1e-4, atol=1e-5)
    unpadded = MODELS[name].predict(X[MASK], Y[MASK], AT, KEY, 5)
    padded = MODELS[name].predict(*(np.where(MASK[:, None], a, np.nan) for a in (X, Y)), AT, KEY, 5, context_mask=MASK)
    np.testing.assert_allclose(unpadded.means, padded.means, rtol=1e-4, atol=1e-5)


def test_tasks_are_predicted_and_scored_as_one_by_one():
    model, tasks = MODELS["CNP"], Tasks()
    together = model.predict_tasks(poisoned(tasks), KEY)
    scores = log_likelihoods(model, poisoned(tasks), KEY, batch_size=2)
    for i in range(3):
        alone = model.predict(
            tasks.context_x[i], tasks.context_y[i], tasks.target_x[i], KEY, context_mask=tasks.context_mask[i]
        )
        there = tasks.target_mask[i]
        np.testing.assert_allclose(together.means[:, i, there], alone.means[:, there], rtol=1e-4, atol=1e-5)
        density = norm.logpdf(tasks.target_y[i], alone.means[0], alone.scales[0]).sum(-1)[there]
        np.testing.assert_allclose(scores.target[i], density.mean(), rtol=1e-4)
        np.testing.assert_allclose(scores.joint[i], density.mean(), rtol=1e-4)  # one component
    assert scores.context[2] == 0


def test_scores_of_mixtures():
    """NP on all tasks at once, against SciPy on its own components."""
    model, tasks = MODELS["NP"], Tasks()
    scores = log_likelihoods(model, tasks, KEY, 5)
    mixture = model.predict_tasks(tasks, KEY, 5)
    density = norm.logpdf(tasks.target_y, mixture.means, mixture.scales).sum(-1)
    for i, there in enumerate(tasks.target_mask):
        by_point = np.log(np.exp(density[:, i, there]).mean(0)).mean()
        at_once = np.log(np.exp(density[:, i, there].sum(-1)).mean()) / there.sum()
        np.testing.assert_allclose(scores.target[i], by_point, rtol=1e-4)
        np.testing.assert_allclose(scores.joint[i], at_once, rtol=1e-4)


def test_numbers_of_parameters():
    assert count_parameters(MODELS["CNP"]) == (3 * 8 + 8) + (8 * 8 + 8) + 2 * (8 * 8 + 8) + (9 * 8 + 8 + 8 * 4 + 4)


def test_bad_contexts_are_refused():
    model = MODELS["MPNP"]
    cases = {
        r"context_x must have shape \(any, 1\), got \(6,\)": (X[:, 0], Y, AT),
        r"context_y must have shape \(6, 2\), got \(5, 2\)": (X, Y[:5], AT),
        r"target_x must have shape \(any, 1\), got \(4, 2\)": (X, Y, np.zeros((4, 2))),
        "context_y has 1 values that are NaN or infinite": (
            X,
            np.where(np.arange(12).reshape(6, 2) == 3, np.nan, Y),
            AT,
        ),
        "target_x has 4 values that are NaN or infinite": (X, Y, AT * np.inf),
        "context_x must hold real numbers": (X.astype(complex), Y, AT),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            model.predict(*arguments, KEY)
    with pytest.raises(ValueError, match=r"the mask of context_x must have shape \(6,\), got \(5,\)"):
        model.predict(X, Y, AT, KEY, context_mask=MASK[:5])
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        model.predict(X, Y, AT, KEY, 0)


def test_bad_tasks_are_refused():
    model, tasks = MODELS["CNP"], Tasks()
    cases = {
        r"tasks need context_x, context_y and context_mask, got tuple": tuple(tasks),
        r"target_mask must be a boolean array": tasks._replace(target_mask=tasks.target_mask.astype(float)),
        r"target_y must have shape \(3, 4, 2\), got \(3, 4, 1\)": tasks._replace(target_y=tasks.target_y[..., :1]),
        "context_x has 4 values that are NaN": tasks._replace(context_x=tasks.context_x * [[[np.nan]], [[1]], [[1]]]),
        "as many tasks": tasks._replace(**{k: getattr(tasks, k)[:2] for k in ("target_x", "target_y", "target_mask")}),
    }
    for message, bad in cases.items():
        with pytest.raises(ValueError, match=message):
            log_likelihoods(model, bad, KEY)


def test_bad_settings_are_refused():
    key = jax.random.key(0)
    cases = [
        ("min_scale must lie strictly between 0 and 1, got 0", lambda: CNP(1, 1, min_scale=0, key=key)),
        ("width must be an integer of at least 1, got 0", lambda: NP(1, 1, width=0, key=key)),
        ("heads must divide the size 8, got 3", lambda: CANP(1, 1, width=8, heads=3, key=key)),
        ("training_samples must be an integer of at least 1, got 0", lambda: ANP(1, 1, training_samples=0, key=key)),
        ("coherence must be one of 'pointwise', 'joint', got 'both'", lambda: BNP(1, 1, coherence="both", key=key)),
        ("n_pseudo must be an integer of at least 0, got -1", lambda: MPNP(1, 1, n_pseudo=-1, key=key)),
        (
            "pseudo_weight must be a finite number of at least 0, got nan",
            lambda: MPANP(1, 1, pseudo_weight=float("nan"), key=key),
        ),
    ]
    for message, build in cases:
        with pytest.raises(ValueError, match=message):
            build()


def test_mixtures_are_those_of_scipy():
    rng = np.random.default_rng(5)
    means, scales, y = rng.normal(size=(3, 4, 2)), rng.uniform(0.2, 1, (3, 4, 2)), rng.normal(size=(4, 2))

    @jax.jit
    def answers(mixture):
        one = Mixture(*(x[:1] for x in mixture))
        return {
            "log_prob": mixture.log_prob(y),
            "joint": mixture.joint_log_prob(y),
            "masked": mixture.joint_log_prob(y, there),
            "moments": (mixture.mean, mixture.standard_deviation),
            "one": (one.joint_log_prob(y), one.log_prob(y).sum()),
            "draws": mixture.sample(jax.random.key(0), 20_000),
        }

    there = np.array([True, False, True, True])
    found = jax.device_get(answers(Mixture(means.astype(np.float32), scales.astype(np.float32))))
    densities = norm.pdf(y, means, scales).prod(-1)
    np.testing.assert_allclose(found["log_prob"], np.log(densities.mean(0)), rtol=1e-4)
    np.testing.assert_allclose(found["joint"], np.log(densities.prod(-1).mean()), rtol=1e-4)
    np.testing.assert_allclose(found["masked"], np.log(densities[:, there].prod(-1).mean()), rtol=1e-4)
    np.testing.assert_allclose(*found["one"], rtol=1e-5)
    mean, deviation = found["moments"]
    np.testing.assert_allclose(mean, means.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(deviation**2, (scales**2 + means**2).mean(0) - means.mean(0) ** 2, rtol=1e-4)
    # Moments of 20,000 draws: within 5 standard errors, false alarms under 1e-4 for the 8 comparisons.
    draws = found["draws"]
    assert draws.shape == (20_000, 4, 2)
    assert (np.abs(draws.mean(0) - mean) < 5 * deviation / np.sqrt(len(draws))).all()
    assert (np.abs(draws.std(0) / deviation - 1) < 0.05).all()
    # A draw takes one component at all targets.
    expected = np.mean((means[:, 0, 0] - means[:, 0, 0].mean()) * (means[:, 1, 1] - means[:, 1, 1].mean()))
    expected /= deviation[0, 0] * deviation[1, 1]
    assert abs(np.corrcoef(draws[:, 0, 0], draws[:, 1, 1])[0, 1] - expected) < 0.04
