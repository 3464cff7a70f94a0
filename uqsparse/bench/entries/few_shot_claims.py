"""Claims about learning from few examples: exactness of the hierarchy, sine waves and lines, classes, memory."""

import time
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC, NUTS
from scipy.optimize import minimize

from uqsparse.bench.entries.few_shot_pictures import bands, class_bars
from uqsparse.bench.entries.few_shot_study import (
    CLASSIFIERS,
    N_STEPS,
    N_WAY,
    REGRESSORS,
    class_scores,
    error_without_adaptation,
    regression_scores,
    table,
)
from uqsparse.bench.records import Contest, Context, Measured
from uqsparse.bench.registry import claim, speed
from uqsparse.data.few_shot_tasks import FewShotTasks, sine_line_tasks
from uqsparse.models.few_shot_learner import clipped_adam
from uqsparse.models.meta_baselines import MAML
from uqsparse.models.niw_meta import NIWMeta

_SYSTEM = "Few-shot learning"
_D, _NOISE = 3, 0.5
_BASELINES = ("MAML", "Reptile")
_SPLITS = (0, 1, 2)
# Where all learners of classes are compared; elsewhere the two that the claims are about.
_ALL_LEARNERS = ("digits", 5)


# The hierarchy, where everything is known in closed form.


@cache
def linear_tasks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """400 linear regressions of five points: inputs (400, 5, 3) and targets (400, 5)."""
    rng = np.random.default_rng(seed)
    weights = np.array([1.0, -2.0, 0.5]) + np.sqrt([0.5, 1.5, 0.2]) * rng.normal(size=(400, _D))
    X = rng.normal(size=(400, 5, _D))
    return X, np.einsum("tnd,td->tn", X, weights) + _NOISE * rng.normal(size=(400, 5))


