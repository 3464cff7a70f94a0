"""Thresholding: proximal maps of penalties that make numbers zero, elementwise and in closed form.

Each is the minimiser over w of `1/2 (w - x)^2 + step * penalty(w)`, is odd in x, and is computed with the arguments of
arc functions and roots masked, so that derivatives are finite everywhere (and one-sided at a jump).
"""

import math
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace, is_traced


def soft_threshold(x: Float[AnyArray, "*d"], threshold: Any) -> Float[AnyArray, "*d"]:
    """Move each number towards zero by the threshold, and stop at zero: the proximal map of `threshold * |x|`.

    Args:
        x: any shape.
        threshold: nonnegative, broadcast to it.

    Returns:
        The minimiser of `1/2 (w - x)^2 + threshold |w|`, exactly 0 where `|x| <= threshold`.

    Source: Donoho & Johnstone (1994), Ideal spatial adaptation by wavelet shrinkage.

    >>> import numpy as np
    >>> soft_threshold(np.array([-3.0, 0.5, 2.0]), 1.0).tolist()
    [-2.0, 0.0, 1.0]
    """
    xp = array_namespace(x, threshold)
    # A maximum and a minimum rather than a sign: the derivative is 0 or 1, and the result is never -0.
    return xp.maximum(x - threshold, 0.0) + xp.minimum(x + threshold, 0.0)


def elastic_net_prox(x: Float[AnyArray, "*d"], l1: Any, l2: Any, step: Any = 1.0) -> Float[AnyArray, "*d"]:
    """Proximal map of `l1 |w| + 1/2 l2 w^2` with a step: soft threshold, then shrink.

    Args:
        x: any shape.
        l1: nonnegative, broadcast to it.
        l2: nonnegative, broadcast to it.
        step: positive, broadcast to it.

    Returns:
        The minimiser of `1/2 (w - x)^2 + step (l1 |w| + 1/2 l2 w^2)`.

    Source: Zou & Hastie (2005), Regularization and variable selection via the elastic net.

    >>> import numpy as np
    >>> elastic_net_prox(np.array([-3.0, 0.5, 2.0]), 1.0, 1.0).tolist()
    [-1.0, 0.0, 0.5]
    """
    return soft_threshold(x, step * l1) / (1 + step * l2)


def hard_threshold(x: Float[AnyArray, "*d"], weight: Any) -> Float[AnyArray, "*d"]:
    """Proximal map of `weight * [w != 0]`: keep what is larger than `sqrt(2 weight)` in size, and drop the rest.

    Args:
        x: any shape.
        weight: nonnegative, broadcast to it: penalty strength times step.

    Returns:
        The minimiser of `1/2 (w - x)^2 + weight [w != 0]`, exactly 0 where `|x| <= sqrt(2 weight)`.

    Source: Blumensath & Davies (2008), Iterative thresholding for sparse approximations, equation 2.4.

    >>> import numpy as np
    >>> hard_threshold(np.array([-3.0, 1.0, 2.0]), 0.5).tolist()
    [-3.0, 0.0, 2.0]
    """
    xp = array_namespace(x, weight)
    return xp.where(xp.abs(x) > xp.sqrt(2.0 * weight), x, 0.0)


def half_threshold(x: Float[AnyArray, "*d"], weight: Any) -> Float[AnyArray, "*d"]:
    """Proximal map of `weight * |w|^(1/2)`, in closed form.

    Args:
        x: any shape.
        weight: nonnegative, broadcast to it: penalty strength times step.

    Returns:
        The minimiser of `1/2 (w - x)^2 + weight |w|^(1/2)`, exactly 0 where `|x| <= 3/2 weight^(2/3)`.

    Source: Xu, Chang, Xu & Zhang (2012), L1/2 regularization: a thresholding representation theory and a fast solver,
    theorem 1, with lambda = 2 weight.

    >>> import numpy as np
    >>> half_threshold(np.array([-3.0, 1.0, 2.0]), 1.0).round(4).tolist()
    [-2.6955, 0.0, 1.6054]
    """
    xp = array_namespace(x, weight)
    size = xp.abs(x)
    active = size > _half_threshold_jump(weight)
    # Inactive entries are moved to 1 with weight 0 before the arc cosine, so that no derivative of it is NaN.
    inside, scale = xp.where(active, size, 1.0), xp.where(active, weight, 0.0)
    angle = xp.arccos(scale / 4.0 * (inside / 3.0) ** -1.5)
    return _signed(xp, x, active, 2.0 / 3.0 * inside * (1.0 + xp.cos(2.0 / 3.0 * (math.pi - angle))))


def _half_threshold_jump(weight: Any) -> Any:
    """Size of x at which the proximal map of `weight * |w|^(1/2)` leaves zero: `3/2 weight^(2/3)`."""
    return 1.5 * _power_of(weight, 2.0 / 3.0)


