"""Claims about neural processes: which predicts better at equal size and effort, and what they are good for."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.bench.entries import neural_process_pictures as pictures
from uqsparse.bench.entries import neural_process_study as study
from uqsparse.bench.entries.neural_process_uses import (
    N_PIXELS,
    completion_errors,
    population_scores,
    regrets,
    search_curves,
)
from uqsparse.bench.records import Context, Measured
from uqsparse.bench.registry import claim
from uqsparse.data.tasks import Kernel, Tasks
from uqsparse.models.neural_processes import ANP, BANP, BNP, CANP, CNP, MPANP, MPNP, NP, Mixture, log_likelihoods
from uqsparse.models.neural_processes.process import NeuralProcess, context_points

_SYSTEM = "Neural processes"
_SMOOTH: tuple[Kernel, ...] = ("rbf", "matern")
_ALL = (CNP, CANP, NP, ANP, BNP, BANP, MPNP, MPANP)
_HOW = (
    f"{study.N_STEPS:,} steps of {study.BATCH} tasks, about 63,000 parameters each, pseudo_weight "
    f"{study.PSEUDO_WEIGHT:g}, {len(study.SEEDS)} seeds, {study.N_TEST} test tasks, {study.N_SAMPLES} draws"
)


def _small(kind, rng) -> NeuralProcess:
    """A network of random weights from NumPy: to compile the first weights takes longer than the rest."""
    shapes = eqx.filter_eval_shape(kind, 1, 1, width=16, encoder_depth=2, decoder_depth=2, key=jax.random.key(0))

    def drawn(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[-1]), leaf.dtype)

    return jax.tree.map(drawn, shapes)


@eqx.filter_jit
def _predictions(model, key, variants: Tasks) -> Mixture:
    return jax.vmap(lambda tasks: model.components(context_points(tasks), tasks.target_x, key, 3))(variants)


@claim("Predictions do not depend on the order of the context, nor on padding", system=_SYSTEM)
def order_and_padding_do_not_matter(context: Context) -> Measured:
    """Largest change of a mean or scale, small networks of random weights, 5 tasks of 1 to 9 points.

    Bootstrapping networks resample rows by number, so those are compared on average only, by tests; they are left out.
    """
    kinds = (CNP, MPANP) if context.quick else tuple(kind for kind in _ALL if kind not in (BNP, BANP))
    rng = np.random.default_rng(context.seed)
    x, y, at = (rng.standard_normal((5, n, 1)).astype(np.float32) for n in (9, 9, 6))
    mask = np.arange(9) < np.arange(1, 10, 2)[:, None]
    order = rng.permutation(9)
    # Padding that would be seen if it were looked at.
    far = np.where(mask[..., None], y, np.float32(1e3))
    variants = (x, y, mask), (x[:, order], y[:, order], mask[:, order]), (x, far, mask)
    targets = at, at, np.ones((5, 6), bool)
    tasks = Tasks(*(jnp.stack(parts) for parts in zip(*((*variant, *targets) for variant in variants), strict=True)))
    worst = 0.0
    for kind in kinds:
        found = _predictions(_small(kind, rng), jax.random.key(context.seed), tasks)
        worst = max(worst, *(float(np.ptp(np.asarray(part), axis=0).max()) for part in found))
    return Measured(worst, "<=", 1e-5, "0", f"{len(kinds)} architectures, single precision")


def _table(score: str = "target") -> str:
    """Mean scores of all networks by kernel, with the standard error of the lead of the martingale process."""
    rows = []
    for kernel in study.KERNELS:
        values = ", ".join(
            f"{name} {np.mean([getattr(study.scores(name, seed, kernel), score) for seed in study.SEEDS]):.3f}"
            for name in study.NETWORKS
        )
        rows.append(f"{kernel}: {values}")
    return "; ".join(rows)


@claim("MPNP predicts held-out points better than CNP, NP and BNP of its size", system=_SYSTEM, quick=False)
def mpnp_leads(context: Context) -> Measured:
    """Kernels of four on which its log likelihood of targets is above all three, by more than two standard errors."""
    leads = {
        kernel: min((study.differences("MPNP", other, kernel) for other in ("CNP", "NP", "BNP")), key=lambda d: d[0])
        for kernel in study.KERNELS
    }
    won = sum(lead > 2 * error for lead, error in leads.values())
    least = ", ".join(f"{kernel} {lead:+.3f} ± {error:.3f}" for kernel, (lead, error) in leads.items())
    return Measured(
        won,
        ">=",
        3,
        "CNP, NP, BNP",
        f"{_HOW}; target log likelihood per point: {_table()}; lead over the best other: {least}",
        (pictures.bands_picture(), pictures.leads_picture()),
    )


@claim("MPNP gains 0.02 nats a point over CNP on RBF and Matérn functions", system=_SYSTEM, quick=False)
def mpnp_gains_on_cnp(context: Context) -> Measured:
    """The smaller gain of two, target log likelihood per point."""
    gains = {kernel: study.differences("MPNP", "CNP", kernel) for kernel in _SMOOTH}
    oracle = {kernel: study.oracle_scores(kernel).target.mean() for kernel in gains}
    detail = ", ".join(
        f"{kernel} {gain:.3f} ± {error:.3f} (true Gaussian process {oracle[kernel]:.2f})"
        for kernel, (gain, error) in gains.items()
    )
    return Measured(min(gain for gain, _ in gains.values()), ">=", 0.02, "CNP", f"{_HOW}; {detail}")


@claim("MPNP is at most 0.01 nats a point behind BNP on RBF and Matérn functions", system=_SYSTEM, quick=False)
def mpnp_is_not_behind_bnp(context: Context) -> Measured:
    """The smaller lead of two, target log likelihood per point; the joint one in the detail."""
    leads = {kernel: study.differences("MPNP", "BNP", kernel) for kernel in _SMOOTH}
    joint = {kernel: study.differences("MPNP", "BNP", kernel, "joint") for kernel in _SMOOTH}
    detail = ", ".join(
        f"{kernel} {lead:+.3f} ± {error:.3f}, joint {joint[kernel][0]:+.3f} ± {joint[kernel][1]:.3f}"
        for kernel, (lead, error) in leads.items()
    )
    return Measured(min(lead for lead, _ in leads.values()), ">=", -0.01, "BNP", f"{_HOW}; {detail}")


@cache
def _ablation(n_steps: int) -> dict[str, tuple[float, float, float]]:
    """Target and joint log likelihood, and that of targets from the context alone, without draws; seed 1."""
    tasks, _ = study.test_tasks("rbf")
    found = {}
    for name in ("MPNP, all terms 1", "MPNP, without pseudo", "MPNP, marginal only"):
        model = study.trained(name, 1, n_steps).model
        mixed, alone = study.scores(name, 1, "rbf", n_steps), log_likelihoods(model.base, tasks, jax.random.key(1), 1)  # type: ignore[attr-defined]
        found[name] = float(mixed.target.mean()), float(mixed.joint.mean()), float(alone.target.mean())
    return found


@claim("MPNP's encoder predicts from a context alone, if a term trains it to", system=_SYSTEM, quick=False)
def amortisation_keeps_the_encoder(context: Context) -> Measured:
    """Gain of the target log likelihood, without drawn points, by the amortisation term."""
    n_steps = 400
    found = _ablation(n_steps)
    detail = "; ".join(f"{name}: {a:.3f} / {b:.3f} / {c:.3f}" for name, (a, b, c) in found.items())
    gain = found["MPNP, without pseudo"][2] - found["MPNP, marginal only"][2]
    return Measured(
        gain, ">=", 1.0, "marginal term only", f"RBF, {n_steps:,} steps, target / joint / context alone: {detail}"
    )


@claim("Searching with MPNP leaves no more regret after ten steps than with CNP", system=_SYSTEM, quick=False)
def mpnp_searches_as_well_as_cnp(context: Context) -> Measured:
    """Mean difference of normalised regrets in its standard errors, 30 functions, two trainings each."""
    found = regrets()
    gap = (found["MPNP"] - found["CNP"])[:, 10]
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return Measured(
        float(gap.mean() / error),
        "<=",
        1.0,
        "CNP",
        f"three points to start from, regret over the range of the function after 10 / 20 steps: {search_curves()}",
        (pictures.regret_picture(),),
    )


@claim("Searching with MPNP leaves half the regret of random search", system=_SYSTEM, quick=False)
def mpnp_searches_better_than_chance(context: Context) -> Measured:
    """Mean regret after ten steps over that of random search, 30 functions."""
    found = regrets()
    ratio = found["MPNP"][:, 10].mean() / found["random"][:, 10].mean()
    return Measured(float(ratio), "<=", 0.5, "random search", f"after 10 / 20 steps: {search_curves()}")


@claim("An attentive process halves the error of pixel means on digits it has not seen", system=_SYSTEM, quick=False)
def digits_are_completed(context: Context) -> Measured:
    """Mean squared error of the pixels that are not shown, over that of the pixels' means in training."""
    errors = completion_errors()
    detail = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
    return Measured(
        errors["MPANP"] / errors["pixel means"],
        "<=",
        0.5,
        "pixel means",
        f"297 digits, {N_PIXELS} of 64 pixels shown, intensities in [0, 1]: {detail}",
        (pictures.completion_picture(),),
    )


@claim("Trained on simulated populations, CANP beats a Gaussian process fitted to each", system=_SYSTEM, quick=False)
def populations_are_predicted(context: Context) -> Measured:
    """Gain in log likelihood per point of both populations in standard errors, fresh simulations."""
    found = population_scores()
    gap = found.ours - found.peer
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    return Measured(
        float(gap.mean() / error),
        ">=",
        2.0,
        "scikit-learn's GaussianProcessRegressor, RBF and noise by marginal likelihood",
        f"{len(gap)} simulations, standardised by their contexts: {found.ours.mean():.3f} against"
        f" {found.peer.mean():.3f}, difference {gap.mean():.3f} ± {error:.3f}; 90% intervals cover"
        f" {found.coverage:.3f} against {found.peer_coverage:.3f}",
        (pictures.populations_picture(),),
    )


@claim("Trained on simulated populations, intervals at 90% cover fresh ones to 3%", system=_SYSTEM, quick=False)
def populations_are_covered(context: Context) -> Measured:
    """Distance of the share of held-out populations inside from 0.9."""
    found = population_scores()
    return Measured(abs(found.coverage - 0.9), "<=", 0.03, "0.9", f"CANP: {found.coverage:.3f}, 64 fresh simulations")
