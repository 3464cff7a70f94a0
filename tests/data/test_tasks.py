"""Task generators: laws against closed forms, masks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import kernels

from uqsparse.data.few_shot_tasks import classification_tasks, sine_line_tasks
from uqsparse.data.image_tasks import image_completion_tasks, pixel_coordinates
from uqsparse.data.tasks import Tasks, gp_covariance, gp_tasks, gp_tasks_with_laws, standardise_tasks

KERNELS = ("rbf", "matern", "periodic", "t-noise")
N_TASKS = 1000


@pytest.fixture(scope="module", params=KERNELS)
def drawn(request):
    tasks, laws = gp_tasks_with_laws(jax.random.key(7), N_TASKS, kernel=request.param)
    return request.param, _on_host(tasks), laws


def _on_host(record):
    """Its arrays as NumPy's, whose rows are taken without JAX."""
    return type(record)(*map(np.asarray, record))


def _points(tasks, i):
    """Inputs and outputs of one task without padding, context first."""
    rows = [
        (x[i][mask[i]], y[i][mask[i]])
        for x, y, mask in (
            (tasks.context_x, tasks.context_y, tasks.context_mask),
            (tasks.target_x, tasks.target_y, tasks.target_mask),
        )
    ]
    return np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows])[:, 0]


def test_outputs_have_the_stated_covariance(drawn):
    """Whitened by SciPy in double precision, all outputs are N(0, 1): Kolmogorov-Smirnov, level 1e-5."""
    kernel, tasks, laws = drawn
    if kernel == "t-noise":
        pytest.skip("not Gaussian; see the next test")
    whitened = []
    for i in range(150):
        x, y = _points(tasks, i)
        length, scale, period = (float(a[i]) for a in laws[:3])
        d = cdist(x, x).astype(float)
        if kernel == "rbf":
            cov = kernels.RBF(length)(x)
        elif kernel == "matern":
            cov = kernels.Matern(length, nu=2.5)(x)
        else:
            cov = np.exp(-2 * np.sin(np.pi * d / period) ** 2 / length**2)
        factor = np.linalg.cholesky(scale**2 * cov + laws.noise**2 * np.eye(len(x)))
        whitened.append(np.linalg.solve(factor, y))
    whitened = np.concatenate(whitened)
    assert stats.kstest(whitened, "norm").pvalue > 1e-5
    # The noise has its scale: a smaller one would leave a larger sum of squares.
    assert abs((whitened**2).mean() - 1) < 5 * np.sqrt(2 / len(whitened))


def test_student_noise_is_added_to_functions_of_the_first_kernel():
    """The same key gives the same functions; what is added is 0.15 u t, by Kolmogorov-Smirnov, level 1e-5."""
    plain, heavy = (gp_tasks(jax.random.key(7), N_TASKS, kernel=kernel) for kernel in ("rbf", "t-noise"))
    np.testing.assert_array_equal(plain.context_x, heavy.context_x)
    noise = np.asarray(heavy.context_y - plain.context_y)[np.asarray(plain.context_mask)][::3, 0]
    rng = np.random.default_rng(0)
    reference = 0.15 * rng.uniform(size=100_000) * stats.t(2.1).rvs(100_000, random_state=rng)
    assert stats.ks_2samp(noise, reference).pvalue > 1e-5


def test_counts_are_uniform_and_padding_is_zero(drawn):
    _, tasks, _ = drawn
    n_context, n_target = (np.asarray(m.sum(1)) for m in (tasks.context_mask, tasks.target_mask))
    # Chi-squared, level 1e-5 of the four together 4e-5.
    assert n_context.min() >= 3
    assert n_context.max() <= 47
    assert stats.chisquare(np.bincount(n_context, minlength=48)[3:]).pvalue > 1e-5
    assert n_target.min() >= 3
    assert (n_context + n_target).max() <= 50
    share = (n_target - 3 + 0.5) / (50 - n_context - 3 + 1)
    assert abs(share.mean() - 0.5) < 5 * np.sqrt(1 / 12 / N_TASKS)
    for values, mask in (
        (tasks.context_x, tasks.context_mask),
        (tasks.context_y, tasks.context_mask),
        (tasks.target_x, tasks.target_mask),
        (tasks.target_y, tasks.target_mask),
    ):
        assert not np.asarray(values)[~np.asarray(mask)].any()
        assert np.isfinite(values).all()


