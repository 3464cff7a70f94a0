"""Proximal maps of the weighted lasso and of the elastic net."""

from typing import Any

from jaxtyping import Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace


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