def two_thirds_threshold(x: Float[AnyArray, "*d"], weight: Any) -> Float[AnyArray, "*d"]:
    """Proximal map of `weight * |w|^(2/3)`, in closed form.

    Args:
        x: any shape.
        weight: nonnegative, broadcast to it: penalty strength times step.

    Returns:
        The minimiser of `1/2 (w - x)^2 + weight |w|^(2/3)`, exactly 0 where `|x| <= 2/3 (24 weight^3)^(1/4)`.

    Source: Cao, Sun & Xu (2013), Fast image deconvolution using closed-form thresholding formulas of L_q (q = 1/2, 2/3)
    regularization, theorem 1, with lambda = 2 weight.

    >>> import numpy as np
    >>> two_thirds_threshold(np.array([-3.0, 1.0, 2.0]), 1.0).round(4).tolist()
    [-2.5094, 0.0, 1.4047]
    """
    xp = array_namespace(x, weight)
    size = xp.abs(x)
    active = size > _two_thirds_threshold_jump(weight)
    # Without a penalty nothing moves; there, and where the result is 0, the formula runs on x = 2 with weight 1.
    inner = active & (xp.asarray(weight) > 0)
    inside, twice = xp.where(inner, size, 2.0), 2.0 * xp.where(inner, weight, 1.0)
    angle = xp.arccosh(27.0 / 16.0 * inside**2 * twice**-1.5)
    root = 2.0 / math.sqrt(3.0) * twice**0.25 * xp.sqrt(xp.cosh(angle / 3.0))
    moved = ((root + xp.sqrt(2.0 * inside / root - root**2)) / 2.0) ** 3
    return _signed(xp, x, active, xp.where(inner, moved, size))


def _two_thirds_threshold_jump(weight: Any) -> Any:
    """Size of x at which the proximal map of `weight * |w|^(2/3)` leaves zero: `2/3 (24 weight^3)^(1/4)`."""
    return 2.0 / 3.0 * 24.0**0.25 * _power_of(weight, 0.75)


def log_threshold(x: Float[AnyArray, "*d"], weight: Any, epsilon: Any) -> Float[AnyArray, "*d"]:
    """Proximal map of `weight * log(1 + |w| / epsilon)`.

    Args:
        x: any shape.
        weight: nonnegative, broadcast to it: penalty strength times step.
        epsilon: positive, broadcast to it. The map jumps where `weight > epsilon^2`, and is continuous elsewhere.

    Returns:
        The minimiser of `1/2 (w - x)^2 + weight log(1 + |w| / epsilon)`; the larger root of its derivative, or 0 if
        that is no worse.

    Source: Candes, Wakin & Boyd (2008), Enhancing sparsity by reweighted l1 minimization (the penalty); Gong, Zhang,
    Lu, Huang & Ye (2013), A general iterative shrinkage and thresholding algorithm, section 2.3 (the map).

    >>> import numpy as np
    >>> log_threshold(np.array([-3.0, 0.5, 2.0]), 1.0, 0.5).round(4).tolist()
    [-2.6861, 0.0, 1.5]
    """
    xp = array_namespace(x, weight, epsilon)
    size = xp.abs(x)
    discriminant = (size + epsilon) ** 2 - 4.0 * weight
    real = discriminant > 0
    root = (size - epsilon + xp.sqrt(xp.where(real, discriminant, 1.0))) / 2.0
    positive = real & (root > 0)
    moved = xp.where(positive, root, 1.0)
    # The objective at the root less that at zero, without their common part 1/2 x^2.
    active = positive & (weight * xp.log1p(moved / epsilon) < moved * (size - moved / 2.0))
    return _signed(xp, x, active, moved)


def scad_threshold(x: Float[AnyArray, "*d"], strength: Any, b: Any = 3.7, step: Any = 1.0) -> Float[AnyArray, "*d"]:
    """Proximal map of the smoothly clipped absolute deviation penalty (SCAD), with a step.

    Args:
        x: any shape.
        strength: the penalty's slope at zero, nonnegative, broadcast to it.
        b: where the penalty becomes flat, in units of `strength`; larger than `1 + step`.
        step: positive, broadcast to it.

    Returns:
        The minimiser of `1/2 (w - x)^2 + step SCAD(w)`: soft up to `strength (1 + step)`, x itself from `b strength`
        on, and linear between them.

    Raises:
        ValueError: `b` is not larger than `1 + step` (not looked at inside `jit`).

    Source: Fan & Li (2001), Variable selection via nonconcave penalized likelihood and its oracle properties, eq. 2.8.

    >>> import numpy as np
    >>> scad_threshold(np.array([-5.0, 1.5, 3.0]), 1.0).round(4).tolist()
    [-5.0, 0.5, 2.5882]
    """
    xp = array_namespace(x, strength, b, step)
    _require_curvature("b", b, 1.0 + step, "1 + step")
    size, threshold = xp.abs(x), step * strength
    between = ((b - 1.0) * size - b * threshold) / (b - 1.0 - step)
    moved = xp.where(size <= strength * (1.0 + step), size - threshold, xp.where(size <= b * strength, between, size))
    return _signed(xp, x, size > threshold, moved)