def test_context_and_targets_share_no_point(drawn):
    _, tasks, _ = drawn
    for i in range(20):
        x, _ = _points(tasks, i)
        assert len(np.unique(x)) == len(x)


def test_laws_have_the_stated_ranges(drawn):
    _, _, laws = drawn
    for values, low, high in ((laws.length, 0.1, 0.6), (laws.scale, 0.1, 1.0), (laws.period, 0.1, 0.5)):
        assert stats.kstest(np.asarray(values), "uniform", args=(low, high - low)).pvalue > 1e-6


def test_covariance_of_two_sets_in_two_dimensions():
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    with jax.enable_x64(True):
        found = {k: np.asarray(gp_covariance(k, jnp.asarray(x), jnp.asarray(other), 0.7, 1.3, 0.9)) for k in KERNELS}
    np.testing.assert_allclose(found["rbf"], 1.69 * kernels.RBF(0.7)(x, other), rtol=1e-12)
    np.testing.assert_allclose(found["matern"], 1.69 * kernels.Matern(0.7, nu=2.5)(x, other), rtol=1e-12)
    product = np.prod([kernels.ExpSineSquared(0.7, 0.9)(x[:, [j]], other[:, [j]]) for j in range(2)], axis=0)
    np.testing.assert_allclose(found["periodic"], 1.69 * product, rtol=1e-12)
    np.testing.assert_array_equal(found["t-noise"], found["rbf"])


def test_generators_can_be_traced_and_repeat():
    images = np.random.default_rng(0).uniform(size=(4, 3, 3))
    for sampler in (
        lambda key: gp_tasks(key, 2, max_points=8),
        lambda key: image_completion_tasks(key, images, 2),
        lambda key: classification_tasks(key, images.reshape(4, 9), [0, 0, 1, 1], 2, n_way=2, n_shot=1, n_query=1),
    ):
        plain, other = (sampler(jax.random.key(seed)) for seed in (0, 1))
        traced = jax.jit(sampler)(jax.random.key(0))
        for a, b in zip(plain, traced, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(plain, other, strict=True))


def test_empty_contexts_and_single_points_are_drawn_where_asked_for():
    tasks = gp_tasks(jax.random.key(0), 64, max_points=3, min_context=0, min_target=1)
    counts = np.asarray(tasks.context_mask.sum(1))
    assert set(counts) == {0, 1, 2}
    assert (np.asarray(tasks.target_mask.sum(1)) >= 1).all()
    found = standardise_tasks(tasks)
    assert all(np.isfinite(array).all() for array in found)
    empty = counts == 0
    np.testing.assert_allclose(found.target_y[empty], tasks.target_y[empty])


def test_standardised_tasks_use_the_context_alone():
    tasks = gp_tasks(jax.random.key(3), 3, max_points=8)
    moved = tasks._replace(target_y=tasks.target_y + 7.0)
    a, b, tasks = (_on_host(one) for one in (standardise_tasks(tasks), standardise_tasks(moved), tasks))
    np.testing.assert_array_equal(a.context_y, b.context_y)
    for i in range(3):
        mask = np.asarray(tasks.context_mask[i])
        y = np.asarray(tasks.context_y[i], float)[mask]
        np.testing.assert_allclose(np.asarray(a.context_y[i])[mask], (y - y.mean(0)) / y.std(0), atol=2e-4)
        seen = np.asarray(tasks.target_mask[i])
        target = np.asarray(tasks.target_y[i], float)[seen]
        np.testing.assert_allclose(np.asarray(a.target_y[i])[seen], (target - y.mean(0)) / y.std(0), atol=2e-4)
        assert not np.asarray(a.target_y[i])[~seen].any()