@cache
def expectation_maximisation(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variances of the weights of largest evidence, by 500 exact EM steps."""
    X, y = linear_tasks(seed)
    gram, right = np.einsum("tni,tnj->tij", X, X) / _NOISE**2, np.einsum("tni,tn->ti", X, y) / _NOISE**2
    mean, variances = np.zeros(_D), np.ones(_D)
    for _ in range(500):
        covariances = np.linalg.inv(gram + np.diag(1 / variances))
        means = np.einsum("tij,tj->ti", covariances, right + mean / variances)
        mean = means.mean(0)
        variances = ((means - mean) ** 2).mean(0) + np.einsum("tii->ti", covariances).mean(0)
    return mean, variances


def linear_learner(n0: float) -> NIWMeta:
    """The hierarchy of the linear tasks, its noise known."""
    return NIWMeta(
        eqx.nn.Identity(),
        x_size=_D,
        n0=n0,
        noise=_NOISE,
        learn_noise=False,
        use_bias=False,
    )


@cache
def belief_by_optimisation(seed: int, n0: float) -> tuple[np.ndarray, np.ndarray, float]:
    """m0, V0 / n0 and the objective where L-BFGS ends, in double precision."""
    X, y = linear_tasks(seed)
    with jax.enable_x64(True):
        model = linear_learner(n0)
        tasks = FewShotTasks(*(jnp.asarray(a) for a in (X[:, :2], y[:, :2, None], X[:, 2:], y[:, 2:, None])))

        @jax.jit
        @jax.value_and_grad
        def slope(p):
            moved = eqx.tree_at(lambda m: (m.prior_mean, m.log_precision), model, (p[None, :_D], p[None, _D:]))
            return moved.loss(tasks, jax.random.key(0))

        found = minimize(
            lambda p: [np.asarray(a, float) for a in slope(jnp.asarray(p))],
            np.zeros(2 * _D),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10},
        )
    return found.x[:_D], np.exp(-found.x[_D:]), float(found.fun)


@claim("The belief of 400 linear tasks is the maximum of exact EM", system=_SYSTEM)
def belief_is_that_of_em(context: Context) -> Measured:
    """Largest distance of m0 and V0 / n0 from EM's mean and variances."""
    n0s = (20.0,) if context.quick else (5.0, 20.0, 100.0, 1000.0)
    mean, variances = expectation_maximisation(context.seed)
    worst = 0.0
    for n0 in n0s:
        m0, found, _ = belief_by_optimisation(context.seed, n0)
        worst = max(worst, abs(m0 - mean).max(), abs(found - variances).max())
    return Measured(worst, "<=", 1e-6, "exact EM", f"n0 = {', '.join(f'{n0:g}' for n0 in n0s)}; d = 3, 5 points a task")


@claim("The objective falls with n0 and moves nothing: n0 cannot be learned", system=_SYSTEM, quick=False)
def n0_is_not_identified(context: Context) -> Measured:
    """Largest change of m0 and V0 / n0 between n0 = 5, 20, 100 and 1,000; the objective must fall."""
    found = [belief_by_optimisation(context.seed, n0) for n0 in (5.0, 20.0, 100.0, 1000.0)]
    values = [one[2] for one in found]
    assert values == sorted(values, reverse=True)
    moved = max(abs(np.r_[one[0], one[1]] - np.r_[found[0][0], found[0][1]]).max() for one in found)
    return Measured(moved, "<=", 1e-6, "0", "objective " + ", ".join(f"{value:.4f}" for value in values))


@claim("Local posteriors are conjugate to rounding", system=_SYSTEM)
def local_posteriors_are_exact(context: Context) -> Measured:
    """Largest distance of means and variances of 20 tasks from dense inverses, in double precision."""
    X, y = linear_tasks(context.seed)
    worst = 0.0
    with jax.enable_x64(True):
        model = linear_learner(20.0)
        for one, targets in zip(X[:20], y[:20], strict=True):
            local = model.adapt(one, targets[:, None])
            covariance = np.linalg.inv(one.T @ one / _NOISE**2 + np.eye(_D))
            mean = covariance @ one.T @ targets / _NOISE**2
            worst = max(worst, abs(local.mean[0] - mean).max(), abs(local.variance[0] - np.diag(covariance)).max())
    return Measured(float(worst), "<=", 1e-10, "dense inverse", "5 points, 3 weights")


def hierarchy(X, y):
    """The linear tasks with flat priors, their weights integrated out."""
    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real_vector, (), (_D,)))
    logs = numpyro.sample("log_variance", dist.ImproperUniform(dist.constraints.real_vector, (), (_D,)))
    covariance = jnp.einsum("tni,i,tmi->tnm", X, jnp.exp(logs), X) + _NOISE**2 * jnp.eye(X.shape[1])
    # In single precision the covariances are symmetric but for rounding, which NumPyro's check refuses.
    numpyro.sample("y", dist.MultivariateNormal(X @ mean, covariance, validate_args=False), obs=y)


@claim("NUTS on the hierarchy agrees with the belief's point", system=_SYSTEM, quick=False)
def nuts_agrees(context: Context) -> Measured:
    """Largest distance of m0 and log V0 / n0 from NUTS' means, in posterior standard deviations."""
    m0, variances, _ = belief_by_optimisation(context.seed, 20.0)
    X, y = linear_tasks(context.seed)
    mcmc = MCMC(NUTS(hierarchy), num_warmup=300, num_samples=600, progress_bar=False)
    mcmc.run(jax.random.key(context.seed), jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32))
    draws = np.concatenate([mcmc.get_samples()["mean"], mcmc.get_samples()["log_variance"]], axis=1)
    away = abs(draws.mean(0) - np.r_[m0, np.log(variances)]) / draws.std(0)
    return Measured(float(away.max()), "<=", 1.0, "NUTS", "flat priors on mean and log variances, 600 draws")


# Sine waves and lines.


def _both(context: Context, names: tuple[str, ...], n_shot: int) -> str:
    return "; ".join(f"{name}: {regression_scores(name, n_shot, context.seed)}" for name in names)


