"""Few-shot learners to compare with: MAML, Reptile, prototypes, and fine-tuning of one network for all tasks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num, PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.models.few_shot_learner import FewShotLearner, gaussian_mixture
from uqsparse.models.few_shot_likelihoods import Categorical, Likelihood, LikelihoodName, make_likelihood


class _GradientLearner(FewShotLearner):
    """Learns a task by gradient steps on its support set, from a start that training finds."""

    network: PyTree
    likelihood: Likelihood
    inner_steps: int = eqx.field(static=True)
    inner_rate: float = eqx.field(static=True)

    def __init__(
        self,
        network: PyTree,
        likelihood: LikelihoodName = "gaussian",
        *,
        n_way: int | None = None,
        inner_steps: int = 5,
        inner_rate: float = 0.005,
        noise: float = 1.0,
        learn_noise: bool = True,
    ):
        require_count("inner_steps", inner_steps, 1)
        if not 0 < inner_rate < float("inf"):
            raise ValueError(f"inner_rate must be a positive number, got {inner_rate!r}")
        self.network = network
        self.likelihood = make_likelihood(likelihood, n_way, noise, learn_noise)
        self.inner_steps, self.inner_rate = inner_steps, float(inner_rate)

    def adapted(self, network: PyTree, x: Float[Array, "S dx"], y: Num[Array, "S ..."], first_order: bool) -> PyTree:
        """The network after the gradient steps; with `first_order` their dependence on the start is dropped."""
        start, static = eqx.partition(network, eqx.is_inexact_array)

        def step(parameters, _):
            def inner(p):
                return self.likelihood.inner_loss(jax.vmap(eqx.combine(p, static))(x), y)

            slope = jax.grad(inner)(parameters)
            if first_order:
                slope = jax.lax.stop_gradient(slope)
            return jax.tree.map(lambda p, g: p - self.inner_rate * g, parameters, slope), None

        parameters, _ = jax.lax.scan(step, start, length=self.inner_steps)
        return eqx.combine(parameters, static)

    def learn(self, support_x: Float[Array, "S dx"], support_y: Num[Array, "S ..."], key: Key[Array, ""]) -> Any:
        """The adapted weights."""
        return eqx.filter(self.adapted(self.network, support_x, support_y, True), eqx.is_inexact_array)

    def predictive(self, local: Any, x: Float[Array, "M dx"], key: Key[Array, ""], n_samples: int) -> Any:
        """One normal distribution, or class probabilities."""
        static = eqx.filter(self.network, eqx.is_inexact_array, inverse=True)
        outputs = jax.vmap(eqx.combine(local, static))(x)
        if isinstance(self.likelihood, Categorical):
            return jax.nn.softmax(outputs)
        return gaussian_mixture(outputs[None], 0.0, self.likelihood)


class MAML(_GradientLearner):
    """Model-agnostic meta-learning: a start from which few gradient steps on a task lower the loss of its queries.

    The gradient goes through the inner steps, whose memory grows with their number; with `first_order` (FOMAML) the
    steps count as constant shifts. Uncertainty is that of the noise alone, one width for all predictions.

    Source: Finn, Abbeel & Levine (2017), Model-agnostic meta-learning for fast adaptation of deep networks, ICML,
    algorithm 2 and section 5.2.

    >>> model = MAML(eqx.nn.MLP(1, 1, 8, 1, key=jax.random.key(0)), inner_steps=2)
    >>> local = model.adapt(jnp.ones((5, 1)), jnp.ones((5, 1)))
    >>> model.predict(local, jnp.zeros((3, 1)), jax.random.key(1)).mean.shape
    (3, 1)
    """

    first_order: bool = eqx.field(static=True)

    def __init__(
        self,
        network: PyTree,
        likelihood: LikelihoodName = "gaussian",
        *,
        first_order: bool = False,
        n_way: int | None = None,
        inner_steps: int = 5,
        inner_rate: float = 0.005,
        noise: float = 1.0,
        learn_noise: bool = True,
    ):
        """Make a learner.

        Args:
            network: any Equinox module from one input (dx,) to outputs (dy,), or to the logits of classes.
            likelihood: "gaussian" or "categorical".
            first_order: whether the gradient leaves out the derivatives of the inner steps.
            n_way: classes of a task, for "categorical".
            inner_steps: gradient steps on the support set of a task, at least 1.
            inner_rate: their rate, positive. The loss of a step is the mean squared error or log loss of the support.
            noise: standard deviation of the targets' noise, at the start.
            learn_noise: whether training changes it.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__(
            network,
            likelihood,
            n_way=n_way,
            inner_steps=inner_steps,
            inner_rate=inner_rate,
            noise=noise,
            learn_noise=learn_noise,
        )
        self.first_order = first_order

    def episode_loss(self, support_x, support_y, query_x, query_y, key) -> Float[Array, ""]:
        """Loss of the queries after the steps on the support."""
        network = self.adapted(self.network, support_x, support_y, self.first_order)
        return self.likelihood.nll(jax.vmap(network)(query_x), query_y).sum()


