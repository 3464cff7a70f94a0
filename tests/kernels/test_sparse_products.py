"""Sparse products and their gradients against dense NumPy in double precision."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.kernels import product_choice, sparse_products
from uqsparse.kernels.group_sparsity import GroupSparse, from_arrays, pack, project_group
from uqsparse.kernels.native import library
from uqsparse.kernels.product_choice import DEFAULTS, Limit, Shape, calibrate, choose
from uqsparse.kernels.sparse_products import backend, matmul, rows_matvec

needs_native = pytest.mark.skipif(not library().kernels, reason=f"no compiled kernels: {library().reason}")
each_backend = pytest.mark.parametrize("name", [pytest.param("native", marks=needs_native), "jax", "dense"])


def random_mask(rng, n_inputs, n_groups, n):
    """n pairs of an input and a group, spread at random: some groups may be empty, others whole."""
    kept = np.zeros(n_inputs * n_groups, bool)
    # The first groups have the better chances, so that the fan-in varies.
    chances = np.tile(np.linspace(1.0, 0.1, n_groups) ** 2, n_inputs)
    kept[np.argsort(rng.uniform(size=kept.size) / chances)[:n]] = True
    return kept.reshape(n_inputs, n_groups)


def random_matrix(rng, n_inputs, n_outputs, group, n):
    """A packed matrix with n entries, and the dense one in double precision."""
    n_groups = -(-n_outputs // group)
    kept = random_mask(rng, n_inputs, n_groups, n)
    group_of, idx = np.nonzero(kept.T)
    val = rng.normal(size=(n, group)).astype(np.float32)
    dense = np.zeros((n_inputs, n_groups * group))
    for g, k, row in zip(group_of, idx, val, strict=True):
        dense[k, g * group : (g + 1) * group] = row
    ptr = np.concatenate([[0], np.cumsum(kept.sum(axis=0))])
    gs = from_arrays(ptr, idx, val, (n_inputs, n_outputs), group)
    return gs, dense[:, :n_outputs], (group_of, idx)


def expected_dval(x, dy, places, gs):
    """The gradient of the stored values, entry by entry."""
    padded = np.pad(dy, ((0, 0), (0, -dy.shape[1] % gs.group)))
    return np.array(
        [x[:, k] @ padded[:, g * gs.group : (g + 1) * gs.group] for g, k in zip(*places, strict=True)]
    ).reshape(gs.val.shape)


@partial(jax.jit, static_argnums=3)
def product_and_gradients(x, gs, dy, name):
    y, pull = jax.vjp(lambda x, val: matmul(x, dataclasses.replace(gs, val=val), name), x, gs.val)
    return y, *pull(dy)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(np.abs(expected).max(initial=0), 1))


def draw_shape(rng, group):
    n_inputs, rows = rng.integers(1, 71), rng.integers(1, 71)
    n_outputs = rng.integers(1, max(3 * group, 40))
    pairs = n_inputs * -(-n_outputs // group)
    n = int(rng.choice([0, round(0.1 * pairs), round(0.4 * pairs), round(0.8 * pairs), pairs]))
    return rows, n_inputs, n_outputs, n


@pytest.mark.parametrize(
    ("name", "group"),
    [
        *(pytest.param("native", group, marks=needs_native) for group in (1, 4, 8, 16, 32, 11)),
        *((name, group) for name in ("jax", "dense") for group in (1, 11)),
    ],
)
def test_products_and_gradients_are_those_of_the_dense_matrix(name, group):
    """216 cases for the compiled kernels: 3 shapes a group, one of them of 1 to 3 rows, and 12 masks each."""
    rng = np.random.default_rng(group)
    for shape in range(3 if name == "native" else 1):
        rows, n_inputs, n_outputs, n = draw_shape(rng, group)
        rows = 1 + group % 3 if name == "native" and shape == 0 else rows
        for _ in range(12 if name == "native" else 3):
            gs, dense, places = random_matrix(rng, n_inputs, n_outputs, group, n)
            x = rng.normal(size=(rows, n_inputs)).astype(np.float32)
            dy = rng.normal(size=(rows, n_outputs)).astype(np.float32)
            y, dx, dval = product_and_gradients(x, gs, dy, name)
            close(y, x @ dense)
            close(dx, dy @ dense.T)
            close(dval, expected_dval(x.astype(float), dy.astype(float), places, gs))


@needs_native
@pytest.mark.parametrize("group", [2, 16])
def test_long_and_many_rows_are_worked_on_in_pieces(group):
    rng = np.random.default_rng(group)
    gs, dense, places = random_matrix(rng, 4096, 40, group, 500)
    x = rng.normal(size=(300, 4096)).astype(np.float32)
    dy = rng.normal(size=(300, 40)).astype(np.float32)
    y, dx, dval = product_and_gradients(x, gs, dy, "native")
    close(y, x @ dense)
    close(dx, dy @ dense.T)
    close(dval, expected_dval(x.astype(float), dy.astype(float), places, gs))


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("group", [2, 16])
@pytest.mark.parametrize("name", [pytest.param("native", marks=needs_native), "jax"])
def test_a_nan_reaches_the_outputs_that_use_it_and_no_others(name, group, rows):
    rng = np.random.default_rng(0)
    gs, dense, _ = random_matrix(rng, 30, 70, group, 30 * -(-70 // group) // 3)
    x = rng.normal(size=(rows, 30)).astype(np.float32)
    x[1, 7] = np.nan
    expected = np.zeros((rows, 70), bool)
    expected[1] = dense[7] != 0
    assert expected.any()
    assert not expected.all()
    y = product_and_gradients(x, gs, np.ones((rows, 70), np.float32), name)[0]
    np.testing.assert_array_equal(np.isnan(y), expected)


def calls_of(function, *arguments):
    """Products in the traced program, and loops."""
    text = str(jax.make_jaxpr(function)(*arguments))
    return text.count("sparse_product["), text.count("scan[") + text.count("while[")


@needs_native
def test_a_batch_of_rows_alone_is_one_product():
    rng = np.random.default_rng(1)
    gs, dense, _ = random_matrix(rng, 20, 24, 8, 30)
    x = rng.normal(size=(3, 5, 20)).astype(np.float32)
    batched = jax.vmap(jax.vmap(matmul, (0, None)), (0, None))
    assert calls_of(batched, x, gs) == (1, 0)
    close(jax.jit(batched)(x, gs), x @ dense)
    close(matmul(x, gs), x @ dense)


@each_backend
def test_batches_of_matrices_go_one_by_one(name):
    rng = np.random.default_rng(2)
    W = rng.normal(size=(3, 20, 24)).astype(np.float32)
    masks = [project_group(np.abs(one), 5, group=8) for one in W]
    packed = [pack(one, mask, 8) for one, mask in zip(W, masks, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *packed)
    x = rng.normal(size=(3, 6, 20)).astype(np.float32)
    dy = rng.normal(size=(3, 6, 24)).astype(np.float32)
    y, dx, dval = jax.vmap(partial(product_and_gradients, name=name))(x, stacked, dy)
    shared = jax.vmap(partial(product_and_gradients, name=name), (None, 0, 0))(x[0], stacked, dy)
    dense = W * np.array(masks)
    close(y, x @ dense)
    close(dx, dy @ dense.transpose(0, 2, 1))
    close(shared[0], x[0] @ dense)
    for i, gs in enumerate(packed):
        whole = jnp.asarray(x[i].T.astype(float) @ dy[i])
        close(dval[i], gs.with_weight(whole).val)


@each_backend
def test_it_works_under_checkpoint_and_value_and_grad_of_a_batch(name):
    rng = np.random.default_rng(3)
    gs, dense, places = random_matrix(rng, 20, 24, 8, 30)
    x = rng.normal(size=(4, 20)).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(val):
        rows = jax.checkpoint(jax.vmap(lambda row: matmul(row, dataclasses.replace(gs, val=val), name)))
        return jnp.sum(rows(x) ** 2)

    value, gradient = loss(gs.val)
    y = x @ dense
    np.testing.assert_allclose(value, np.sum(y**2), rtol=1e-5)
    close(gradient, expected_dval(x.astype(float), 2 * y, places, gs))


@needs_native
def test_other_types_are_never_taken_for_float32():
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        gs, dense, _ = random_matrix(rng, 20, 24, 8, 30)
        x = rng.normal(size=(5, 20))
        y = matmul(jnp.asarray(x), gs)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, x @ dense, atol=1e-12)
        with pytest.raises(TypeError, match="needs float32 rows and values, got float64"):
            matmul(jnp.asarray(x), gs, "native")
    half = jnp.asarray(x, jnp.bfloat16)
    assert matmul(half, gs).dtype == jnp.float32
    np.testing.assert_allclose(matmul(half, gs), np.asarray(half, float) @ dense, rtol=1e-2, atol=1e-2)
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow = dataclasses.replace(gs, val=gs.val.astype(dtype))
        gradient = jax.grad(lambda val, gs=narrow: matmul(half, dataclasses.replace(gs, val=val)).sum())(narrow.val)
        assert gradient.dtype == dtype


def test_no_rows_and_no_entries_are_no_special_case():
    gs, *_ = random_matrix(np.random.default_rng(5), 6, 10, 4, 0)
    assert matmul(jnp.zeros((0, 6)), gs).shape == (0, 10)
    np.testing.assert_array_equal(matmul(jnp.ones((3, 6)), gs), np.zeros((3, 10)))


def test_what_is_empty_is_no_special_case():
    gs, *_ = random_matrix(np.random.default_rng(5), 6, 10, 4, 5)
    assert jax.vmap(matmul, (0, None))(jnp.zeros((0, 3, 6)), gs).shape == (0, 3, 10)
    assert jax.vmap(matmul, (0, None))(jnp.zeros((3, 0, 6)), gs).shape == (3, 0, 10)

    def total(val):
        return jax.vmap(lambda row: matmul(row, dataclasses.replace(gs, val=val)))(jnp.zeros((0, 6))).sum()

    np.testing.assert_array_equal(jax.grad(total)(gs.val), np.zeros((5, 4)))
    for *leading, n_inputs, n_outputs, n_chosen in ((3, 4, 2, 0), (4, 2, 0), (3, 0, 2, 0), (3, 4, 0, 1), (0, 4, 2, 1)):
        x, W = jnp.ones((*leading, n_inputs)), jnp.ones((n_inputs, n_outputs))
        idx = jnp.zeros((*leading, n_chosen), jnp.int32)
        np.testing.assert_array_equal(rows_matvec(x, W, idx), np.zeros((*leading, n_outputs)))
        dx, dW = jax.grad(lambda x, W, idx=idx: rows_matvec(x, W, idx).sum(), argnums=(0, 1))(x, W)
        assert (dx.shape, dW.shape) == (x.shape, W.shape)
        if leading:
            batched = jax.vmap(rows_matvec, (0, None, 0))(x, W, idx)
            np.testing.assert_array_equal(batched, np.zeros((*leading, n_outputs)))


def test_wrong_arguments_are_named():
    gs, *_ = random_matrix(np.random.default_rng(6), 6, 10, 4, 5)
    with pytest.raises(ValueError, match="x must have 6 entries in its last axis, got shape"):
        matmul(jnp.ones((2, 5)), gs)
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'native', 'jax', 'dense', got 'gpu'"):
        matmul(jnp.ones((2, 6)), gs, "gpu")
    with pytest.raises(TypeError, match="x must hold real floating numbers, got int32"):
        matmul(jnp.ones((2, 6), jnp.int32), gs)
    with pytest.raises(ValueError, match="x and W must have shapes"):
        rows_matvec(jnp.ones(3), jnp.ones((4, 2)), jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match="idx must have the leading axes of x"):
        rows_matvec(jnp.ones((2, 4)), jnp.ones((4, 2)), jnp.zeros(2, jnp.int32))
    with pytest.raises(TypeError, match="idx must hold integers, got float32"):
        rows_matvec(jnp.ones(4), jnp.ones((4, 2)), jnp.zeros(2))


# --- what the handlers refuse -----------------------------------------------------------------------------------------


def small() -> GroupSparse:
    return from_arrays([0, 2, 3], [0, 4, 2], np.ones((3, 2)), (5, 4), 2)


@needs_native
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idx": [0, 5, 2]}, r"idx must lie in \[0, 5\), got 5"),
        ({"idx": [0, -1, 2]}, r"idx must lie in \[0, 5\), got -1"),
        ({"ptr": [0, 4, 3]}, "ptr falls at 2"),
        ({"ptr": [1, 2, 3]}, r"ptr\[0\] must be 0, got 1"),
        ({"ptr": [0, 2, 2]}, "ptr ends at 2 for 3 entries"),
        ({"ptr": [0, 3]}, "1 groups of 2 do not make 4 outputs"),
        ({"val": np.ones((2, 2), np.float32)}, r"val must have shape \(3, group\), got \(2, 2\)"),
    ],
)
def test_positions_that_do_not_fit_are_refused_by_the_compiled_code(changes, message):
    arrays = {name: jnp.asarray(array) for name, array in changes.items()}
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(matmul(jnp.ones((6, 5)), dataclasses.replace(small(), **arrays), "native"))


@needs_native
@pytest.mark.parametrize("inputs", [[4, 1, 3], [1, 1, 3]])
def test_the_gradient_of_large_groups_refuses_inputs_out_of_order(inputs):
    gs = from_arrays([0, 2, 3], [1, 4, 3], np.ones((3, 8)), (5, 16), 8)
    wrong = dataclasses.replace(gs, idx=jnp.asarray(inputs))
    with pytest.raises(Exception, match="idx must ascend within each group"):
        jax.block_until_ready(jax.grad(lambda x: matmul(x, wrong, "native").sum())(jnp.ones((6, 5))))


@needs_native
def test_a_wide_group_without_entries_takes_no_time():
    gs = from_arrays([0, 0], np.zeros(0, int), np.zeros((0, 2**40)), (9, 7), 2**40)
    np.testing.assert_array_equal(matmul(jnp.ones((2, 9)), gs, "native"), np.zeros((2, 7)))


@needs_native
@pytest.mark.parametrize("changes", [{"ptr_t": [0, 9, 9, 9, 9, 3]}, {"group_t": [0, 2, 0]}, {"pos_t": [0, 2, -7]}])
def test_transposed_positions_that_do_not_fit_are_refused_by_the_compiled_code(changes):
    arrays = {name: jnp.asarray(array) for name, array in changes.items()}
    gs = dataclasses.replace(small(), **arrays)
    with pytest.raises(Exception, match=next(iter(changes))):
        jax.block_until_ready(jax.grad(lambda x: matmul(x, gs, "native").sum())(jnp.ones((6, 5))))


# --- chosen inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_native), False])
def test_chosen_inputs_are_multiplied_with_gradients(compiled):
    rng = np.random.default_rng(7)
    dtype = np.float32 if compiled else np.float64
    with jax.enable_x64(not compiled):
        x, W = rng.normal(size=(3, 2, 20)).astype(dtype), rng.normal(size=(20, 37)).astype(dtype)
        idx = rng.integers(0, 20, size=(3, 2, 9))  # with repeats
        dy = rng.normal(size=(3, 2, 37)).astype(dtype)

        @jax.jit
        def all_ways(x, W):
            y, pull = jax.vjp(lambda x, W: rows_matvec(x, W, idx), x, W)
            batched = jax.vmap(rows_matvec, (0, None, 0))(x, W, idx)
            one_row = jax.vmap(rows_matvec, (None, None, 0))(x[0, 0], W, idx[0])
            matrices = jax.vmap(rows_matvec, (0, 0, 0))(x[:, 0], jnp.stack([W, 2 * W, -W]), idx[:, 0])
            return y, *pull(jnp.asarray(dy)), batched, one_row, matrices

        y, dx, dW, batched, one_row, matrices = all_ways(x, W)
    times = np.zeros((3, 2, 20))
    for place, k in np.ndenumerate(idx):
        times[(*place[:2], k)] += 1
    close(y, (times * x) @ W)
    close(batched, (times * x) @ W)
    close(one_row, (times[0] * x[0, 0]) @ W)
    close(matrices, np.array([1, 2, -1])[:, None] * ((times * x) @ W)[:, 0])
    close(dx, times * (dy @ W.T))
    close(dW, np.einsum("abk,abn->kn", times * x, dy))


@needs_native
def test_a_chosen_input_out_of_range_is_refused_by_the_compiled_code():
    with pytest.raises(Exception, match=r"idx must lie in \[0, 4\), got 4"):
        jax.block_until_ready(rows_matvec(jnp.ones(4), jnp.ones((4, 2)), jnp.array([1, 4])))


# --- other processes --------------------------------------------------------------------------------------------------


def digest() -> str:
    """Bits of products large enough to be shared among threads."""
    rng = np.random.default_rng(8)
    found = hashlib.sha256()
    for group, rows in ((16, 2), (16, 90), (1, 90)):
        gs, *_ = random_matrix(rng, 512, 300, group, 512 * -(-300 // group) // 2)
        x = rng.normal(size=(rows, 512)).astype(np.float32)
        dy = rng.normal(size=(rows, 300)).astype(np.float32)
        for array in product_and_gradients(x, gs, dy, "native"):
            found.update(np.asarray(array).tobytes())
    W = rng.normal(size=(512, 3000)).astype(np.float32)
    found.update(np.asarray(rows_matvec(x[0], W, np.arange(0, 512, 2))).tobytes())
    return found.hexdigest()


def in_a_child(program, **environment):
    """What a program prints in a process of its own that may use one processor."""
    start = f"import os, sys; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_native
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="needs two processors")
def test_the_number_of_threads_changes_no_bit():
    folder = os.path.dirname(__file__)
    program = f"sys.path.insert(0, {folder!r}); import test_sparse_products; print(test_sparse_products.digest())"
    assert in_a_child(program) == digest()


def test_everything_works_where_nothing_is_compiled(monkeypatch):
    """As after an installation without a compiler: the library is not to be found."""
    monkeypatch.setenv("UQSPARSE_KERNELS", "none")
    found = library.__wrapped__()
    monkeypatch.setattr(sparse_products, "library", lambda: found)
    rng = np.random.default_rng(0)
    gs, dense, _ = random_matrix(rng, 30, 20, 1, 180)
    x = rng.normal(size=(7, 30)).astype(np.float32)
    W = jnp.asarray(dense, jnp.float32)

    @jax.jit
    def products(x, W):
        y, pull = jax.vjp(matmul, x, gs)
        return y, pull(jnp.ones_like(y))[0], rows_matvec(x, W, jnp.tile(jnp.arange(30), (7, 1)))

    assert "ffi_call" not in str(jax.make_jaxpr(products)(x, W))
    y, dx, chosen = products(x, W)
    close(y, x @ dense)
    close(dx, np.ones((7, 20)) @ dense.T)
    close(chosen, x @ dense)
    with pytest.raises(RuntimeError, match="\"native\" cannot be used: UQSPARSE_KERNELS is 'none'"):
        matmul(x, gs, "native")
    assert backend() == "jax"


@needs_native
def test_kernels_that_xla_refuses_are_not_used(monkeypatch):
    """As where they were built against a newer XLA, which is only seen at once if JAX has set up its processors."""
    ready = []

    def refuse(*arguments, **options):
        assert ready == ["cpu"]
        raise RuntimeError("API version (0.3) is incompatible")

    monkeypatch.setattr(jax, "devices", ready.append)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    assert library.__wrapped__() == ("", "the compiled kernels do not load: API version (0.3) is incompatible")


def test_the_backend_says_what_was_found():
    found = library()
    assert backend() == (f"native ({found.kernels})" if found.kernels else "jax")


# --- the choice -------------------------------------------------------------------------------------------------------


def test_limits_of_the_class_at_hand_decide():
    limits = (
        Limit("native", "forward", 1, 1, 0.1),
        Limit("native", "forward", 1, 64, 0.3),
        Limit("native", "forward", 8, 1, 0.5),
    )

    def taken(rows, group, density):
        return choose(Shape(rows, 100, 160, group, round(density * 100 * 160 / group)), "forward", "native", limits)

    assert taken(1, 1, 0.1) == "native"
    assert taken(63, 7, 0.2) == "dense"
    assert taken(64, 2, 0.2) == "native"
    assert taken(200, 16, 0.5) == "native"
    assert taken(0, 8, 0.6) == "dense"


def test_there_is_a_limit_for_everything():
    for product in ("forward", "gradients"):
        for program in ("native", "jax"):
            for rows in (0, 1, 7, 1000):
                for group in (1, 3, 16, 999):
                    assert choose(Shape(rows, 10, 10, group, 0), product, program, DEFAULTS) in (program, "dense")


@needs_native
def test_calibration_finds_where_the_programs_meet(monkeypatch):
    monkeypatch.setattr(product_choice, "_current", DEFAULTS)
    # 1 + 4 density against 3: they meet at one half.
    monkeypatch.setattr(product_choice, "median_seconds", lambda calls, rounds: [2.0, 4.0, 3.0])
    limits = calibrate(32, groups=(8,), rows=(3,), rounds=1)
    changed = [one for one in limits if one not in DEFAULTS]
    assert [one[:4] for one in changed] == [("native", product, 8, 1) for product in ("forward", "gradients")]
    np.testing.assert_allclose([one.density for one in changed], 0.5)
    assert choose(Shape(3, 10, 80, 8, 49), "forward", "native") == "native"
    assert choose(Shape(3, 10, 80, 8, 51), "forward", "native") == "dense"
    with pytest.raises(ValueError, match="rows must be an integer of at least 1, got 0"):
        calibrate(rows=(0,))


def test_a_round_that_is_counted_too_short_does_not_count():
    """A clock on which a call takes 1, but one of five rounds 0.1."""
    took = iter([1.0, *[1.0, 0.1, 1.0, 1.0, 1.0]])
    now = [0.0, False]

    def clock():
        now[0] += next(took) if now[1] else 0.0
        now[1] = not now[1]
        return now[0]

    assert product_choice.median_seconds([lambda: None], 5, clock=clock) == [pytest.approx(1.0)]


def test_a_fan_in_may_be_rounded_up():
    assert choose(Shape(9, 2048, 2048, 16, 1229 * 128), "gradients", "native", DEFAULTS) == "native"
    assert choose(Shape(9, 2048, 2048, 16, 1300 * 128), "gradients", "native", DEFAULTS) == "dense"


@needs_native
def test_calibration_measures():
    before = product_choice._current
    try:
        limits = calibrate(64, groups=(16,), rows=(4,), rounds=1)
    finally:
        product_choice._current = before
    assert len(limits) == len(before)
    assert all(0 <= one.density <= 1 for one in limits)
