"""Posterior predictive draws as the predictions that scores are computed from."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Num
from numpyro.infer import Predictive

from uqsparse.inference.arviz_io import dataset
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray


class PredictiveDraws(eqx.Module):
    """Draws from the predictive distribution of each of n held-out observations.

    Build it by `of`, `from_numpyro` or `from_arviz`, which check their input.

    Args:
        values: draws, shape (m, n), or (m, n, d) for targets of d outputs; NumPy or JAX.
    """

    values: Num[AnyArray, "m n ..."]

    @classmethod
    def of(cls, values: Num[AnyArray, "..."], *, n_outputs: int | None = None) -> "PredictiveDraws":
        """Take draws with axes (draw, observation) or (chain, draw, observation).

        Args:
            values: the draws; a last axis of outputs follows if `n_outputs` is given.
            n_outputs: the number of outputs of a target; None for plain numbers.

        Raises:
            ValueError: the number of axes is another, there are fewer than 2 draws, or a draw is not finite.

        >>> PredictiveDraws.of(np.zeros((4, 250, 30))).values.shape
        (1000, 30)
        """
        values = values if isinstance(values, jax.Array) else np.asarray(values)
        tail = () if n_outputs is None else (n_outputs,)
        if values.ndim - len(tail) not in (2, 3) or (tail and values.shape[-1:] != tail):
            axes = "(draw, observation) or (chain, draw, observation)" + (f", then {n_outputs} outputs" if tail else "")
            raise ValueError(f"draws have shape {values.shape}; expected the axes {axes}")
        if values.ndim - len(tail) == 3:
            values = values.reshape(-1, *values.shape[2:])
        if len(values) < 2:
            raise ValueError(f"draws have shape {values.shape}; at least 2 draws are needed")
        if not is_traced(values) and not np.isfinite(np.asarray(values)).all():
            bad = np.count_nonzero(~np.isfinite(np.asarray(values)))
            raise ValueError(f"draws have {bad} NaN or infinite values")
        return cls(values)

    @classmethod
    def from_numpyro(
        cls,
        key: Array,
        model: Callable,
        posterior: Any,
        *args: Any,
        site: str = "y",
        **kwargs: Any,
    ) -> "PredictiveDraws":
        """Draw held-out observations from a NumPyro model, given posterior draws of its parameters.

        Args:
            key: random key.
            model: the NumPyro model function.
            posterior: draws by site name with one axis of draws, or a NumPyro `MCMC` that has run.
            args: the model's arguments for the held-out observations.
            site: the observed site; it must not be given a value.
            kwargs: the model's keyword arguments for the held-out observations.

        Raises:
            ValueError: the model has no such site for these arguments, or its draws have another shape than (draws, n).
        """
        samples: Mapping[str, Any] = posterior if isinstance(posterior, Mapping) else posterior.get_samples()
        found = Predictive(model, posterior_samples=dict(samples))(key, *args, **kwargs)
        if site not in found:
            raise ValueError(f"site is {site!r}; the model draws {', '.join(sorted(found)) or 'nothing'}")
        return cls.of(np.asarray(found[site]))

    @classmethod
    def from_arviz(
        cls, data: Any, var_name: str = "y", *, group: str = "predictions", held_out: bool | None = None
    ) -> "PredictiveDraws":
        """Take predictive draws from ArviZ data.

        Args:
            data: `InferenceData` or `DataTree`.
            var_name: the variable.
            group: "predictions" holds draws for new observations. "posterior_predictive" holds draws for the
                observations the model was fitted to, unless you say that they were held out.
            held_out: True says that the model has not seen the observations; assumed of "predictions" only.

        Raises:
            ValueError: the observations may have been used to fit the model. Residuals of fitted observations are too
                small, and no calibration on them covers; use `CVPlus` for leave-one-out intervals instead.
            KeyError: there is no such group or variable.
        """
        if not (group == "predictions" if held_out is None else held_out):
            raise ValueError(
                f"group {group!r} holds draws for the observations the model was fitted to; scores of them cannot "
                "calibrate. Pass held_out=True if the model has not seen them, or use CVPlus.from_posterior"
            )
        variables = dataset(data, group)
        if var_name not in variables:
            raise KeyError(f"no variable {var_name!r} in {group!r}; there are {', '.join(map(str, variables))}")
        return cls.of(variables[var_name].values)

    @property
    def n(self) -> int:
        """The number of observations."""
        return self.values.shape[1]

    def mean(self) -> Float[AnyArray, "n ..."]:
        """Predictive means."""
        return self.values.mean(0)

    def sd(self) -> Float[AnyArray, "n ..."]:
        """Predictive standard deviations."""
        return self.values.std(0, ddof=1)

    def quantile(self, probability: float) -> Float[AnyArray, "n ..."]:
        """Predictive quantiles, interpolated linearly between draws."""
        return array_namespace(self.values).quantile(self.values, probability, axis=0)

    def cdf(self, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        """The share of draws below y, ties counted half."""
        return ((self.values < y).mean(0) + (self.values <= y).mean(0)) / 2