class Reptile(_GradientLearner):
    """Reptile: move the start towards where gradient steps on a task lead.

    In training the steps are on support and queries together, in adaptation on the support. The slope of the loss in
    the start is the start less the point after the steps; with normal noise the width is that of what is then missed.

    Source: Nichol, Achiam & Schulman (2018), On first-order meta-learning algorithms, algorithm 1.
    """

    def __init__(self, network: PyTree, likelihood: LikelihoodName = "gaussian", **settings: Any):
        """Make a learner; the arguments are those of `MAML` without `first_order`."""
        super().__init__(network, likelihood, **settings)

    def episode_loss(self, support_x, support_y, query_x, query_y, key) -> Float[Array, ""]:
        """Half the squared distance to the point after the steps, whose slope is Reptile's, and the loss there."""
        x, y = jnp.concatenate([support_x, query_x]), jnp.concatenate([support_y, query_y])
        start, static = eqx.partition(self.network, eqx.is_inexact_array)
        fixed = eqx.combine(jax.lax.stop_gradient(start), static)
        ends = jax.lax.stop_gradient(eqx.filter(self.adapted(fixed, x, y, True), eqx.is_inexact_array))
        reached = eqx.combine(ends, static)
        squares = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), start, ends)
        return sum(jax.tree.leaves(squares)) / 2 + self.likelihood.nll(jax.vmap(reached)(query_x), query_y).sum()


class FineTune(_GradientLearner):
    """One network trained on the points of all tasks alike, and tuned to a task by gradient steps on its support."""

    def __init__(self, network: PyTree, likelihood: LikelihoodName = "gaussian", **settings: Any):
        """Make a learner; the arguments are those of `MAML` without `first_order`."""
        super().__init__(network, likelihood, **settings)

    def episode_loss(self, support_x, support_y, query_x, query_y, key) -> Float[Array, ""]:
        """Loss of all points of the task, without any step."""
        x, y = jnp.concatenate([support_x, query_x]), jnp.concatenate([support_y, query_y])
        return self.likelihood.nll(jax.vmap(self.network)(x), y).sum()


class ProtoNet(FewShotLearner):
    """Prototypical networks: a class is the mean of its embedded support, and near ones are probable.

    Logits are minus the squared distance over a temperature that is learned.

    Source: Snell, Swersky & Zemel (2017), Prototypical networks for few-shot learning, NIPS, algorithm 1.

    >>> model = ProtoNet(eqx.nn.Identity(), n_way=2)
    >>> local = model.adapt(jnp.array([[0.0], [4.0]]), jnp.array([0, 1]))
    >>> model.predict(local, jnp.array([[1.0]]), jax.random.key(0)).argmax(-1).tolist()
    [0]
    """

    network: PyTree
    log_temperature: Float[Array, ""]
    likelihood: Categorical

    def __init__(self, network: PyTree, n_way: int, *, temperature: float = 1.0):
        """Make a learner.

        Args:
            network: any Equinox module from one input (dx,) to an embedding.
            n_way: classes of a task, at least 2.
            temperature: at the start, positive.

        Raises:
            ValueError: an argument is out of range.
        """
        require_count("n_way", n_way, 2)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {temperature!r}")
        self.network = network
        self.log_temperature = jnp.log(jnp.asarray(temperature, float))
        self.likelihood = Categorical(n_way)

    def episode_loss(self, support_x, support_y, query_x, query_y, key) -> Float[Array, ""]:
        """Loss of the queries."""
        prototypes = self.learn(support_x, support_y, key)
        return self.likelihood.nll(self._logits(prototypes, query_x), query_y).sum()

    def learn(self, support_x, support_y, key) -> Float[Array, "C e"]:
        """The prototypes."""
        members = jax.nn.one_hot(support_y, self.likelihood.n_way, axis=0)
        return members @ jax.vmap(self.network)(support_x) / members.sum(1, keepdims=True)

    def predictive(self, local: Any, x: Float[Array, "M dx"], key: Key[Array, ""], n_samples: int) -> Any:
        """Class probabilities."""
        return jax.nn.softmax(self._logits(local, x))

    def _logits(self, prototypes: Float[Array, "C e"], x: Float[Array, "M dx"]) -> Float[Array, "M C"]:
        away = jax.vmap(self.network)(x)[:, None] - prototypes
        return -(away**2).sum(-1) / jnp.exp(self.log_temperature)
