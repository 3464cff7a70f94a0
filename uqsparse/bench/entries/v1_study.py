"""The study of penalties in V1: dictionaries of photographs, and what each penalty makes of them at equal sparsity."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from uqsparse.data.images import natural_patches
from uqsparse.kernels.penalties import penalty_named
from uqsparse.models.sparse_coding.dictionary_learner import DictionaryLearner
from uqsparse.models.sparse_coding.receptive_fields import GaborFits, fit_gabors
from uqsparse.solvers.iterative_thresholding import Codes, iterative_thresholding
from uqsparse.solvers.matched_sparsity import debias, matched_sparsity

# One seed for all claims, which share the dictionaries.
SEED = 0
SIDE, N_TRAIN, N_TEST = 10, 20_000, 500
PENALTIES = ("l1", "l0", "l1/2", "l2/3", "log", "scad", "mcp", "cel0")
# Training patches lie left of this column of the first photograph, held-out ones of it right of it.
_SPLIT = 480
# How far the measured active fraction may be from the one asked for, as a share of it.
MATCH = 0.02


class Coded(NamedTuple):
    """What a penalty makes of the test patches.

    Args:
        penalty: its name.
        strength: its strength.
        active_fraction: share of nonzeros in the codes.
        error: mean squared error over the variance of the patches.
        refit_error: the same after least squares on the support of each code.
        unsettled: rows that did not converge.
        codes: shape (n, M).
    """

    penalty: str
    strength: float
    active_fraction: float
    error: float
    refit_error: float
    unsettled: int
    codes: np.ndarray


class Rule(NamedTuple):
    """When and how iterative thresholding stops: ours, or that of the published study."""

    tolerance: float = 1e-4
    acceleration: bool = True


OURS, PUBLISHED = Rule(), Rule(1e-2, False)


@cache
def training_patches(side: int = SIDE, n: int = N_TRAIN) -> np.ndarray:
    """Whitened patches of the left three quarters of the first photograph."""
    drawn = natural_patches(SEED, 2 * n, side=side, images=(0,))
    return drawn.patches[drawn.corner[:, 1] + side <= _SPLIT][:n].astype(np.float32)


@cache
def held_out_patches(side: int = SIDE, n: int = N_TEST) -> np.ndarray:
    """Whitened patches that overlap no training patch: half from the rest of that photograph, half of the second."""
    drawn = natural_patches(SEED + 1, 8 * n, side=side, images=(0,))
    beside = drawn.patches[drawn.corner[:, 1] >= _SPLIT][: n // 2]
    other = natural_patches(SEED + 1, n - n // 2, side=side, images=(1,)).patches
    return np.concatenate([beside, other]).astype(np.float32)


@cache
def learned_dictionary(
    penalty: str,
    n_units: int,
    *,
    strength: float = 1.0,
    active_target: float | None = None,
    passes: int = 12,
    side: int = SIDE,
    n: int = N_TRAIN,
    batch_size: int = 1000,
) -> np.ndarray:
    """Units in columns, learned from the training patches with a fixed strength or a fixed active fraction."""
    learner = DictionaryLearner(
        n_units,
        penalty,
        strength,
        active_target=active_target,
        max_iter=passes,
        tol=None,
        batch_size=batch_size,
        random_state=SEED,
    )
    return learner.fit(training_patches(side, n)).dictionary_


def coded(X: np.ndarray, dictionary: np.ndarray, name: str, target: float, rule: Rule = OURS) -> Coded:
    """Code patches at the strength that leaves the share (or, from 1 on, the number) of units active."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows that have not settled are counted in the result
        found = matched_sparsity(
            X,
            dictionary,
            name,
            target,
            relative_tolerance=MATCH,
            tolerance=rule.tolerance,
            acceleration=rule.acceleration,
        )
    return _measured(X, dictionary, name, found.strength, found.codes)


def coded_at(X: np.ndarray, dictionary: np.ndarray, name: str, strength: float) -> Coded:
    """Code patches with a penalty of a given strength."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        codes = iterative_thresholding(X, dictionary, penalty_named(name, strength))
    return _measured(X, dictionary, name, strength, codes)


def _measured(X: np.ndarray, dictionary: np.ndarray, name: str, strength: float, found: Codes) -> Coded:
    def error(codes: np.ndarray) -> float:
        return float(np.mean((X - codes @ dictionary.T) ** 2, dtype=np.float64) / np.var(X, dtype=np.float64))

    codes = found.codes
    refit = error(debias(X, dictionary, codes))
    unsettled = int(np.sum(~found.converged))
    return Coded(name, strength, found.active_fraction, error(codes), refit, unsettled, codes)


@cache
def common_dictionary(penalty: str = "cel0") -> np.ndarray:
    """200 units: those of CEL0 at strength 0.2, or those of another penalty at one unit in ten active."""
    if penalty == "cel0":
        return learned_dictionary("cel0", 200, strength=0.2)
    return learned_dictionary(penalty, 200, active_target=0.1)


@cache
def equal_sparsity(name: str, target: float, rule: Rule = OURS, dictionary: str = "cel0") -> Coded:
    """A penalty on the common dictionary at a given active fraction."""
    return coded(held_out_patches(), common_dictionary(dictionary), name, target, rule)


@cache
def trade_off(name: str, n_strengths: int = 7) -> tuple[Coded, ...]:
    """A penalty's curve on the common dictionary, from about 25% of active units to 1%.

    The strengths are spaced by equal ratios through those of 10% and 3%, each coded from a start at zero.
    """
    dense, sparse = equal_sparsity(name, 0.10), equal_sparsity(name, 0.03)
    ratio = (sparse.strength / dense.strength) ** (1 / np.log(0.1 / 0.03))
    shares = np.geomspace(0.25, 0.01, n_strengths)
    strengths = dense.strength * ratio ** np.log(0.1 / shares)
    curve = [coded_at(held_out_patches(), common_dictionary(), name, float(strength)) for strength in strengths]
    return tuple(sorted((*curve, dense, sparse), key=lambda one: one.active_fraction))


@cache
def overcomplete(name: str, n_units: int, n_active: float = 8.0) -> Coded:
    """A penalty on a dictionary that it learned itself, with a given number of units active in a patch."""
    dictionary = learned_dictionary(name, n_units, active_target=n_active, passes=6)
    return coded(held_out_patches(), dictionary, name, n_active)


@cache
def fields(name: str, n_units: int = 144, active: float = 0.05) -> tuple[np.ndarray, GaborFits]:
    """A dictionary learned at a given active fraction, and Gabors fitted to its units."""
    dictionary = learned_dictionary(name, n_units, active_target=active)
    return dictionary, fit_gabors(dictionary, SIDE)


def listed(results: Sequence[Coded], refit: bool = False) -> str:
    """Names and errors, lowest first."""
    values = sorted((one.refit_error if refit else one.error, one.penalty) for one in results)
    return ", ".join(f"{name} {value:.4f}" for value, name in values)
