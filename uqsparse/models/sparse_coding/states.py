"""The latent states that a truncated posterior keeps: none active, one active, and a few among the candidates."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# States above this number are refused: at ten thousand rows a chunk they would fill the memory of a small machine.
MAX_STATES = 20_000


@functools.lru_cache(maxsize=32)
def _multi_cause_states(n_candidates: int, gamma: int, values: tuple[float, ...]) -> np.ndarray:
    states = []
    for n_active in range(2, gamma + 1):
        filled = list(itertools.product(values, repeat=n_active))
        for places in itertools.combinations(range(n_candidates), n_active):
            block = np.zeros((len(filled), n_candidates))
            block[:, places] = filled
            states.append(block)
    table = np.concatenate(states) if states else np.zeros((0, n_candidates))
    table.flags.writeable = False
    return table


def multi_cause_states(
    n_candidates: int, gamma: int, values: Sequence[float] = (1.0,)
) -> Float[np.ndarray, "n_states n_candidates"]:
    """All states with 2 to gamma active causes among the candidates.

    Args:
        n_candidates: number of candidates H', at least 1.
        gamma: most active causes, in [1, H'].
        values: what an active cause may be; none is 0.

    Returns:
        The states, a read-only NumPy array of shape (n_states, H'), fewest active causes first; empty if gamma is 1.

    Source: Lücke & Eggert (2010), Expectation truncation and the benefits of preselection in training generative
    models, JMLR 11, eq. 8.

    >>> multi_cause_states(3, 2).tolist()
    [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    return _multi_cause_states(int(n_candidates), int(gamma), tuple(float(value) for value in values))


def state_count(n_causes: int, n_candidates: int, gamma: int, n_values: int = 1) -> int:
    """How many states a datum has: 1 + v H + sum over g from 2 to gamma of C(H', g) v^g.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active candidates.
        n_values: number v of values that an active cause may have.

    >>> state_count(10, 8, 3)
    95
    """
    several = sum(math.comb(n_candidates, n) * n_values**n for n in range(2, gamma + 1))
    return 1 + n_values * n_causes + several


def require_state_count(
    n_causes: int, n_candidates: int, gamma: int, n_values: int = 1, limit: int = MAX_STATES
) -> None:
    """Raise ValueError if a datum has more states than a limit, with the formula and the number.

    >>> require_state_count(100, 30, 10, limit=1000)
    Traceback (most recent call last):
    ValueError: n_candidates=30 and gamma=10 ask for 53009172 states a datum (1 + v H + sum over g = 2..gamma of
    C(n_candidates, g) v^g with H = 100 causes and v = 1 values that are not 0), above max_states=1000
    """
    count = state_count(n_causes, n_candidates, gamma, n_values)
    if count > limit:
        raise ValueError(
            f"n_candidates={n_candidates} and gamma={gamma} ask for {count} states a datum (1 + v H + sum over "
            f"g = 2..gamma of C(n_candidates, g) v^g with H = {n_causes} causes and v = {n_values} values that are "
            f"not 0), above max_states={limit}"
        )