@claim("NIW head: squared error below 0.45 at 10 shots, sine waves and lines", system=_SYSTEM, quick=False)
def head_error(context: Context) -> Measured:
    """400 test tasks of 50 queries; noise alone has 0.09."""
    found = regression_scores("NIW head", 10, context.seed)
    return Measured(
        found.mse[0], "<", 0.45, "noise 0.09", f"{N_STEPS} steps of 20 episodes; {found}", (bands(context.seed),)
    )


@claim("NIW head: negative log density below 0.8 at 10 shots", system=_SYSTEM, quick=False)
def head_density(context: Context) -> Measured:
    """Of the same tasks."""
    found = regression_scores("NIW head", 10, context.seed)
    return Measured(found.nll[0], "<", 0.8, "noise 0.215", str(found))


@claim("NIW head: 90% intervals cover 88 to 92% at 10 shots", system=_SYSTEM, quick=False)
def head_coverage(context: Context) -> Measured:
    """|coverage - 0.9| of 20,000 queries."""
    found = regression_scores("NIW head", 10, context.seed)
    return Measured(abs(found.coverage - 0.9), "<", 0.02, "0", str(found))


@claim("A Gauss-Newton NIW network has a lower log loss than MAML, same steps", system=_SYSTEM, quick=False)
def gauss_newton_beats_maml(context: Context) -> Measured:
    """Difference of the mean negative log densities at 10 shots."""
    ours, peer = (regression_scores(name, 10, context.seed) for name in ("NIW net, Gauss-Newton", "MAML"))
    return Measured(ours.nll[0] - peer.nll[0], "<", 0.0, "MAML", f"ours: {ours}; MAML: {peer}")


@claim("The Langevin NIW network halves the error of its mean", system=_SYSTEM, quick=False)
def langevin_adapts(context: Context) -> Measured:
    """Squared error of the network at m0 over that after adaptation, 10 shots."""
    found = regression_scores("NIW net, Langevin", 10, context.seed)
    before = error_without_adaptation("NIW net, Langevin", 10, context.seed)
    return Measured(before / found.mse[0], ">=", 2.0, "no adaptation", f"before {before:.2f}; {found}")


@claim("At 5 shots the NIW head errs less than MAML and Reptile", system=_SYSTEM, quick=False)
def head_error_at_five(context: Context) -> Measured:
    """Squared error over that of the better of the two, all trained on 5 shots."""
    ours = regression_scores("NIW head", 5, context.seed)
    best = min(regression_scores(name, 5, context.seed).mse[0] for name in _BASELINES)
    detail = _both(context, ("NIW head", *_BASELINES), 5)
    return Measured(ours.mse[0] / best, "<", 1.0, "the better of MAML and Reptile", detail)


@claim("At 5 shots the NIW head is better calibrated than MAML and Reptile", system=_SYSTEM, quick=False)
def head_calibration_at_five(context: Context) -> Measured:
    """Calibration error over that of the better of the two."""
    ours = regression_scores("NIW head", 5, context.seed)
    best = min(regression_scores(name, 5, context.seed).calibration_error for name in _BASELINES)
    return Measured(ours.calibration_error / best, "<", 1.0, "the better of MAML and Reptile", "mean over 19 levels")


@claim("More shots help a head that was trained on 10", system=_SYSTEM, quick=False)
def more_shots_help(context: Context) -> Measured:
    """The larger of the ratios of squared errors at 10 and 5 shots, and at 20 and 10."""
    found = [regression_scores("NIW head", n, context.seed, n_train=10) for n in (5, 10, 20)]
    worst = max(found[1].mse[0] / found[0].mse[0], found[2].mse[0] / found[1].mse[0])
    detail = "; ".join(f"{n} shots: {one}" for n, one in zip((5, 10, 20), found, strict=True))
    return Measured(worst, "<", 1.0, "fewer shots", detail)


