"""Bars that hide each other: three models learn them, and the evidence says how the bars combine.

Each image holds some of 8 bars on 4 x 4 pixels, in noise; where bars cross, a pixel is as bright as one of them.
Binary sparse coding believes that they add, maximal causes analysis that the brightest is seen, spike-and-slab coding
that they add, each with a strength of its own. All three find bars; held-out images tell which is right.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from uqsparse.data.images import bars
from uqsparse.models.sparse_coding.bsc import BinarySparseCoding
from uqsparse.models.sparse_coding.gsc import SpikeSlabSparseCoding
from uqsparse.models.sparse_coding.mca import MaximalCauses
from uqsparse.solvers.dictionary_matching import match_dictionaries

N_CAUSES = 8


def main() -> None:
    train = bars(0, 400, side=4, probability=0.3, superposition="max")
    test = bars(1, 400, side=4, probability=0.3, superposition="max")
    settings = {"n_causes": N_CAUSES, "n_candidates": 6, "gamma": 4, "n_iter": 80, "random_state": 1}
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{'':24s}{'held-out nats':>14s}{'bars found':>12s}{'noise':>7s}{'activity':>10s}")
    coders = {}
    for coder in (BinarySparseCoding(**settings), MaximalCauses(**settings), SpikeSlabSparseCoding(**settings)):
        coder.fit(train.images)
        found = match_dictionaries(coder.dictionary_, train.dictionary, sign=True, scale=True)
        n_bars, activity = int((found.cosine > 0.95).sum()), coder.prior_probability_.mean()
        name = type(coder).__name__
        coders[name] = coder
        print(
            f"{name:24s}{coder.score(test.images):14.2f}{n_bars:9d}/{N_CAUSES}{coder.noise_scale_:7.2f}{activity:10.2f}"
        )
    print(f"{'truth':24s}{'':14s}{N_CAUSES:9d}/{N_CAUSES}{train.noise_scale:7.2f}{train.probability:10.2f}")

    best = max(coders.values(), key=lambda coder: coder.score(test.images))
    order = match_dictionaries(best.dictionary_, test.dictionary, scale=True).assignment
    posterior = best.posterior(test.images[:3], top_k=2)
    print(f"\n{type(best).__name__}: the two most probable sets of bars in three held-out images")
    for n in range(3):
        sets = []
        for state, probability in zip(posterior.states[n], posterior.probabilities[n], strict=True):
            sets.append(f"{np.flatnonzero(state[order])} {probability:.2f}")
        print(f"  {'   '.join(f'{one:18s}' for one in sets)} true {np.flatnonzero(test.states[n])}")


if __name__ == "__main__":
    main()
