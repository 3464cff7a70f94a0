"""Neural processes: learn from thousands of small tasks to predict a function from a few of its points.

The tasks are waves of unknown amplitude and phase, seen at a few points. A conditional process says at each
input what it expects and how unsure it is. A martingale posterior process of the same size also draws whole functions:
it imagines points that it has not seen. Both predict waves that neither has seen, and one searches for a minimum.

    python neural_process.py [folder]

With a folder the predictive bands are drawn to neural_process.png there.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uqsparse.data import Tasks, gp_tasks
from uqsparse.models.neural_processes import CNP, MPNP, count_parameters, fit, log_likelihoods, minimise, surrogate

N_STEPS = 300
GRID = np.linspace(-2, 2, 81)[:, None].astype(np.float32)


def waves(key, n_tasks: int) -> Tasks:
    """Waves with noise of 0.05: inputs and numbers of points as for Gaussian processes, outputs of our own."""
    key_points, key_law, key_noise = jax.random.split(key, 3)
    tasks = gp_tasks(key_points, n_tasks, max_points=16)
    amplitude, phase = jax.random.uniform(key_law, (2, n_tasks, 1, 1))

    def outputs(key, x, mask):
        y = (0.5 + amplitude) * jnp.sin(2 * x + 6.28 * phase)
        return jnp.where(mask[..., None], y + 0.05 * jax.random.normal(key, y.shape), 0.0)

    keys = jax.random.split(key_noise)
    return tasks._replace(
        context_y=outputs(keys[0], tasks.context_x, tasks.context_mask),
        target_y=outputs(keys[1], tasks.target_x, tasks.target_mask),
    )


def truth(x):
    """A wave that no training has seen."""
    return 1.1 * np.sin(2 * np.asarray(x) + 0.6)


def draw(path: Path, models: dict) -> None:
    """Predictive bands from three and six points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True, layout="constrained")
    cases = [(name, seen) for seen in ([10, 32, 41], [10, 32, 41, 49, 60, 72]) for name in models]
    for axes, (name, seen) in zip(panels, cases, strict=True):
        x, y, there = GRID[seen], truth(GRID[seen]), np.arange(6) < len(seen)
        # Padded to six points, so that one compiled program serves both numbers of them.
        padded = (np.resize(array, (6, 1)) for array in (x, y))
        found = models[name].predict(*padded, GRID, jax.random.key(0), 50, context_mask=there)
        if len(found.means) > 1:
            axes.plot(GRID[:, 0], found.means[:20, :, 0].T, color="C0", linewidth=0.5, alpha=0.5)
        mean, deviation = found.mean[:, 0], found.standard_deviation[:, 0]
        axes.fill_between(GRID[:, 0], mean - 2 * deviation, mean + 2 * deviation, color="C0", alpha=0.2, linewidth=0)
        axes.plot(GRID[:, 0], mean, color="C0")
        axes.plot(GRID[:, 0], truth(GRID[:, 0]), "k--", linewidth=0.8)
        axes.plot(x[:, 0], y[:, 0], "ko", markersize=4)
        axes.set_title(f"{name}, {len(seen)} points")
    figure.savefig(path, dpi=120)
    print(f"{path.name} written")


def main(folder: str | None = None) -> None:
    key_start, key_fit, key_test = jax.random.split(jax.random.key(0), 3)
    models = {
        "CNP": CNP(1, 1, width=47, min_scale=0.02, key=key_start),
        "MPNP": MPNP(1, 1, width=32, n_pseudo=6, training_samples=2, pseudo_weight=0.1, min_scale=0.02, key=key_start),
    }
    test = waves(key_test, 64)
    optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, N_STEPS))  # a short training wants a large rate
    print("log likelihood of held-out points, nats a point; with noise of 0.05 no more than 1.58 is to be had")
    print(f"{'':6s}{'parameters':>12s}{'steps':>7s}{'each by itself':>16s}{'jointly':>9s}")
    for name, model in models.items():
        done = fit(model, waves, key=key_fit, n_steps=N_STEPS, batch_size=8, optimiser=optimiser)
        models[name] = done.model
        found = log_likelihoods(done.model, test, key_test, 10)
        print(
            f"{name:6s}{count_parameters(done.model):12d}{done.n_steps:7d}{found.target.mean():16.3f}{found.joint.mean():9.3f}"
        )

    print("\nsearching a new wave for its minimum with MPNP, from three random points on a grid of 81")
    search = minimise(jax.random.key(4), surrogate(models["MPNP"], 10), lambda x: truth(x)[0], GRID, 6, n_start=3)
    for step in (0, 1, 2, 4, 6):
        print(f"  after {step} steps {search.lowest[2 + step]:7.3f}")
    print(f"  the minimum   {truth(GRID).min():7.3f}")
    if folder is not None:
        draw(Path(folder) / "neural_process.png", models)


if __name__ == "__main__":
    main(*sys.argv[1:])