@claim("Heads whose posteriors are of all points beat those of the support", system=_SYSTEM, quick=False)
def support_or_all(context: Context) -> Measured:
    """Difference in negative log density at 10 shots: trained with posteriors of all points, less of the support."""
    names = ("NIW head", "NIW head, local from the support")
    everything, support = (regression_scores(name, 10, context.seed) for name in names)
    detail = f"all: {everything}; support: {support}"
    return Measured(everything.nll[0] - support.nll[0], "<", 0.0, "posteriors of the support", detail)


# What a step costs.


def _slope_size(model: Any, tasks: FewShotTasks) -> int:
    """Bytes of temporary memory of one compiled training gradient."""
    slope = eqx.filter_jit(eqx.filter_grad(lambda m: m.loss(tasks, jax.random.key(0))))
    return slope.lower(model).compile().compiled.memory_analysis().temp_size_in_bytes


def _sizes(make: Any, steps: tuple[int, ...]) -> list[int]:
    tasks = sine_line_tasks(jax.random.key(0), 20, n_support=10)
    network = eqx.nn.MLP(1, 1, 40, 2, key=jax.random.key(0))
    return [_slope_size(make(network, n), tasks) for n in steps]


@claim("Memory of a step is flat in the inner steps, where MAML's grows", system=_SYSTEM, quick=False)
def memory_is_flat(context: Context) -> Measured:
    """Largest temporary memory over 1 to 20 inner steps over the smallest, Gauss-Newton and Langevin networks."""
    steps = (1, 2, 5, 10, 20)
    ours = {
        "Gauss-Newton": _sizes(lambda net, n: NIWMeta(net, local="ggn", inner_steps=n), steps[1:]),
        "Langevin": _sizes(lambda net, n: NIWMeta(net, local="sgld", inner_steps=n), steps[1:]),
    }
    maml = _sizes(lambda net, n: MAML(net, inner_steps=n), steps)
    worst = max(max(sizes) / min(sizes) for sizes in ours.values())
    listed = "; ".join(f"{name} {', '.join(f'{s / 2**20:.2f}' for s in sizes)}" for name, sizes in ours.items())
    return Measured(
        worst,
        "<=",
        1.1,
        "1",
        f"MiB at 2, 5, 10, 20 steps: {listed}; MAML at 1, 2, 5, 10, 20: "
        f"{', '.join(f'{s / 2**20:.2f}' for s in maml)}, {maml[-1] / maml[0]:.1f} times",
    )


@claim("A step of the NIW head takes no longer than MAML's, 5 to 100 shots", system=_SYSTEM, quick=False)
def time_of_a_step(context: Context) -> Measured:
    """CPU seconds of a gradient over MAML's with five inner steps, the largest of three numbers of shots."""
    ratios, listed = [], []
    for n_shot in (5, 20, 100):
        tasks = sine_line_tasks(jax.random.key(0), 20, n_support=n_shot)
        slopes = [
            eqx.filter_jit(eqx.filter_grad(lambda m, tasks=tasks: m.loss(tasks, jax.random.key(0)))) for _ in range(2)
        ]
        models = [REGRESSORS[name](jax.random.key(0)) for name in ("NIW head", "MAML")]
        seconds = np.zeros((2, 8))
        for turn in range(8):
            for side, (slope, model) in enumerate(zip(slopes, models, strict=True)):
                start = time.process_time()
                for _ in range(5):
                    jax.block_until_ready(slope(model))
                seconds[side, turn] = (time.process_time() - start) / 5
        ours, peer = np.median(seconds[:, 1:], axis=1)
        ratios.append(ours / peer)
        listed.append(f"{n_shot} shots {1e3 * ours:.1f} against {1e3 * peer:.1f} ms")
    return Measured(float(max(ratios)), "<=", 1.0, "MAML, 5 inner steps", "; ".join(listed))


