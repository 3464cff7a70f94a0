"""Neural processes: networks that learn, from many small tasks, to predict a function from a few of its points."""

from uqsparse.models.neural_processes.bayesian_optimisation import (
    Minimisation,
    log_expected_improvement,
    minimise,
    surrogate,
)
from uqsparse.models.neural_processes.blocks import count_parameters
from uqsparse.models.neural_processes.bootstrapping import BANP, BNP
from uqsparse.models.neural_processes.cnp import CANP, CNP
from uqsparse.models.neural_processes.latent import ANP, NP
from uqsparse.models.neural_processes.martingale import MPANP, MPNP
from uqsparse.models.neural_processes.mixture import Mixture
from uqsparse.models.neural_processes.process import NeuralProcess
from uqsparse.models.neural_processes.scores import LogLikelihoods, log_likelihoods
from uqsparse.models.neural_processes.training import fit

__all__ = [
    "ANP",
    "BANP",
    "BNP",
    "CANP",
    "CNP",
    "MPANP",
    "MPNP",
    "NP",
    "LogLikelihoods",
    "Minimisation",
    "Mixture",
    "NeuralProcess",
    "count_parameters",
    "fit",
    "log_expected_improvement",
    "log_likelihoods",
    "minimise",
    "surrogate",
]
