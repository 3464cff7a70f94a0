"""The channel of a link over a reflecting surface, from few pilots: estimates, beams, and how sure they are.

144 received symbols, 1728 unknowns. The dictionary is a Kronecker product of three small matrices and is never formed.
Give a path to have the plots too: `python examples/irs_channel.py link.png`.
"""

import sys
import warnings
from pathlib import Path

import jax
import numpy as np

from uqsparse.models.channels import IRSLink, IRSSetup, normalised_error, simulate_irs_link, spectral_efficiency
from uqsparse.models.kronecker_sbl import KroneckerSBL
from uqsparse.models.kronecker_sbl_result import KroneckerSBLResult

SETUP = IRSSetup(n_mobile=4, n_base=8, n_surface=64, n_grid=12)
SNRS, N_LINKS = (5.0, 10.0, 15.0, 20.0), 5
METHODS = {"SVD": KroneckerSBL(update="svd", prune=True), "MM": KroneckerSBL(update="mm")}
NAMES = ("least norm", *METHODS)


def least_norm(link: IRSLink) -> np.ndarray:
    """The least squares solution of least norm, by the factors' pseudo-inverses."""
    tensor = link.y.reshape([len(factor) for factor in link.factors])
    return np.einsum("ai,bj,ck,ijk->abc", *(np.linalg.pinv(one) for one in link.factors), tensor).ravel()


def scores(estimate: np.ndarray, link: IRSLink, snr_db: float) -> tuple[float, float]:
    """Error of the channels, and share of the best spectral efficiency."""
    channels, best = link.channels_of(estimate), spectral_efficiency(link.channels, link.channels, snr_db)
    return normalised_error(channels, link.channels), spectral_efficiency(channels, link.channels, snr_db) / best


def coverage(fit: KroneckerSBLResult, link: IRSLink, key: jax.Array) -> float:
    """How often 90% intervals hold the real part of a channel under surface patterns that no pilot was sent under."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], size=(SETUP.n_surface, 20)) / np.sqrt(SETUP.n_surface)
    draws = link.channels_of(fit.sample(key, 200), patterns).real
    lower, upper = np.quantile(draws, [0.05, 0.95], axis=0)
    truth = link.channels_of(link.x, patterns).real
    return float(np.mean((lower <= truth) & (truth <= upper)))


def draw(path: Path, table: np.ndarray, link: IRSLink) -> None:
    """Scores over the SNR, and one link's sparse vector with its estimate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    error, efficiency, vector = figure.subplots(1, 3)
    for number, name in enumerate(NAMES):
        error.plot(SNRS, table[:, number, 0], "o-", label=name)
        efficiency.plot(SNRS, table[:, number, 1], "o-", label=name)
    error.set(yscale="log", xlabel="SNR [dB]", ylabel="normalised squared error")
    efficiency.set(xlabel="SNR [dB]", ylabel="share of spectral efficiency")
    error.legend(frameon=False)
    fit = METHODS["MM"].fit(link.y, link.factors)
    order = np.argsort(-abs(link.x))[:20]
    vector.errorbar(range(20), abs(fit.mean)[order], 2 * np.sqrt(fit.variance[order]), fmt="o", label="MM, 2 sd")
    vector.plot(range(20), abs(link.x)[order], "k_", markersize=12, label="truth")
    vector.set(xlabel="largest entries", ylabel="absolute value")
    vector.legend(frameon=False)
    figure.savefig(path)


def main(path: Path | None = None) -> None:
    # Some fits stop at 150 iterations; the estimates have settled long before the variances have.
    warnings.filterwarnings("ignore", message="KroneckerSBL has not settled")
    print(
        f"Medians of {N_LINKS} links: error of the channels / share of the spectral efficiency of perfect knowledge\n"
    )
    print("SNR   " + "".join(f"{name:>20s}" for name in NAMES) + f"{'coverage of 90%':>20s}")
    table, link = [], None
    for snr_db in SNRS:
        rows, covered = [], []
        for i in range(N_LINKS):
            key, draws_key = jax.random.split(jax.random.key(i))
            link = simulate_irs_link(key, SETUP, snr_db=snr_db)
            fits = {name: model.fit(link.y, link.factors) for name, model in METHODS.items()}  # the noise is learned
            estimates = [least_norm(link), *(fit.mean for fit in fits.values())]
            rows.append([scores(estimate, link, snr_db) for estimate in estimates])
            covered.append(coverage(fits["MM"], link, draws_key))
        medians = np.median(rows, axis=0)
        cells = "".join(f"{error:12.4f} / {share:.3f}" for error, share in medians)
        print(f"{snr_db:3.0f} dB{cells}{np.mean(covered):20.2f}")
        table.append(medians)
    if path is not None and link is not None:
        draw(path, np.array(table), link)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
