"""Hierarchical Bayesian few-shot learning: a normal-inverse-Wishart belief about the weights of all tasks."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree
from scipy.special import digamma, gammaln
from scipy.stats import gamma

from uqsparse.kernels.arguments import require_count
from uqsparse.models.few_shot_learner import FewShotLearner, gaussian_mixture
from uqsparse.models.few_shot_likelihoods import (
    Categorical,
    Gaussian,
    Likelihood,
    LikelihoodName,
    Targets,
    make_likelihood,
    mean_field_probabilities,
)
from uqsparse.models.niw_local_steps import (
    LowRankPosterior,
    Posterior,
    gauss_newton_posterior,
    langevin_posterior,
    low_rank_posterior,
)
from uqsparse.models.normal_inverse_wishart import NormalInverseWishart, excess_divergence

Local = Literal["head", "ggn", "sgld"]
Prior = Literal["mean", "mode", "student"]
Objective = Literal["evidence", "support", "prediction"]
# Tasks that the belief counts for where their number is not given: it then hardly differs from a normal prior.
_MANY_TASKS = 1000
# Values of the scale by which a Student prior is mixed from normal ones.
_N_SCALES = 32
# At the start. A diagonal posterior has more noise for the same spread of outputs than one of low rank.
_PRECISIONS = {"head": 1.0, "ggn": 300.0, "sgld": 10_000.0}
# Draws of the weights of a network, where training is by its predictions.
_N_DRAWS = 5


class LocalPosterior(NamedTuple):
    """What is known of the weights of one task: a mixture of normal distributions, of one unless the prior is Student.

    Args:
        parts: `LowRankPosterior` or `DiagonalPosterior` whose arrays have a leading axis of K parts; for the heads of a
            regression one of the dy outputs stands before it.
        log_weights: logarithms of the parts' probabilities, shape (K,); (dy, K) for the heads of a regression.
    """

    parts: Posterior
    log_weights: Float[Array, "*outputs K"]

    @property
    def mean(self) -> Float[Array, "*outputs d"]:
        """Posterior mean of the weights."""
        return self._average(self._of_parts(lambda part: part.mean))

    @property
    def variance(self) -> Float[Array, "*outputs d"]:
        """Posterior variance of each weight."""
        means, variances = (self._of_parts(f) for f in (lambda part: part.mean, lambda part: part.variance))
        return self._average(variances + means**2) - self._average(means) ** 2

    def _of_parts(self, function: Callable[[Any], Array]) -> Float[Array, "*outputs K d"]:
        for _ in range(self.log_weights.ndim):
            function = jax.vmap(function)
        return function(self.parts)

    def _average(self, values: Float[Array, "*outputs K d"]) -> Float[Array, "*outputs d"]:
        return jnp.einsum("...k,...kd->...d", jnp.exp(self.log_weights), values)


class NIWMeta(FewShotLearner):
    """Learn from a stream of small tasks how network weights vary between tasks, and a new task by Bayes' rule.

    Tasks have weights of their own, `theta ~ Normal(mu, Sigma)`, and the belief about mu and Sigma is normal inverse
    Wishart with a diagonal scale V. Each task's posterior is a closed form in the belief, so that training
    differentiates neither through steps on the task nor keeps anything of it. For many tasks the objective depends on
    m0 and `P = n0 / V`, and on n0 by a constant alone: n0 is set, not learned.

    What varies between tasks is up to `local`:

    - "head": a linear map on the features that the network computes. With normal noise everything is exact; with
      classes, whose weights share one prior, it is Laplace's approximation, and training by predictions learns how
      far to trust its variances, which are too large where few points part the classes without error.
    - "ggn": all weights, with the low-rank curvature of Gauss and Newton.
    - "sgld": all weights, with a diagonal curvature from the spread of a few noisy steps. Cheapest, and roughest.

    Args:
        network: features for "head"; the architecture for the others, whose weights are in `prior_mean`.
        prior_mean: m0: (dy, F) for the heads of a regression, (F,) for those of classes, else (d,).
        log_precision: of P, the same shape, or one number for all.
        log_spread: of the factor by which the posterior variance of logits counts in class probabilities.

    Source: Kim & Hospedales (2023), A hierarchical Bayesian model for deep few-shot meta learning; the exact head with
    normal noise as in Harrison, Sharma & Pavone (2018), Meta-learning priors for efficient online Bayesian regression.

    >>> model = NIWMeta(eqx.nn.MLP(1, 8, 8, 1, key=jax.random.key(0)), local="head")
    >>> local = model.adapt(jnp.ones((5, 1)), jnp.ones((5, 1)))
    >>> model.predict(local, jnp.zeros((3, 1)), jax.random.key(1)).mean.shape
    (3, 1)
    """

    network: PyTree
    prior_mean: Float[Array, "*outputs d"]
    log_precision: Float[Array, "*outputs d"] | Float[Array, ""]
    log_spread: Float[Array, ""]
    likelihood: Likelihood
    local: Local = eqx.field(static=True)
    prior: Prior = eqx.field(static=True)
    objective: Objective = eqx.field(static=True)
    n0: float = eqx.field(static=True)
    mean_strength: float = eqx.field(static=True)
    n_tasks: int | None = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)
    inner_steps: int = eqx.field(static=True)
    inner_rate: float = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    largest_precision: float = eqx.field(static=True)
    unravel: Any = eqx.field(static=True)

    def __init__(
        self,
        network: PyTree,
        likelihood: LikelihoodName = "gaussian",
        *,
        local: Local = "head",
        n_way: int | None = None,
        x_size: int | None = None,
        y_size: int = 1,
        n0: float | None = None,
        n_tasks: int | None = None,
        prior: Prior = "mean",
        objective: Objective | None = None,
        precision: float | None = None,
        share_precision: bool | None = None,
        noise: float = 1.0,
        learn_noise: bool = True,
        use_bias: bool = True,
        inner_steps: int = 3,
        inner_rate: float = 0.005,
        temperature: float = 1e-6,
        largest_precision: float = 1e5,
    ):
        """Make a learner.

        Args:
            network: any Equinox module of one input (dx,). With "head" it returns features, which are trained too;
                else outputs (dy,) or logits, and its weights are the first m0.
            likelihood: "gaussian" or "categorical".
            local: which weights differ between tasks, and how their posterior is found: "head", "ggn" or "sgld".
            n_way: classes of a task, for "categorical".
            x_size: entries of an input, for a "head" on a network that has no `in_size`.
            y_size: outputs of a regression, for "head".
            n0: degrees of freedom of the belief, larger than d - 1 for the d weights of a task (of one output, of one
                class, with "head"). `d + 2` and the number of tasks if not given.
            n_tasks: tasks there are, N: the objective then has the belief's own divergence over N, from
                `mu ~ Normal(0, Sigma)` and `Sigma ~ InverseWishart(I, d + 2)`. A stream without end if not given.
            prior: for new tasks, "mean": `Normal(m0, V / n0)`, as in training; "mode": `V / (n0 + d + 2)`, which
                switches learning off where d is much larger than n0; or "student", the belief's exact predictive, for
                few weights and not for "sgld".
            objective: what training makes small. "evidence": minus the bound on the log evidence of support and
                queries, whose local posterior is that of both; exact for the heads of a regression, and their
                default. "support": the same with the posterior of the support, as in use; the default of networks.
                "prediction": minus the log probability of the queries, as predicted from the support; the default of
                the heads of classes, whose Laplace approximation is too wide for a bound to be tight.
            precision: P at the start, the same for all weights, positive; if not given, 1 for "head", 300 for "ggn" and
                10,000 for "sgld". Too small a value swamps a network in noise.
            share_precision: whether it stays the same for all weights; if not given, for the heads of classes alone.
            noise: standard deviation of the targets' noise, at the start.
            learn_noise: whether training changes it.
            use_bias: whether a constant joins the features of "head".
            inner_steps: of "sgld" its steps, else linearisations, at least 1; one is exact for regression heads.
            inner_rate: rate of the steps of "sgld", on the mean loss of a point.
            temperature: of their noise, at least 0.
            largest_precision: cap of their curvature, positive.

        Raises:
            ValueError: an argument is out of range.
        """
        class_heads = (local, likelihood) == ("head", "categorical")
        if objective is None:
            objective = "prediction" if class_heads else "evidence" if local == "head" else "support"
        for name, value, names in (
            ("local", local, Local),
            ("prior", prior, Prior),
            ("objective", objective, Objective),
        ):
            if value not in get_args(names):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(names)))}, got {value!r}")
        if prior == "student" and local == "sgld":
            raise ValueError("prior='student' is for local='head' and 'ggn', got local='sgld'")
        require_count("inner_steps", inner_steps, 1)
        require_count("y_size", y_size, 1)
        if n_tasks is not None:
            require_count("n_tasks", n_tasks, 1)
        precision = _PRECISIONS[local] if precision is None else precision
        for name, value in (
            ("precision", precision),
            ("inner_rate", inner_rate),
            ("largest_precision", largest_precision),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        self.likelihood = make_likelihood(likelihood, n_way, noise, learn_noise)
        if local == "head":
            size = _feature_size(network, x_size) + use_bias
            self.network, self.unravel = network, None
            self.prior_mean = jnp.zeros((y_size, size) if n_way is None else (size,))
        else:
            weights, architecture = eqx.partition(network, eqx.is_inexact_array)
            self.prior_mean, self.unravel = ravel_pytree(weights)
            self.network = architecture
        d = self.prior_mean.shape[-1]
        if d == 0:
            raise ValueError("network must have weights, or features, got none")
        shared = class_heads if share_precision is None else share_precision
        self.log_precision = jnp.full(() if shared else self.prior_mean.shape, math.log(precision))
        self.log_spread = jnp.zeros(())
        self.n0 = float(d + 2 + (_MANY_TASKS if n_tasks is None else n_tasks) if n0 is None else n0)
        if not d - 1 < self.n0 < math.inf:
            raise ValueError(f"n0 must be larger than d - 1 = {d - 1}, got {n0!r}")
        self.mean_strength = math.inf if n_tasks is None else 1.0 + n_tasks
        self.local, self.prior, self.objective, self.n_tasks = local, prior, objective, n_tasks
        self.use_bias, self.inner_steps = use_bias, inner_steps
        self.inner_rate, self.temperature = float(inner_rate), float(temperature)
        self.largest_precision = float(largest_precision)

    @property
    def precision(self) -> Float[Array, "*outputs d"]:
        """P, the inverse of the prior variances `V / n0` of a task's weights."""
        return jnp.broadcast_to(jnp.exp(self.log_precision), self.prior_mean.shape)

    @property
    def belief(self) -> NormalInverseWishart:
        """What is believed of mean and covariance of a task's weights, as a distribution; V is a full matrix there."""
        scale = (self.n0 / self.precision)[..., None] * jnp.eye(self.prior_mean.shape[-1])
        return NormalInverseWishart(self.prior_mean, self.mean_strength, scale, self.n0)

    # Training

    def episode_loss(self, support_x, support_y, query_x, query_y, key) -> Float[Array, ""]:
        """Minus the bound on the log evidence of one task, or the log loss of its queries, in nats."""
        key_learn, key_draw = jax.random.split(key)
        if self.objective == "prediction":
            found = self.predictive(self.learn(support_x, support_y, key_learn), query_x, key_draw, _N_DRAWS)
            if isinstance(self.likelihood, Categorical):
                return self.likelihood.nll(jnp.log(found), query_y).sum() + self._belief_price()
            return self._belief_price() - found.log_prob(query_y).sum()
        x, y = jnp.concatenate([support_x, query_x]), jnp.concatenate([support_y, query_y])
        seen = (x, y) if self.objective == "evidence" else (support_x, support_y)
        if self.local == "head" and isinstance(self.likelihood, Gaussian):
            missed, divergence = self._exact_terms(self.likelihood, *seen, x, y)
        else:
            posterior = self._posterior(*seen, key_learn, self._prior_mean_vector(), self._precision_vector())
            missed = self.likelihood.nll(self._outputs(posterior.sample(key_draw), x), y).sum()
            divergence = posterior.divergence()
        return missed + divergence + self._constants()

    def _exact_terms(self, likelihood: Gaussian, seen_x, seen_y, x, y):
        """Expected loss and divergence of the heads of a regression."""
        features, seen = self._features(x), self._features(seen_x)
        noise = likelihood.noise

        def one(mean, precision, targets):
            posterior = low_rank_posterior(mean, precision, seen / noise, (targets - seen @ mean) / noise)
            return features @ posterior.mean, posterior.variance_of(features), posterior.divergence()

        means, variances, divergences = jax.vmap(one, out_axes=(1, 1, 0))(self.prior_mean, self.precision, seen_y.T)
        return likelihood.expected_nll(means, variances, y).sum(), divergences.sum()

    def _constants(self) -> Float[Array, ""]:
        """Terms that no task changes: the price of an uncertain belief, and its own divergence over N."""
        d = self.prior_mean.shape[-1]
        vectors = self._n_copies() * (self.prior_mean.size // d)
        return vectors * excess_divergence(d, self.n0, self.mean_strength) + self._belief_price()

    def _belief_price(self) -> Float[Array, ""]:
        return jnp.zeros(()) if self.n_tasks is None else self._belief_divergence() / self.n_tasks

    def _belief_divergence(self) -> Float[Array, ""]:
        """KL from `mu ~ Normal(0, Sigma)`, `Sigma ~ InverseWishart(I, d + 2)`, summed over outputs."""
        d, n, strength = self.prior_mean.shape[-1], self.n0, self.mean_strength
        halves = np.arange(d) / 2
        log_gammas = (gammaln((d + 2) / 2 - halves) - gammaln(n / 2 - halves)).sum()
        psi = digamma(n / 2 - halves).sum()
        fixed = (d * (1 / strength - 1 + math.log(strength)) - n * d + (n - d - 2) * psi) / 2 + log_gammas
        logs = (math.log(n) - jnp.log(self.precision)).sum(-1)
        each = ((self.precision * (self.prior_mean**2 + 1)).sum(-1) + (d + 2) * logs) / 2 + fixed
        return each.sum()

    # A task

    def learn(self, support_x: Float[Array, "S dx"], support_y: Targets, key: Key[Array, ""]) -> LocalPosterior:
        """The local posterior."""
        d = self.prior_mean.shape[-1]
        scales, log_weights = jnp.ones(1), jnp.zeros(1)
        if self.prior == "mode":
            scales = jnp.array([(self.n0 + d + 2) / self.n0])
        elif self.prior == "student":
            freedom = self.n0 - d + 1
            # A Student prior mixes normal ones; their scales are the middles of intervals of equal probability.
            levels = (np.arange(_N_SCALES) + 0.5) / _N_SCALES
            mixed = gamma.ppf(levels, freedom / 2) * 2 / self.n0 / (1 + 1 / self.mean_strength)
            scales, log_weights = jnp.asarray(mixed), jnp.zeros(_N_SCALES)

        if self.local == "head" and isinstance(self.likelihood, Gaussian):
            features, noise = self._features(support_x), self.likelihood.noise

            def head(mean, precision, targets):
                def part(scale):
                    residuals = (targets - features @ mean) / noise
                    posterior = low_rank_posterior(mean, scale * precision, features / noise, residuals)
                    missed = ((targets - features @ posterior.mean) ** 2).sum() / (2 * noise**2)
                    return posterior, posterior.log_evidence(missed)

                parts, evidence = jax.vmap(part)(scales)
                return LocalPosterior(parts, jax.nn.log_softmax(log_weights + evidence))

            return jax.vmap(head)(self.prior_mean, self.precision, support_y.T)

        def part(scale):
            mean, precision = self._prior_mean_vector(), scale * self._precision_vector()
            posterior = self._posterior(support_x, support_y, key, mean, precision)
            if not isinstance(posterior, LowRankPosterior):
                return posterior, jnp.zeros(())
            missed = self.likelihood.nll(self._outputs(posterior.mean, support_x), support_y).sum()
            return posterior, posterior.log_evidence(missed)

        parts, evidence = jax.vmap(part)(scales)
        return LocalPosterior(parts, jax.nn.log_softmax(log_weights + evidence))

    def predictive(self, local: LocalPosterior, x: Float[Array, "M dx"], key: Key[Array, ""], n_samples: int) -> Any:
        """A mixture over draws of the weights (one component where it is exact), or class probabilities."""
        if isinstance(self.likelihood, Categorical):
            return self._class_probabilities(local, x)
        n_parts = local.log_weights.shape[-1]
        if self.local == "head":
            features = self._features(x)

            def head(local, key):
                parts = local.parts
                if n_parts > 1:
                    chosen = jax.random.categorical(key, local.log_weights, shape=(n_samples,))
                    parts = jax.tree.map(lambda leaf: leaf[chosen], parts)
                return jax.vmap(lambda part: (features @ part.mean, part.variance_of(features)))(parts)

            keys = jax.random.split(key, len(self.prior_mean))
            means, variances = jax.vmap(head, out_axes=2)(local, keys)
            return gaussian_mixture(means, variances, self.likelihood)
        key_part, key_draw = jax.random.split(key)
        chosen = jax.random.categorical(key_part, local.log_weights, shape=(n_samples,))

        def draw(which, key):
            return self._outputs(jax.tree.map(lambda leaf: leaf[which], local.parts).sample(key), x)

        means = jax.lax.map(lambda pair: draw(*pair), (chosen, jax.random.split(key_draw, n_samples)))
        return gaussian_mixture(means, 0.0, self.likelihood)

    def _class_probabilities(self, local: LocalPosterior, x: Float[Array, "M dx"]) -> Float[Array, "M C"]:
        """Mean-field probabilities of the outputs made linear at the mean, averaged over the parts.

        Softmax of drawn logits would be under-confident: far from the data the draws leave what a softmax is linear in.
        Logits are taken around their mean, since no data say anything of a shift of all, nor does it change a class.
        """
        seen = self._seen(x)

        def centred(theta, seen):
            logits = self._output(theta, seen)
            return logits - logits.mean()

        def part(posterior):
            logits = jax.vmap(centred, (None, 0))(posterior.mean, seen)
            jacobian = jax.vmap(jax.jacrev(centred), (None, 0))(posterior.mean, seen)
            variances = posterior.variance_of(jacobian.reshape(logits.size, -1)).reshape(logits.shape)
            return mean_field_probabilities(logits, jnp.exp(self.log_spread) * variances)

        return jnp.einsum("k,kmc->mc", jnp.exp(local.log_weights), jax.vmap(part)(local.parts))

    def _posterior(self, x, y, key, prior_mean, precision) -> Posterior:
        given = self._output, self.likelihood, self._seen(x), y, prior_mean, precision, self.inner_steps
        if self.local != "sgld":
            return gauss_newton_posterior(*given)
        return langevin_posterior(
            key,
            *given,
            rate=self.inner_rate,
            temperature=self.temperature,
            largest_precision=self.largest_precision,
        )

    def _seen(self, x: Float[Array, "n dx"]) -> Float[Array, "n dx"]:
        """What `_output` takes: features of the inputs with "head", else the inputs."""
        return self._features(x) if self.local == "head" else x

    def _output(self, theta: Float[Array, " d"], seen: Float[Array, " dx"]) -> Float[Array, " c"]:
        """Output on one input, given a task's weights as one vector."""
        if self.local == "head":
            return theta.reshape(-1, len(seen)) @ seen
        return eqx.combine(self.unravel(theta), self.network)(seen)

    def _outputs(self, theta: Float[Array, " d"], x: Float[Array, "n dx"]) -> Float[Array, "n c"]:
        return jax.vmap(self._output, (None, 0))(theta, self._seen(x))

    def _features(self, x: Float[Array, "n dx"]) -> Float[Array, "n F"]:
        features = jax.vmap(self.network)(x)
        if not self.use_bias:
            return features
        return jnp.concatenate([features, jnp.ones((len(x), 1), features.dtype)], axis=1)

    def _n_copies(self) -> int:
        """Classes share one prior of their weights."""
        return self.likelihood.n_way if self.local == "head" and isinstance(self.likelihood, Categorical) else 1

    def _prior_mean_vector(self) -> Float[Array, " d"]:
        # A mean that all classes share shifts all their logits and changes nothing: its slope would be rounding.
        alike = self._n_copies() > 1
        return jnp.tile(jax.lax.stop_gradient(self.prior_mean) if alike else self.prior_mean, self._n_copies())

    def _precision_vector(self) -> Float[Array, " d"]:
        return jnp.tile(self.precision, self._n_copies())


def _feature_size(network: PyTree, x_size: int | None) -> int:
    """How many features a network returns."""
    found = getattr(network, "in_size", None) if x_size is None else x_size
    if isinstance(found, bool) or not isinstance(found, int | np.integer) or found < 1:
        raise ValueError(f"x_size must say how many entries an input has, since the network does not; got {x_size!r}")
    shape = eqx.filter_eval_shape(network, jax.ShapeDtypeStruct((int(found),), float)).shape
    if len(shape) != 1:
        raise ValueError(f"network must return a vector of features, got shape {shape}")
    return shape[0]
