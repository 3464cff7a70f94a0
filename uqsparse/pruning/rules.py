"""Rules: how the old mask, the scores and the counts give the new mask of one weight.

A rule sees rows of units, as the structure cuts them. Of each row the new mask keeps `count` units; `churn` is the
share of them that a rule with exchange trades. All numbers may be traced.
"""

from abc import abstractmethod
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.selection import top_mask

Rows = Float[Array, "rows units"]
Mask = Bool[Array, "rows units"]

# A share of a count that should be whole is not, by a rounding error.
_ROUNDING = 1e-4


class Rule(eqx.Module):
    """What all rules have: the class variables say what the hook has to provide.

    Attributes:
        exchanges: trades weights, and so needs growth scores and churn.
        shrinks_only: every new mask is a subset of the old one.
        looks_off_mask: ranks weights that are off too, by the values they had when they were dropped.
    """

    exchanges = False
    shrinks_only = False
    looks_off_mask = False

    @abstractmethod
    def __call__(
        self,
        mask: Mask,
        keep: Rows,
        grow: Rows,
        count: Int[Array, ""],
        churn: Float[Array, ""],
        most: Int[Array, " rows"] | None = None,
    ) -> Mask:
        """The new mask.

        Args:
            mask: the old one.
            keep: score for staying.
            grow: score for coming in; without meaning unless the rule exchanges.
            count: units of a row to keep.
            churn: share of a row's units to trade.
            most: no more than this many trades a row, if given.
        """


class Static(Rule):
    """The mask stays."""

    def __call__(self, mask, keep, grow, count, churn, most=None):
        """The old mask."""
        return mask


class Prune(Rule):
    """The best of what is kept; nothing comes back."""

    shrinks_only = True

    def __call__(self, mask, keep, grow, count, churn, most=None):
        """The `count` best of the old mask."""
        return top_mask(jnp.where(mask, keep, -jnp.inf), count)


class Reselect(Rule):
    """The best of all weights, those that are off by the values they had when they were dropped."""

    looks_off_mask = True

    def __call__(self, mask, keep, grow, count, churn, most=None):
        """The `count` best."""
        return top_mask(keep, count)


class DropGrow(Rule):
    """Drop the worst of what is kept, and let as many of what is off come in.

    Of n units of a row, r = churn * n are traded, no more than are off. A unit that was just dropped cannot come back.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity;
    Evci et al. (2020), Rigging the lottery, algorithm 1.

    Args:
        allow_regrow: units just dropped can come back, with their values, as in the papers' code.
        rounding: of r.
    """

    allow_regrow: bool = eqx.field(static=True, default=False)
    rounding: Literal["floor", "ceil"] = eqx.field(static=True, default="floor")

    exchanges = True

    def __call__(self, mask, keep, grow, count, churn, most=None):
        """The mask after the trade."""
        n = mask.sum(axis=-1)
        share = churn * n
        trades = jnp.floor(share + _ROUNDING) if self.rounding == "floor" else jnp.ceil(share - _ROUNDING)
        trades = jnp.minimum(trades.astype(int), mask.shape[-1] - n)
        if most is not None:
            trades = jnp.minimum(trades, most)
        kept = top_mask(jnp.where(mask, keep, -jnp.inf), jnp.minimum(n, count) - trades)
        outside = ~kept if self.allow_regrow else ~mask
        return kept | top_mask(jnp.where(outside, grow, -jnp.inf), count - kept.sum(axis=-1))


class PruneRegrow(DropGrow):
    """Prune to the count, then trade at that count: gradual pruning with zero-cost neuroregeneration.

    Source: Liu et al. (2021), Sparse training via boosting pruning plasticity with neuroregeneration, algorithm 1.
    """

    rounding: Literal["floor", "ceil"] = eqx.field(static=True, default="ceil")

    def __call__(self, mask, keep, grow, count, churn, most=None):
        """The mask after pruning and the trade."""
        pruned = top_mask(jnp.where(mask, keep, -jnp.inf), count)
        return super().__call__(pruned, keep, grow, count, churn, most)


class RestrictedSwap(Rule):
    """Move toward the best of all weights, by at most `cap` trades a row, the largest differences first.

    Source: Zhang et al. (2022), Lottery jackpots exist in pre-trained models, section 3.3.
    """

    cap: int = eqx.field(static=True)

    looks_off_mask = True

    def __post_init__(self) -> None:
        require_count("cap", self.cap, 1)

    def __call__(self, mask, keep, grow, count, churn, most=None):
        """The mask after the trades."""
        target = top_mask(keep, count)
        leaving, coming = mask & ~target, target & ~mask
        left = top_mask(jnp.where(leaving, -keep, -jnp.inf), self.cap)
        return (mask & ~left) | top_mask(jnp.where(coming, keep, -jnp.inf), left.sum(axis=-1))
