# ruff: noqa: E501 - a fault a line reads best
"""One-line faults of this library's own inference code, each with the checks that it has to get past.

Faults that are known from other packages say so. What only costs efficiency, and keeps the measure, is no fault for
the exact checks; the effective sample sizes have checks of their own. So two changes that suggest themselves are not
here: stratified resampling with one number for all strata is systematic resampling, and a waste-free sweep that drops
the first states of its chains still consists of states under the right density.
"""

from collections.abc import Sequence
from typing import NamedTuple

from uqsparse.bench.mutants import Mutant


class Fault(NamedTuple):
    """A mutant with the names of the checks that it has to get past."""

    mutant: Mutant
    checks: tuple[str, ...]


def _faults(module: str, *rows: Sequence[str]) -> list[Fault]:
    """Rows of (checks, separated by commas; function; what is wrong; line; replacement; note)."""
    return [
        Fault(Mutant(name, f"uqsparse.{module}:{function}", line, new, *note), tuple(used.split(", ")))
        for used, function, name, line, new, *note in rows
    ]


FAULTS: list[Fault] = [
    *_faults(
        "kernels.resampling",
        ("systematic", "systematic", "offset always one half", "- uniforms)", "- 0.5)"),
        ("systematic", "systematic", "offset in half of its range", "- uniforms)", "- 0.5 * uniforms)"),
        ("systematic", "systematic", "one position too few", "jnp.ceil(n * c", "jnp.ceil((n - 1) * c"),
        ("multinomial", "multinomial", "uniforms squared", "weights, uniforms)", "weights, uniforms**2)"),
        ("multinomial", "_invert_cdf", "weights not normalised", "cumulative / cumulative[-1], p", "cumulative, p"),
        ("stratified", "stratified", "remainder compared the wrong way", "] < place", "] > place"),
        ("residual", "residual", "rest drawn by all of the weights", "expected - copies, 0)", "expected, 0)"),
        ("residual", "residual", "copies rounded up", "jnp.floor(expected + slack)", "jnp.round(expected)"),
        ("many weights", "_block_cumsum", "blocks counted twice", "(jnp.cumsum(totals) - totals)", "jnp.cumsum(totals)"),
        ("trigger", "effective_sample_size", "weights not squared", "squares = jnp.sum(scaled**2)", "squares = jnp.sum(scaled)"),
        ("temperature ladder", "conditional_effective_sample_size", "second moment of the weights",
         "jnp.sum(weights * increments**2)", "jnp.sum((weights * increments) ** 2)"),
    ),
    *_faults(
        "inference.populations",
        ("bootstrap filter", "_transform", "categories by squared uniforms", "<= source[..., None]", "<= source[..., None] ** 2"),
    ),
    *_faults(
        "inference.filter_steps",
        ("bootstrap filter", "filter_step", "old weights kept after resampling",
         "log_weights = jnp.full(n, -jnp.log(float(n)))", "log_weights = population.log_weights",
         "evidence with non-uniform weights, MacroEconometricModels.jl #131"),
        ("bootstrap filter", "filter_step", "ancestor's weight kept",
         "log_weights = jnp.full(n, -jnp.log(float(n)))",
         "log_weights = population.log_weights[settings.scheme.resample(first_stage, uniforms, n)]"),
        ("bootstrap filter", "filter_step", "states do not follow their ancestors", "lambda x: x[ancestors]", "lambda x: x"),
        ("bootstrap filter", "filter_step", "weights made equal without resampling",
         "return population.states, population.log_weights, jnp.arange(n, dtype=jnp.int32)",
         "return population.states, jnp.full(n, -jnp.log(float(n))), jnp.arange(n, dtype=jnp.int32)"),
        ("trigger", "filter_step", "effective sample size of the guess, not of the weights",
         "effective_sample_size(first_stage) < threshold", "effective_sample_size(jnp.ones(n)) < threshold",
         "of the increments alone: MacroEconometricModels.jl #133"),
        ("trigger", "filter_step", "resampling when the sample is good", "effective_sample_size(first_stage) < threshold",
         "effective_sample_size(first_stage) > threshold"),
        ("auxiliary filter", "filter_step", "the first stage is not taken off again", "- log_guess[ancestors]", ""),
        ("auxiliary filter", "filter_step", "the first stage is taken off unnormalised",
         "jax.nn.logsumexp(population.log_weights + log_guess)", "jnp.max(population.log_weights + log_guess)"),
        ("auxiliary filter at every step", "filter_step", "the first stage forgets the weights",
         "raised = population.log_weights + log_guess", "raised = log_guess"),
        ("guided filter", "start_population", "first proposal's density forgotten",
         "if settings.proposal is not None:", "if False:"),
        ("guided filter", "log_ratios", "proposal density forgotten", "if proposal is None:\n            return ratio",
         "if True:\n            return ratio"),
        ("guided filter", "log_ratios", "ratio of transition and proposal inverted",
         "ratio + (correction", "ratio - (correction"),
        ("guided filter", "log_ratios", "transition density backwards",
         "model.transition(parameters, parent, now.inputs), state)", "model.transition(parameters, state, now.inputs), parent)"),
        ("bootstrap filter", "reweigh", "evidence by the largest weight", "peak + jnp.log(total)", "peak"),
        ("bootstrap filter", "reweigh", "evidence without the weights carried", "raised - increment, -jnp.log",
         "raised - peak, -jnp.log"),
        ("bootstrap filter", "_log_likelihood", "likelihood squared", "return log_prob(", "return 2 * log_prob("),
    ),
    *_faults(
        "inference.particle_filter",
        ("bootstrap filter", "run_filter", "first increment of the evidence lost", "jnp.sum(increments)", "jnp.sum(increments[1:])"),
        ("bootstrap filter", "run_filter", "last increment of the evidence lost", "jnp.sum(increments)", "jnp.sum(increments[:-1])"),
    ),
    *_faults(
        "inference.conditional_smc",
        ("conditional SMC", "conditional_step", "reference not fixed", "pin(propose(model", "(lambda x, _: x)(propose(model"),
        ("conditional SMC", "conditional_step", "ancestor of the reference free",
         "parent = jnp.zeros(1, free.dtype)", "parent = multinomial(population.weights, uniforms[:1], 1)"),
        ("ancestor sampling", "conditional_step", "ancestors by the transition alone",
         "population.log_weights + jax.vmap(reach)", "jax.vmap(reach)"),
        ("ancestor sampling", "conditional_step", "ancestors by the weights alone",
         "raised = population.log_weights + jax.vmap(reach)(population.states)", "raised = population.log_weights"),
        ("conditional SMC", "conditional_step", "others resampled without weights",
         "multinomial(population.weights, uniforms[1:]", "multinomial(jnp.ones(n), uniforms[1:]"),
        ("conditional SMC", "run_conditional", "reference free at the first time", "sources, row(reference, 0))", "sources)"),
        ("conditional SMC", "choose_path", "final particle without weights", "multinomial(weights,", "multinomial(jnp.ones_like(weights),"),
        ("conditional SMC", "choose_path", "line of descent ignored", "return parents[index], index", "return index, index"),
    ),
    *_faults(
        "inference.moves",
        ("random walk", "_accept", "acceptance ratio squared", "log_uniform < log_ratio", "log_uniform < 2 * log_ratio"),
        ("random walk", "_accept", "always accept", "log_uniform < log_ratio", "log_uniform < jnp.inf"),
        ("random walk", "_accept", "accepted and rejected exchanged", "new.ndim - 1)), new, old)", "new.ndim - 1)), old, new)"),
        ("random walk", "_accept", "uniform without a logarithm", "jnp.log(jax.random.uniform(key, log_ratio.shape, log_ratio.dtype))",
         "jax.random.uniform(key, log_ratio.shape, log_ratio.dtype)"),
        ("random walk", "_accept", "one decision for the whole population", "accepted = log_uniform < log_ratio",
         "accepted = jnp.broadcast_to((log_uniform < log_ratio)[:1], log_ratio.shape)"),
        ("independent proposal", "IndependentProposal.step", "proposal density forgotten",
         "+ self._log_kernel(current) - self._log_kernel(noise)", ""),
        ("independent proposal", "IndependentProposal.step", "proposal ratio inverted",
         "+ self._log_kernel(current) - self._log_kernel(noise)", "- self._log_kernel(current) + self._log_kernel(noise)"),
        ("independent proposal", "IndependentProposal.step", "current state not centred",
         "state.position - params.mean", "state.position"),
        ("independent proposal", "IndependentProposal._log_kernel", "degrees of freedom without the dimension",
         "-0.5 * (nu + dim)", "-0.5 * nu"),
        ("HMC", "HMC.step", "kinetic energy forgotten", "log_ratio = values - state.log_density + kinetic",
         "log_ratio = values - state.log_density"),
        ("HMC", "HMC.step", "kinetic energy with the wrong sign", "- state.log_density + kinetic", "- state.log_density - kinetic"),
        ("HMC", "HMC.step", "full last half-step", "moved = kick(moved, gradient, 0.5)", "moved = kick(moved, gradient, 1.0)"),
        ("HMC", "HMC.step", "full first half-step", "state.gradient, 0.5)", "state.gradient, 1.0)"),
        ("HMC", "HMC.step", "momentum too large", "momentum = jax.random.normal(", "momentum = 1.3 * jax.random.normal("),
        ("HMC", "HMC.step", "always accept", "_accept(key_accept, state, proposed, log_ratio)",
         "_accept(key_accept, state, proposed, jnp.zeros_like(log_ratio))"),
    ),
    *_faults(
        "inference.smc_sweep",
        ("tempered SMC", "sweep", "prior dropped from the moves",
         "return temper(log_prior, log_likelihood, temperature), (log_prior, log_likelihood)",
         "return temperature * log_likelihood, (log_prior, log_likelihood)"),
        ("tempered SMC", "sweep", "densities of the particles not updated",
         "return Particles(state.position, *state.extras), sweep",
         "return Particles(state.position, chosen.log_prior, chosen.log_likelihood), sweep"),
    ),
    *_faults(
        "inference.tempered_smc",
        ("tempered SMC", "_run", "increments of the temperature not taken", "(temperature - state.temperature) * particles", "temperature * particles"),
        ("tempered SMC", "_run", "evidence without one over n", " - math.log(settings.n_particles)", ""),
        ("tempered SMC", "_run", "moves at the old temperature", "chosen, target, temperature,", "chosen, target, state.temperature,"),
        ("tempered SMC", "_run", "no resampling", "lambda x: x[ancestors], particles", "lambda x: x[: settings.n_chains], particles"),
        ("tempered SMC", "_run", "evidence of the last temperature alone", "state.log_evidence + log_increment", "log_increment"),
        ("temperature ladder", "_next_temperature", "solver walks the wrong way", "short = found <= wanted", "short = found >= wanted",
         "the sign in the solver, blackjax #914"),
        ("temperature ladder", "_next_temperature", "fraction of the particles squared", "jnp.sqrt(-jnp.log(schedule.ess_fraction))",
         "jnp.sqrt(-2 * jnp.log(schedule.ess_fraction))"),
    ),
    *_faults(
        "inference.targets",
        ("prior density", "temper", "likelihood not tempered", "0.0, temperature * log_likelihood)", "0.0, log_likelihood)"),
        ("prior density", "_Model.split", "Jacobian of the constraints lost",
         "for name in log_probs if name not in observed)", "for name in log_probs if name not in observed and name[0] != '_')"),
    ),
    *_faults(
        "inference.pmmh",
        ("PMMH", "PMMHProblem.combine", "prior dropped", "log_prior + found.log_evidence)", "found.log_evidence)"),
        ("PMMH", "PMMHProblem.combine", "likelihood dropped", "log_prior + found.log_evidence)", "log_prior)"),
        ("PMMH", "step", "estimate of the present state computed anew", "step(key_move, before,",
         "step(key_move, before._replace(log_density=problem.log_density(key_move, before.position)[0]),"),
    ),
    *_faults(
        "inference.parameter_prior",
        ("PMMH", "estimate", "path drawn without weights", "jnp.exp(result.log_weights)", "jnp.ones_like(result.log_weights)"),
    ),
    *_faults(
        "inference.state_space",
        ("sums over paths", "complete_log_density", "first state without its density", "return first + jnp.sum", "return jnp.sum"),
        ("sums over paths", "complete_log_density", "inner steps counted from both ends", "jnp.sum(moved)", "jnp.sum(moved[1:])"),
    ),
    *_faults(
        "inference.hidden_markov",
        ("sums over paths", "_forward_backward", "transition matrix transposed",
         "return weigh(_logsumexp(log_filtered[:, None] + log_move), seen)",
         "return weigh(_logsumexp(log_filtered[:, None] + log_move.T), seen)"),
        ("sums over paths", "_forward_backward", "smoothing without the prediction",
         "log_later - jnp.where(is_reached, log_predicted, 0)", "log_later"),
    ),
]  # fmt: skip