@speed(
    "Training the NIW head, one step",
    ours="fit",
    peer="the same loss in a hand-written loop of Optax",
    at_least=0.95,
    unit="step",
    quick=False,
)
def harness_against_a_plain_loop(context: Context) -> Contest:
    """200 steps of 20 episodes, compiled before."""
    n_steps, optimiser = 200, clipped_adam(1e-3, 10_000)
    start = REGRESSORS["NIW head"](jax.random.key(0))

    @eqx.filter_jit
    def step(model, state, key):
        key_batch, key_loss = jax.random.split(key)
        value, slope = eqx.filter_value_and_grad(lambda m: m.loss(sine_line_tasks(key_batch, 20), key_loss))(model)
        updates, state = optimiser.update(slope, state)
        return eqx.apply_updates(model, updates), state, value

    def plain(i):
        model, state = start, optimiser.init(eqx.filter(start, eqx.is_inexact_array))
        values = []
        for key in jax.random.split(jax.random.key(i), n_steps):
            model, state, value = step(model, state, key)
            values.append(value)
        return jax.device_get(values)

    def ours(i):
        return start.fit(sine_line_tasks, jax.random.key(i), n_steps, optimiser=optimiser, steps_per_call=50).losses

    assert isinstance(optimiser, optax.GradientTransformation)
    return Contest(ours, plain, rounds=5, work=lambda results: n_steps)


# Classes.


def _over_splits(name: str, data: str, n_shot: int) -> dict[str, np.ndarray]:
    found = [class_scores(name, data, n_shot, split) for split in _SPLITS]
    return {
        "accuracy": np.array([one.accuracy[0] for one in found]),
        "nll": np.array([one.nll for one in found]),
        "ece": np.array([one.ece for one in found]),
        "ece_after": np.array([one.ece_after for one in found]),
    }


def _described(name: str, data: str, n_shot: int) -> str:
    found = _over_splits(name, data, n_shot)
    error = found["accuracy"].std(ddof=1) / np.sqrt(len(_SPLITS))
    return (
        f"{name}: accuracy {found['accuracy'].mean():.3f} ± {error:.3f}, NLL {found['nll'].mean():.3f}, "
        f"ECE {found['ece'].mean():.3f}, with temperature {found['ece_after'].mean():.3f}"
    )


def _register_classes(data: str, n_shot: int) -> None:
    """The claims about one data set and number of shots."""
    title = f"{data}, {N_WAY[data]}-way {n_shot}-shot"

    @claim(f"NIW head is at most 0.03 less accurate than ProtoNet: {title}", system=_SYSTEM, quick=False)
    def accuracy(context: Context) -> Measured:
        """Mean accuracy over three splits of the classes, less ProtoNet's."""
        ours, peer = (_over_splits(name, data, n_shot)["accuracy"].mean() for name in ("NIW head", "ProtoNet"))
        names = tuple(CLASSIFIERS) if (data, n_shot) == _ALL_LEARNERS else ("NIW head", "ProtoNet")
        detail = "; ".join(_described(name, data, n_shot) for name in names)
        return Measured(
            ours - peer,
            ">=",
            -0.03,
            "ProtoNet",
            f"{table(data, 0).source}, classes not seen in training, 300 tasks of each of 3 splits; {detail}",
            (class_bars(data, n_shot, {name: _over_splits(name, data, n_shot) for name in names}),),
        )

    @claim(f"NIW head is calibrated no worse than ProtoNet: {title}", system=_SYSTEM, quick=False)
    def calibration(context: Context) -> Measured:
        """Mean calibration error over the splits, less that of ProtoNet with its learned temperature."""
        ours, peer = (_over_splits(name, data, n_shot)["ece"].mean() for name in ("NIW head", "ProtoNet"))
        detail = "; ".join(_described(name, data, n_shot) for name in ("NIW head", "ProtoNet"))
        return Measured(ours - peer, "<=", 0.0, "ProtoNet", detail)


for _data in N_WAY:
    for _n_shot in (1, 5):
        _register_classes(_data, _n_shot)
