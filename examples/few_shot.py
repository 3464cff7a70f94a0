"""Few-shot learning: five points of an unknown function, and how far to trust the guess.

Two learners see the same thousands of small tasks, each a sine wave or a straight line. Then they get five points of a
new one. MAML adapts a network by gradient steps, and predicts with one width everywhere. NIWMeta has a belief about the
weights of all tasks and conditions it on the points: its bands open where nothing is known. Give a file name to choose
where the picture of both goes.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from uqsparse.data import sine_line_tasks
from uqsparse.models import MAML, NIWMeta

N_STEPS, N_SHOT = 200, 5
GRID = np.linspace(-5, 5, 201)[:, None]


def learners() -> dict:
    """A head on learned features, and a network that is adapted by gradient steps."""
    key = jax.random.key(0)
    return {
        "NIWMeta": NIWMeta(eqx.nn.MLP(1, 40, 40, 2, key=key)),
        "MAML": MAML(eqx.nn.MLP(1, 1, 40, 2, key=key)),
    }


def draw(trained: dict, path: Path) -> None:
    """A wave and a line with both learners' bands."""
    rng = np.random.default_rng(3)
    figure, panels = plt.subplots(2, len(trained), figsize=(9, 6), sharex=True, layout="constrained")
    for row, truth in zip(panels, (lambda x: 3 * np.sin(x + 1), lambda x: 1 - 1.2 * x), strict=True):
        x = rng.uniform(-5, 5, (N_SHOT, 1))
        y = truth(x) + 0.3 * rng.normal(size=x.shape)
        for axes, (name, model) in zip(row, trained.items(), strict=True):
            mixture = model.predict(model.adapt(x, y), jnp.asarray(GRID), jax.random.key(0))
            mean, spread = (np.asarray(a)[:, 0] for a in (mixture.mean, mixture.standard_deviation))
            axes.fill_between(GRID[:, 0], mean - 1.645 * spread, mean + 1.645 * spread, alpha=0.25, linewidth=0)
            axes.plot(GRID[:, 0], mean)
            axes.plot(GRID[:, 0], truth(GRID[:, 0]), "k--", linewidth=0.8)
            axes.plot(x[:, 0], y[:, 0], "ko", markersize=4)
            axes.set(title=name, ylim=(-9, 9))
    figure.savefig(path, dpi=120)
    print(f"{path.name} written")


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("few_shot.png")
    tasks = sine_line_tasks(jax.random.key(99), 200, n_support=N_SHOT, n_query=50)
    trained = {}
    print(f"{N_STEPS} steps of 20 tasks, {N_SHOT} points to learn from; 200 new tasks of 50 points to predict")
    print(f"{'':9s}{'squared error':>14s}{'log loss':>10s}{'90 % bands cover':>18s}")
    for name, model in learners().items():
        trained[name] = model.fit(sine_line_tasks, jax.random.key(1), N_STEPS, steps_per_call=50).model
        mixture = trained[name].predict_tasks(tasks, jax.random.key(2))
        y = np.asarray(tasks.query_y)
        below = norm.cdf((y - np.asarray(mixture.means)) / np.asarray(mixture.scales)).mean(0)
        error, loss = np.mean((np.asarray(mixture.mean) - y) ** 2), -np.mean(mixture.log_prob(tasks.query_y))
        print(f"{name:9s}{error:14.2f}{loss:10.2f}{np.mean(abs(below - 0.5) < 0.45):18.2f}")
    draw(trained, path)


if __name__ == "__main__":
    main()