def mcp_threshold(x: Float[AnyArray, "*d"], strength: Any, gamma: Any = 3.0, step: Any = 1.0) -> Float[AnyArray, "*d"]:
    """Proximal map of the minimax concave penalty (MCP), with a step; also known as firm thresholding.

    Args:
        x: any shape.
        strength: the penalty's slope at zero, nonnegative, broadcast to it.
        gamma: where the penalty becomes flat, in units of `strength`; larger than `step`.
        step: positive, broadcast to it.

    Returns:
        The minimiser of `1/2 (w - x)^2 + step MCP(w)`: 0 up to `step strength`, x itself from `gamma strength` on, and
        linear between them.

    Raises:
        ValueError: `gamma` is not larger than `step` (not looked at inside `jit`).

    Source: Zhang (2010), Nearly unbiased variable selection under minimax concave penalty, equation 2.1; Gao & Bruce
    (1997), WaveShrink with firm shrinkage.

    >>> import numpy as np
    >>> mcp_threshold(np.array([-5.0, 0.9, 2.0]), 1.0, gamma=2.0).tolist()
    [-5.0, 0.0, 2.0]
    """
    _require_curvature("gamma", gamma, step, "step")
    return _firm(x, strength, gamma, step)


def cel0_threshold(
    x: Float[AnyArray, "*d"], strength: Any, column_norm: Any = 1.0, step: Any = 1.0
) -> Float[AnyArray, "*d"]:
    """Proximal map of the continuous exact relaxation of the l0 penalty (CEL0), with a step.

    CEL0 with column norm c is MCP with strength `c sqrt(2 strength)` and gamma `1 / c^2`.

    Args:
        x: any shape.
        strength: price of a nonzero, nonnegative, broadcast to it.
        column_norm: norm c of the column that the number multiplies, positive, broadcast to it.
        step: positive, broadcast to it.

    Returns:
        The minimiser of `1/2 (w - x)^2 + step CEL0(w)`, where `CEL0(w) = strength - c^2 / 2 (sqrt(2 strength) / c -
        |w|)_+^2`; where `step c^2 >= 1` it is that of the l0 penalty itself.

    Source: Soubies, Blanc-Feraud & Aubert (2015), A continuous exact l0 penalty (CEL0) for least squares regularized
    problem, equation 4.3.

    >>> import numpy as np
    >>> cel0_threshold(np.array([-3.0, 0.4, 0.8]), 0.5, step=0.5).round(4).tolist()
    [-3.0, 0.0, 0.6]
    """
    slope, gamma = cel0_as_mcp(strength, column_norm)
    return _firm(x, slope, gamma, step)


def cel0_as_mcp(strength: Any, column_norm: Any) -> tuple[Any, Any]:
    """Strength and gamma of the minimax concave penalty that equals CEL0: `c sqrt(2 strength)` and `1 / c^2`."""
    return column_norm * _power_of(2.0 * strength, 0.5), 1.0 / column_norm**2


def _firm(x: AnyArray, strength: Any, gamma: Any, step: Any) -> AnyArray:
    """Proximal map of MCP for any gamma; where `gamma <= step` the minimum is at 0 or on the flat part: it jumps."""
    xp = array_namespace(x, strength, gamma, step)
    size, threshold = xp.abs(x), step * strength
    gamma, step = xp.asarray(gamma), xp.asarray(step)
    jumps = gamma <= step
    ratio = xp.where(jumps, 0.0, step / xp.where(jumps, 1.0 + step, gamma))
    moved = xp.where(jumps | (size > gamma * strength), size, (size - threshold) / (1.0 - ratio))
    return _signed(xp, x, size > xp.where(jumps, strength * xp.sqrt(gamma * step), threshold), moved)


def _signed(xp: ModuleType, x: AnyArray, active: AnyArray, size: AnyArray) -> AnyArray:
    """The size with the sign of x where active, and 0 (never -0) elsewhere, in the precision of x."""
    signed = xp.where(active, xp.where(x < 0, -size, size), 0.0)
    return signed.astype(x.dtype) if xp.issubdtype(x.dtype, xp.floating) else signed


def _power_of(weight: Any, exponent: float) -> Any:
    """A power below 1 of a nonnegative number, whose derivative at 0 is 0 rather than infinite."""
    if isinstance(weight, int | float):
        return weight**exponent if weight > 0 else 0.0  # stays a Python number, which leaves the other's precision be
    xp = array_namespace(weight)
    positive = weight > 0
    return xp.where(positive, xp.where(positive, weight, 1.0) ** exponent, 0.0)


def _require_curvature(name: str, value: Any, least: Any, words: str) -> None:
    if not is_traced(value, least) and not np.all(np.asarray(value) > np.asarray(least)):
        raise ValueError(f"{name} must be larger than {words} = {np.max(least):g}, got {np.min(value):g}")
