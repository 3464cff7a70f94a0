"""What the estimators of sparse coding share: fitting with restarts, codes, posteriors, scores and samples."""

import abc
import math
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Num
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from uqsparse.kernels.arguments import require_count
from uqsparse.models.sparse_coding.checkpoints import (
    FitProgress,
    check_checkpoint,
    data_digest,
    load_checkpoint,
    save_checkpoint,
)
from uqsparse.models.sparse_coding.posteriors import row_posteriors
from uqsparse.models.sparse_coding.states import MAX_STATES, require_state_count
from uqsparse.solvers.annealing import CUT_RAMP
from uqsparse.solvers.chunked_rows import ChunkedRows, row_moments
from uqsparse.solvers.truncated_em import (
    Annealing,
    EMState,
    Parameters,
    TruncatedEM,
    TruncatedModel,
    TruncatedPosterior,
    fit_truncated_em,
    placed_rows,
)


class SparseCodingEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the estimators of sparse coding with discrete causes.

    A subclass says `_build_model(n_candidates, gamma)`, the `TruncatedModel`; `_set_prior(parameters)`, which sets its
    `prior_..._` attributes; where needed `_check_data(X)`, which refuses data that the model cannot have made; and what
    `None` stands for: `_default_truncation`, H' and gamma, and the other defaults below.
    """

    _default_truncation: ClassVar[tuple[int, int]] = (8, 5)
    _default_temperature: ClassVar[float] = 5.0
    _default_cut: ClassVar[bool] = True
    _default_parameter_noise: ClassVar[float] = 0.0

    def __init__(
        self,
        n_causes: int = 10,
        n_candidates: int | None = None,
        gamma: int | None = None,
        *,
        n_iter: int = 100,
        temperature: float | None = None,
        cut: bool | None = None,
        parameter_noise: float | None = None,
        n_restarts: int = 1,
        adaptive: bool = False,
        tol: float = 1e-4,
        max_states: int = MAX_STATES,
        chunk_size: int | None = None,
        dtype: Literal["float64", "float32"] = "float64",
        progress: bool = False,
        random_state: Any = None,
    ):
        self.n_causes = n_causes
        self.n_candidates = n_candidates
        self.gamma = gamma
        self.n_iter = n_iter
        self.temperature = temperature
        self.cut = cut
        self.parameter_noise = parameter_noise
        self.n_restarts = n_restarts
        self.adaptive = adaptive
        self.tol = tol
        self.max_states = max_states
        self.chunk_size = chunk_size
        self.dtype = dtype
        self.progress = progress
        self.random_state = random_state

    @abc.abstractmethod
    def _build_model(self, n_candidates: int, gamma: int) -> TruncatedModel:
        """The model, once the arguments have been checked."""

    @abc.abstractmethod
    def _set_prior(self, parameters: Parameters) -> None:
        """Set the attributes `prior_..._` from fitted parameters."""

    def _check_data(self, X: Float[np.ndarray, "n D"]) -> None:
        """Refuse data that the model cannot have made; anything finite is welcome here."""

    def fit(
        self, X: Num[Any, "n D"], y: Any = None, *, mesh: Mesh | None = None, checkpoint: str | Path | None = None
    ) -> "SparseCodingEstimator":
        """Learn dictionary, noise and prior by maximum free energy.

        Args:
            X: data, finite, shape (n, D), n at least 2; the rows of this process where several work together.
            y: ignored.
            mesh: one-dimensional `jax.sharding.Mesh` with axis "data" over which rows are divided, such as
                `jax.make_mesh((jax.device_count(),), ("data",))`; None is one device.
            checkpoint: file that is replaced after each iteration. A fit that finds it there goes on from it, and ends
                with the same numbers, bit for bit, as one that was never stopped (on as many devices). Without
                `random_state` the checkpoint's seed is used.

        Raises:
            ValueError: a value is NaN or infinite, all rows are equal, a parameter is out of range, a datum would have
                more than `max_states` states, or the checkpoint is that of other data or settings.
            FloatingPointError: the free energy overflows.

        Warns:
            ConvergenceWarning: the best run had not settled after `n_iter` iterations.
            RuntimeWarning: it ended with causes that are never active.
        """
        model, schedule = self._checked_settings()
        least = 2 if jax.process_count() == 1 else 1
        checked: Any = validate_data(self, X, dtype=np.dtype(self.dtype), ensure_min_samples=least)
        self._check_data(checked)
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None:
            check_checkpoint(path)
        rows = placed_rows(model, checked, self.chunk_size, mesh)
        with jax.enable_x64(checked.dtype == np.float64):
            mean, scale = row_moments(rows)
            if not math.isfinite(scale):
                raise ValueError(f"X must have squares that do not overflow in {self.dtype}: rescale it")
            if not scale > 8 * np.finfo(checked.dtype).eps * np.abs(mean).max():
                raise ValueError(f"X must have rows that differ, got {rows.n_rows} rows that are all equal")
            template = model.initial(jax.random.key(0), mean, checked.dtype.type(scale))
        seed = None if self.random_state is None else self._draw_seed(self.random_state)
        progress, settings = None, {}
        if path is not None:
            settings = self._fingerprint(model, schedule, rows, checked)
            progress = load_checkpoint(path, settings, seed, type(template))
        if progress is None:
            progress = FitProgress(self._draw_seed(None) if seed is None else seed)
        while len(progress.finished) < self.n_restarts:
            progress = self._run(model, schedule, rows, progress, (mean, scale), path, settings)
        self.model_ = model
        self._keep(progress.finished)
        return self

    def _run(
        self,
        model: TruncatedModel,
        schedule: Annealing,
        rows: ChunkedRows,
        progress: FitProgress,
        moments: tuple[Float[np.ndarray, " D"], float],
        path: Path | None,
        settings: dict[str, Any],
    ) -> FitProgress:
        """Start the next run, or go on with the one under way."""

        def save(state: EMState) -> None:
            if path is not None:
                save_checkpoint(path, settings, progress._replace(state=state))

        number, dtype = len(progress.finished), np.dtype(rows.Y.dtype)
        with jax.enable_x64(dtype == np.float64):
            of_start, of_noise = jax.random.split(jax.random.fold_in(jax.random.key(progress.seed), number))
            first = model.initial(of_start, moments[0], dtype.type(moments[1]))
        run = fit_truncated_em(
            model,
            first,
            rows,
            schedule,
            key=of_noise,
            tolerance=self.tol,
            on_iteration=save,
            start=progress.state,
            progress=self.progress,
        )
        progress = FitProgress(progress.seed, (*progress.finished, run))
        if path is not None:
            save_checkpoint(path, settings, progress)
        return progress

    def _keep(self, runs: tuple[TruncatedEM, ...]) -> None:
        """Set the attributes from the best run."""
        # stable, so that the earlier of equal runs comes first
        self.restarts_ = sorted(runs, key=lambda run: -run.final_free_energy)
        best = self.restarts_[0]
        self.parameters_ = best.parameters
        self.dictionary_ = best.parameters.dictionary
        self.noise_scale_ = best.parameters.noise_scale[()]
        self.free_energy_trace_ = best.free_energy
        self.n_iter_ = best.n_iter
        self._n_features_out = self.n_causes
        self._set_prior(best.parameters)
        if not best.converged:
            warnings.warn(
                f"the free energy had not settled after n_iter={best.n_iter} iterations, to a relative change of "
                f"tol={self.tol:g}",
                ConvergenceWarning,
                stacklevel=3,
            )
        if best.dead.size:
            warnings.warn(
                f"{best.dead.size} of {self.n_causes} causes are never active at the end, the first {best.dead[0]}: "
                "take fewer causes, or more restarts",
                RuntimeWarning,
                stacklevel=3,
            )

    def transform(self, X: Num[Any, "n D"]) -> Float[np.ndarray, "n H"]:
        """Posterior means of the effective states, shape (n, H)."""
        return self.posterior(X).mean

    def inverse_transform(self, codes: Num[Any, "n H"]) -> Float[np.ndarray, "n D"]:
        """Mean of the data given effective states.

        Args:
            codes: effective states, finite, shape (n, H), such as `transform` returns.

        Raises:
            ValueError: `codes` has another shape or values that are not finite.
        """
        check_is_fitted(self)
        codes = check_array(codes, dtype=self.dictionary_.dtype, input_name="codes")
        if codes.shape[1] != self.n_causes:
            raise ValueError(f"codes must have {self.n_causes} columns, one a cause, got {codes.shape[1]}")
        with jax.enable_x64(codes.dtype == np.float64):
            return np.array(self.model_.reconstruct(self.parameters_, codes))

    def posterior(self, X: Num[Any, "n D"], top_k: int = 1, *, adaptive: bool | None = None) -> TruncatedPosterior:
        """Posteriors of rows over their kept states.

        Args:
            X: data, finite, shape (n, D).
            top_k: how many of the most probable states to return, at least 1.
            adaptive: whether gamma and H' grow for rows that need it; None is what the estimator was made with.

        Returns:
            States (n, k, H) with probabilities (n, k), marginals p(s_h != 0) and means (n, H), log evidence (n,).
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.dtype(self.dtype), reset=False)
        self._check_data(checked)
        return row_posteriors(
            self.model_,
            self.parameters_,
            checked,
            top_k,
            adaptive=self.adaptive if adaptive is None else adaptive,
            max_states=self.max_states,
            chunk_size=self.chunk_size,
        )

    def free_energy(self, X: Num[Any, "n D"]) -> Float[np.ndarray, " n"]:
        """Free energy of each row, in nats, shape (n,): a lower bound of its log density."""
        return self.posterior(X).log_evidence

    def score(self, X: Num[Any, "n D"], y: Any = None) -> float:
        """Mean free energy of the rows, in nats; larger is better."""
        return float(np.mean(self.free_energy(X)))

    def sample(
        self, n_samples: int = 1, random_state: Any = None
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n H"]]:
        """Draw data from the fitted model.

        Args:
            n_samples: how many, at least 1.
            random_state: seed; None is the estimator's.

        Returns:
            The data, shape (n, D), and their effective states, shape (n, H).
        """
        check_is_fitted(self)
        require_count("n_samples", n_samples, 1)
        seed = check_random_state(self.random_state if random_state is None else random_state).randint(2**31 - 1)
        with jax.enable_x64(self.dictionary_.dtype == np.float64):
            drawn = self.model_.sample(self.parameters_, jax.random.key(seed), n_samples)
            return np.array(drawn[0]), np.array(drawn[1])

    def _checked_settings(self) -> tuple[TruncatedModel, Annealing]:
        """The model and the schedule, or a refusal that names the parameter."""
        for name in ("n_causes", "n_iter", "n_restarts", "max_states"):
            require_count(name, getattr(self, name), 1)
        for name in ("n_candidates", "gamma", "chunk_size"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 1)
        if self.dtype not in ("float64", "float32"):
            raise ValueError(f"dtype must be 'float64' or 'float32', got {self.dtype!r}")
        temperature = self._default_temperature if self.temperature is None else self.temperature
        noise = self._default_parameter_noise if self.parameter_noise is None else self.parameter_noise
        for name, value, least in (
            ("temperature", temperature, 1),
            ("parameter_noise", noise, 0),
            ("tol", self.tol, 0),
        ):
            if not isinstance(value, int | float) or not least <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least {least}, got {value!r}")
        n_candidates, gamma = self._default_truncation
        n_candidates = min(n_candidates, self.n_causes) if self.n_candidates is None else self.n_candidates
        gamma = min(gamma, n_candidates) if self.gamma is None else self.gamma
        model = self._build_model(n_candidates, gamma)
        require_state_count(self.n_causes, n_candidates, gamma, model.n_values, self.max_states)
        ramp = CUT_RAMP if (self._default_cut if self.cut is None else self.cut) else None
        return model, Annealing(float(temperature), self.n_iter, cut_ramp=ramp, parameter_noise=float(noise))

    def _fingerprint(
        self, model: TruncatedModel, schedule: Annealing, rows: ChunkedRows, Y: Float[np.ndarray, "n D"]
    ) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "estimator": type(self).__name__,
            "model": repr(model),
            "schedule": repr(schedule),
            "n_restarts": self.n_restarts,
            "tol": self.tol,
            "dtype": self.dtype,
            "chunk_size": self.chunk_size,
            "n_rows": rows.n_rows,
            "data": data_digest(Y),
        }

    @staticmethod
    def _draw_seed(random_state: Any) -> int:
        """A seed that all processes share."""
        seed = check_random_state(random_state).randint(2**31 - 1)
        if jax.process_count() > 1:
            from jax.experimental.multihost_utils import broadcast_one_to_all

            seed = broadcast_one_to_all(np.array(seed, np.int32))
        return int(seed)