def test_a_constant_context_is_shifted_only():
    tasks = gp_tasks(jax.random.key(0), 3, max_points=8)
    flat = tasks._replace(context_y=jnp.where(tasks.context_mask[..., None], 1000.1, 0.0))
    found = standardise_tasks(flat)
    np.testing.assert_allclose(found.context_y, 0, atol=1e-3)
    assert float(jnp.abs(found.target_y).max()) < 1010


def test_pixels_are_those_of_the_images():
    """Every image is filled with numbers that say which it is and where the pixel lies."""
    at = pixel_coordinates(4, 3)
    images = np.stack([(10 * k + np.arange(12).reshape(4, 3)) / 100 for k in range(3)])
    tasks = _on_host(image_completion_tasks(jax.random.key(0), images, 200))
    assert isinstance(tasks, Tasks)
    assert tasks.context_x.shape == (200, 9, 2)
    seen = set()
    for i in range(200):
        x, y = _points(tasks, i)
        assert len(np.unique(x, axis=0)) == len(x)
        place = np.array([np.flatnonzero((at == row).all(1))[0] for row in x])
        which = np.round((y + 0.5) * 100 - place) / 10
        assert len(set(which)) == 1
        seen.add(float(which[0]))
    assert seen == {0.0, 1.0, 2.0}
    np.testing.assert_allclose(at[[0, 2, 11]], [[-1, -1], [-1, 1], [1, 1]])
    coloured = jax.eval_shape(lambda key: image_completion_tasks(key, np.zeros((2, 20, 20, 3)), 2), jax.random.key(0))
    assert coloured.target_y.shape == (2, 197, 3)


def test_sine_line_tasks_are_what_they_say():
    """Without noise each task is one of the two laws, half of them lines; each distribution at level 1e-5."""
    tasks = sine_line_tasks(jax.random.key(0), 2000, n_support=6, n_query=6, noise=0.0)
    x, y = (np.concatenate(pair, 1)[..., 0].astype(float) for pair in (tasks[::2], tasks[1::2]))
    assert x.min() >= -5
    assert x.max() <= 5
    assert x.min() < -4.99
    lines = np.array([np.polyfit(a, b, 1) for a, b in zip(x, y, strict=True)])
    is_line = np.array([np.abs(np.polyval(c, a) - b).max() < 1e-4 for c, a, b in zip(lines, x, y, strict=True)])
    # Binomial: 5 standard errors.
    assert abs(is_line.mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)
    assert stats.kstest(lines[is_line][:, 0], "uniform", args=(-3, 6)).pvalue > 1e-5
    assert stats.kstest(lines[is_line][:, 1], "uniform", args=(-3, 6)).pvalue > 1e-5
    # a sin(x + b) = a cos(b) sin(x) + a sin(b) cos(x)
    coefs = []
    for a, b in zip(x[~is_line], y[~is_line], strict=True):
        design = np.stack([np.sin(a), np.cos(a)], 1)
        c = np.linalg.lstsq(design, b, rcond=None)[0]
        assert np.abs(design @ c - b).max() < 1e-3
        coefs.append(c)
    coefs = np.array(coefs)
    assert stats.kstest(np.hypot(*coefs.T), "uniform", args=(0.1, 4.9)).pvalue > 1e-5
    assert stats.kstest(np.arctan2(coefs[:, 1], coefs[:, 0]), "uniform", args=(0, np.pi)).pvalue > 1e-5
    noisy = sine_line_tasks(jax.random.key(0), 2000, n_support=6, n_query=6, noise=0.3)
    error = np.asarray(noisy.query_y - tasks.query_y).ravel() / 0.3
    assert stats.kstest(error, "norm").pvalue > 1e-5


