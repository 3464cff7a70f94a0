# ruff: noqa: E501 - a fault a line reads best
"""One-line faults of the properly weighted samplers, by the estimator that has to notice them, and valid changes.

The first of each estimator are those that suggest themselves from the formulas; some have stood in published code.
"""

from uqsparse.bench.mutants import Mutant

_IN = "uqsparse.inference.constrained.weight_estimators:"

FAULTS: dict[str, tuple[Mutant, ...]] = {
    "two-loop": (
        Mutant(
            "divides by the second loop's rejects alone",
            _IN + "two_loop",
            "first.n_rejected + second.n_rejected + second.accepted",
            "second.n_rejected + 1",
        ),
        Mutant(
            "divides by the rejects, not one more",
            _IN + "two_loop",
            "second.n_rejected + second.accepted)",
            "max(second.n_rejected, 1))",
        ),
        Mutant(
            "mass left after the second loop",
            _IN + "two_loop",
            "(first.token, left,",
            "(first.token, pool.mass_left(),",
        ),
        Mutant(
            "accepted token taken out before the second loop",
            _IN + "two_loop",
            "left = pool.mass_left()",
            "left = pool.mass_left(); pool.remove(first.token)",
        ),
        Mutant(
            "gives up with token 0, accepted or not",
            _IN + "two_loop",
            "_nothing(pool, first.token)",
            "_nothing(pool, 0)",
            "genlm-control before pull request 102 gave up with the end of the string",
        ),
    ),
    "recursive": (
        Mutant(
            "q where the next token is accepted",
            _IN + "recursive",
            "left if certain else pool.mass(token)",
            "pool.mass(token)",
        ),
        Mutant(
            "coin the wrong way round",
            _IN + "recursive",
            "further is None or tests(further)",
            "further is None or not tests(further)",
        ),
        Mutant("coin not tossed", _IN + "recursive", "left if certain else pool.mass(token)", "left"),
        Mutant(
            "accepted token still in the pool of the coin",
            _IN + "recursive",
            "            pool.remove(token)\n            further",
            "            further",
        ),
        Mutant(
            "mass left without the accepted token", _IN + "recursive", "left if certain", "pool.mass_left() if certain"
        ),
        Mutant(
            "weight zero where no token is left",
            _IN + "recursive",
            "further is None or tests(further)",
            "further is not None and tests(further)\n            if further is None:\n                return _nothing(pool, token)",
        ),
    ),
    "truncated": (
        Mutant(
            "the limit counted as one place more",
            _IN + "two_loop",
            "second.n_rejected + second.accepted)",
            "second.n_rejected + 1)",
        ),
        Mutant(
            "a limit for each search",
            _IN + "two_loop",
            "settings.max_rejects - first.n_rejected)",
            "settings.max_rejects)",
        ),
        Mutant(
            "last permitted test returns q",
            _IN + "recursive",
            "return Estimate(token, left, Fraction(1))",
            "return Estimate(token, pool.mass(token), Fraction(1))",
        ),
        Mutant(
            "last permitted test goes on with the coin",
            _IN + "recursive",
            "            if is_last:\n                return",
            "            if False:\n                return",
        ),
        Mutant(
            "gives up one reject too early",
            _IN + "recursive",
            "        if is_last:\n            break",
            "        if n_rejected + 1 == settings.max_rejects:\n            break",
        ),
        Mutant(
            "rejects not clipped at the limit",
            _IN + "geometric",
            "n_accepted + n_rejected - 1)",
            "n_accepted + n_rejected + (n_rejected == limit) - 1)",
        ),
        Mutant(
            "k - 1 where fewer were accepted",
            _IN + "geometric",
            "min(settings.max_accepts - 1, n_accepted)",
            "settings.max_accepts - 1",
        ),
        Mutant(
            "accepts less one where the limit stopped",
            _IN + "geometric",
            "min(settings.max_accepts - 1, n_accepted)",
            "n_accepted - 1",
        ),
        Mutant(
            "weight zero where the limit stopped",
            _IN + "geometric",
            "if accepted is None:",
            "if n_accepted < settings.max_accepts:",
        ),
        Mutant(
            "repeats cut at R, whatever was rejected before", _IN + "geometric", "else limit - n_rejected", "else limit"
        ),
    ),
    "geometric": (
        Mutant(
            "k / n",
            _IN + "geometric",
            "Fraction(others, n_accepted + n_rejected - 1)",
            "Fraction(others + 1, n_accepted + n_rejected)",
        ),
        Mutant("(k - 1) / n", _IN + "geometric", "n_accepted + n_rejected - 1)", "n_accepted + n_rejected)"),
        Mutant(
            "repeats forgotten", _IN + "geometric", "n_rejected += pool.repeats(", "n_rejected += 0 * pool.repeats("
        ),
        Mutant(
            "a repeat too many",
            _IN + "geometric",
            "n_rejected += pool.repeats(",
            "n_rejected += (n_rejected > 0) + pool.repeats(",
        ),
        Mutant(
            "repeats counted once a reject, not once a draw",
            _IN + "geometric",
            "n_rejected += pool.repeats(",
            "n_rejected += 0 if accepted is not None else pool.repeats(",
        ),
        Mutant(
            "accepted token taken out",
            _IN + "geometric",
            "n_accepted, accepted = n_accepted + 1",
            "pool.remove(token)\n            n_accepted, accepted = n_accepted + 1",
        ),
        Mutant(
            "mass left instead of the total",
            _IN + "geometric",
            "Estimate(accepted, total,",
            "Estimate(accepted, pool.mass_left(),",
        ),
    ),
}

# Changes that keep (*): a check that fails on one of them raises a false alarm.
VALID_CHANGES: dict[str, tuple[Mutant, ...]] = {
    "two-loop": (
        Mutant(
            "returns the second token",
            _IN + "two_loop",
            "Estimate(first.token, left,",
            "Estimate(second.token, left,",
            "both have the law of p on A, whatever was rejected",
        ),
    ),
    "recursive": (
        Mutant(
            "no token left is q, which is one",
            _IN + "recursive",
            "further is None or tests(further)",
            "further is not None and tests(further)",
        ),
    ),
    "geometric": (
        Mutant(
            "returns the last accepted token", _IN + "geometric", "token if accepted is None else accepted", "token"
        ),
    ),
}
