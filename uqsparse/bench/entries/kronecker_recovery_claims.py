"""Kronecker-structured sparse Bayesian learning against its peers: sparse vectors, and channels over a surface."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from uqsparse import bench
from uqsparse.bench.entries.kronecker_problems import SYSTEM, Values, links, recovery
from uqsparse.bench.plots import picture

OURS = ("AM-KroSBL", "SVD-KroSBL")
# The page's colours for ours, and ways to tell the peers apart without any.
_STYLES = {
    "AM-KroSBL": ("#1f77b4", "o-"),
    "SVD-KroSBL": ("#1f77b4", "s--"),
    "MM-KroSBL": ("#1f77b4", "^:"),
    "AM-KroSBL, settled": ("#1f77b4", "v-."),
    "plain SBL": ("#000000", "o-"),
    "Lasso, oracle penalty": ("#808080", "s--"),
    "OMP": ("#808080", "^:"),
    "Kronecker OMP": ("#808080", "v-."),
    "least norm": ("#bbbbbb", "D-"),
    "least squares, oracle support": ("#bbbbbb", "D-"),
}


def _median(scores: np.ndarray, column: int) -> float:
    return float(np.median(scores[:, column]))


def _drawing(
    table: Mapping[float, Mapping[str, np.ndarray]], columns: Sequence[tuple[int, str, str]], caption: str
) -> bench.Picture:
    """Medians over trials against the SNR, one panel a score."""
    figure = Figure(figsize=(4.4 * len(columns) + 2, 3.4), dpi=72, layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    snrs = list(table)
    for axes, (column, label, scale) in zip(panels, columns, strict=True):
        for name, (colour, style) in _STYLES.items():
            if name in table[snrs[0]]:
                heights = [_median(table[snr][name], column) for snr in snrs]
                axes.plot(snrs, heights, style, color=colour, label=name, markersize=5)
        axes.set(xlabel="SNR [dB]", ylabel=label, yscale=scale, xticks=snrs)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[-1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return picture(figure, caption)


def _recovery_picture(values: Values, what: str) -> bench.Picture:
    columns = ((0, "normalised squared error", "log"), (1, "support recovery rate", "linear"))
    return _drawing(recovery(values), columns, f"Recovery of {what}, medians of 20 trials")


def _listed(scores: Mapping[str, np.ndarray], column: int) -> str:
    return "; ".join(f"{name} {_median(found, column):.3g}" for name, found in scores.items())


@bench.claim(
    "free values on a product support, 20 dB: AM's median error as a share of plain SBL's", system=SYSTEM, quick=False
)
def free_against_plain(context: bench.Context) -> bench.Measured:
    """10 columns and 3 nonzeros a mode, 480 observations of 1000 unknowns, 20 trials."""
    scores = recovery("free")[20.0]
    ratio = _median(scores["AM-KroSBL"], 0) / _median(scores["plain SBL"], 0)
    drawing = _recovery_picture("free", "free values on a product support")
    return bench.Measured(ratio, "<=", 0.2, "plain SBL", f"median errors: {_listed(scores, 0)}", (drawing,))


@bench.claim(
    "values that are a product too, 20 dB: SVD's median error as a share of plain SBL's", system=SYSTEM, quick=False
)
def product_against_plain(context: bench.Context) -> bench.Measured:
    """10 columns and 3 nonzeros a mode, 480 observations of 1000 unknowns, 20 trials."""
    scores = recovery("kronecker")[20.0]
    ratio = _median(scores["SVD-KroSBL"], 0) / _median(scores["plain SBL"], 0)
    drawing = _recovery_picture("kronecker", "values that are a product")
    return bench.Measured(ratio, "<=", 0.2, "plain SBL", f"median errors: {_listed(scores, 0)}", (drawing,))


@bench.claim(
    "free values, 20 dB: AM's median error over that of least squares on the true support", system=SYSTEM, quick=False
)
def free_against_oracle(context: bench.Context) -> bench.Measured:
    """20 trials."""
    scores = recovery("free")[20.0]
    mine, oracle = (_median(scores[name], 0) for name in ("AM-KroSBL", "least squares, oracle support"))
    return bench.Measured(mine / oracle, "<=", 1.3, "oracle", f"medians {mine:.3g} and {oracle:.3g}")


@bench.claim(
    "AM and SVD against Lasso, OMP and Kronecker OMP at 20 and 30 dB: worst share of error", system=SYSTEM, quick=False
)
def against_pursuits(context: bench.Context) -> bench.Measured:
    """Our median error over the least of theirs; AM on free values, SVD on values that are a product."""
    peers = ("Lasso, oracle penalty", "OMP", "Kronecker OMP")
    shares: dict[str, float] = {}
    for name, values in (("AM-KroSBL", "free"), ("SVD-KroSBL", "kronecker")):
        for snr_db in (20.0, 30.0):
            scores = recovery(values)[snr_db]
            best = min(_median(scores[peer], 0) for peer in peers)
            shares[f"{name}, {snr_db:.0f} dB"] = _median(scores[name], 0) / best
    detail = "; ".join(f"{name} {share:.3g}" for name, share in shares.items())
    return bench.Measured(max(shares.values()), "<", 1.0, "best of the three", detail)


@bench.claim("free values, 30 dB: AM's mean support recovery rate", system=SYSTEM, quick=False)
def support(context: bench.Context) -> bench.Measured:
    """Size of the intersection with the true support over that of the union, threshold 1e-3 of the largest."""
    scores = recovery("free")[30.0]
    detail = "means: " + "; ".join(f"{name} {found[:, 1].mean():.3f}" for name, found in scores.items())
    return bench.Measured(float(scores["AM-KroSBL"][:, 1].mean()), ">=", 0.95, "0.95", detail)


@bench.claim("SVD's CPU seconds a fit as a share of plain SBL's", system=SYSTEM, quick=False)
def fit_seconds(context: bench.Context) -> bench.Measured:
    """Medians over all 120 problems of the recovery experiment, both pruning."""
    scores = [recovery(values)[snr_db] for values in ("free", "kronecker") for snr_db in (10.0, 20.0, 30.0)]
    medians = {name: np.median(np.concatenate([one[name][:, 2] for one in scores])) for name in scores[0]}
    detail = "; ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in medians.items())
    return bench.Measured(float(medians["SVD-KroSBL"] / medians["plain SBL"]), "<", 0.2, "plain SBL", detail)


def _links_picture() -> bench.Picture:
    columns = (
        (0, "normalised squared error", "log"),
        (1, "support recovery rate", "linear"),
        (2, "share of spectral efficiency", "linear"),
    )
    return _drawing(links(), columns, "Channels over a surface, medians of 25 links")


@bench.claim(
    "channels over a surface: median errors rise from SVD to AM, plain SBL, least norm", system=SYSTEM, quick=False
)
def link_order(context: bench.Context) -> bench.Measured:
    """Largest ratio of neighbours in this order, at 5 and 15 dB: 144 observations of 1728 unknowns, 25 links.

    All stop after 150 iterations, where AM is still on its way; see the next claim.
    """
    order = ("SVD-KroSBL", "AM-KroSBL", "plain SBL", "least norm")
    worst, parts = 0.0, []
    for snr_db in (5.0, 15.0):
        medians = [_median(links()[snr_db][name], 0) for name in order]
        worst = max(worst, *(left / right for left, right in itertools.pairwise(medians)))
        parts.append(f"{snr_db:.0f} dB: {_listed(links()[snr_db], 0)}")
    return bench.Measured(worst, "<", 1.0, "1, in order", ". ".join(parts), (_links_picture(),))


@bench.claim(
    "channels over a surface, 15 dB: AM until it settles, median error as a share of plain SBL's",
    system=SYSTEM,
    quick=False,
)
def link_settled(context: bench.Context) -> bench.Measured:
    """At most 1000 iterations of AM; plain SBL settles within 150."""
    scores = links()[15.0]
    mine, peer = (_median(scores[name], 0) for name in ("AM-KroSBL, settled", "plain SBL"))
    return bench.Measured(mine / peer, "<=", 0.5, "plain SBL", f"medians of 25 links: {_listed(scores, 0)}")


@bench.claim(
    "channels over a surface, 15 dB: least share of the spectral efficiency of AM and SVD", system=SYSTEM, quick=False
)
def link_efficiency(context: bench.Context) -> bench.Measured:
    """Median over 25 links of the ratio to beams from the true channels."""
    scores = links()[15.0]
    least = min(_median(scores[name], 2) for name in OURS)
    return bench.Measured(least, ">=", 0.97, "perfect knowledge", _listed(scores, 2))