def test_episodes_take_rows_once_and_from_the_right_class():
    rng = np.random.default_rng(0)
    labels = np.r_[np.repeat([2, 4, 7], 6), np.repeat(9, 9)]
    features = np.c_[np.arange(27.0), rng.normal(size=27)]
    tasks = _on_host(classification_tasks(jax.random.key(0), features, labels, 300, n_way=3, n_shot=2, n_query=4))
    used, orders = np.zeros(27), set()
    for i in range(300):
        rows = np.concatenate([tasks.support_x[i], tasks.query_x[i]])[:, 0].astype(int)
        y = np.concatenate([tasks.support_y[i], tasks.query_y[i]])
        assert len(set(rows)) == len(rows) == 18
        true = [set(labels[rows[y == k]]) for k in range(3)]
        assert all(len(t) == 1 for t in true)
        assert len(set.union(*true)) == 3
        orders.add(tuple(t.pop() for t in true))
        used[rows] += 1
    assert len(orders) == 24  # every ordered choice of three of four classes; each is missed with probability 3e-6
    assert used.min() > 0
    assert tasks.support_y.dtype == jnp.int32
    assert np.bincount(np.asarray(tasks.query_y[0])).tolist() == [4, 4, 4]


BAD = [
    (lambda k: gp_tasks(k, 2, kernel="cubic"), "kernel"),
    (lambda k: gp_tasks(k, 0), "n_tasks"),
    (lambda k: gp_tasks(k, 2, max_points=5), "max_points"),
    (lambda k: gp_tasks(k, 2, min_context=-1), "min_context"),
    (lambda k: gp_tasks(k, 2, min_target=0), "min_target"),
    (lambda k: gp_tasks(k, 2, noise=0.0), "noise"),
    (lambda k: gp_tasks(k, 2, noise=float("nan")), "noise"),
    (lambda k: gp_tasks(k, 2, bounds=(1.0, float("inf"))), "bounds"),
    (lambda k: gp_tasks(k, 2, bounds=(1.0, 1.0)), "bounds"),
    (lambda k: gp_tasks(k, 2, x_size=0), "x_size"),
    (lambda k: sine_line_tasks(k, 2, n_support=0), "n_support"),
    (lambda k: sine_line_tasks(k, 2, noise=-1.0), "noise"),
    (lambda k: image_completion_tasks(k, np.zeros((3, 4)), 2), "images"),
    (lambda k: image_completion_tasks(k, np.full((3, 4, 4), np.nan), 2), "images"),
    (lambda k: image_completion_tasks(k, np.full((3, 4, 4), 16.0), 2), "images"),
    (lambda k: image_completion_tasks(k, np.zeros((3, 4, 4)), 2, max_points=17), "max_points"),
    (lambda k: image_completion_tasks(k, np.zeros((3, 2, 2)), 2), "max_points"),
]


@pytest.mark.parametrize(("call", "name"), BAD)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(jax.random.key(0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_shot": 5}, "has 6 rows"),
        ({"n_way": 3}, "there are 2 classes"),
        ({"n_way": 1}, "n_way"),
        ({"labels": np.zeros(12)}, "labels"),
        ({"labels": np.zeros(5, int)}, "labels"),
        ({"features": np.full((12, 2), np.inf)}, "features"),
        ({"n_query": 0}, "n_query"),
        ({"n_tasks": True}, "n_tasks"),
    ],
)
def test_bad_episodes_are_refused(changed, message):
    given = {"features": np.zeros((12, 2)), "labels": np.repeat([0, 1], 6), "n_tasks": 2}
    given |= {"n_way": 2, "n_shot": 1, "n_query": 2} | changed
    with pytest.raises(ValueError, match=message):
        classification_tasks(jax.random.key(0), **given)
