"""Randomised algorithms: sequential Monte Carlo, MCMC and their diagnostics."""

from uqsparse.inference.checks.martingale import check_martingale
from uqsparse.inference.conditional_smc import ConditionalResult, conditional_smc
from uqsparse.inference.conjugate_predictives import ConjugatePredictive
from uqsparse.inference.copula_predictive import CopulaPredictive
from uqsparse.inference.copula_regression import CopulaRegression
from uqsparse.inference.diagnostics import Convergence, SteinCheck, convergence, stein_check
from uqsparse.inference.filter_settings import Proposal
from uqsparse.inference.hidden_markov import HiddenMarkovResult, forward_backward, sample_paths
from uqsparse.inference.hit_and_run import HitAndRunResult, hit_and_run
from uqsparse.inference.incremental_predictive import IncrementalPredictive
from uqsparse.inference.kalman import KalmanResult, LinearGaussian, SmootherResult, kalman_filter, kalman_smoother
from uqsparse.inference.martingale_result import MartingalePosterior
from uqsparse.inference.moves import HMC, IndependentProposal, RandomWalk
from uqsparse.inference.nuts import hmc, nuts
from uqsparse.inference.particle_filter import FilterHistory, FilterResult, particle_filter
from uqsparse.inference.particle_gibbs import particle_gibbs
from uqsparse.inference.plug_in_predictive import PlugInPredictive
from uqsparse.inference.pmmh import pmmh
from uqsparse.inference.populations import Density
from uqsparse.inference.predictive_resampling import martingale_posterior
from uqsparse.inference.predictive_rules import Predictive
from uqsparse.inference.smc2 import smc2
from uqsparse.inference.smc2_result import SMC2Result
from uqsparse.inference.smc_result import FrozenLadder, SMCResult, freeze_ladder
from uqsparse.inference.smoothing import SmoothingResult, smooth
from uqsparse.inference.state_space import StateSpaceModel, simulate
from uqsparse.inference.targets import TemperedTarget
from uqsparse.inference.tempered_smc import tempered_smc
from uqsparse.inference.urn_predictives import BayesianBootstrap, DirichletProcess, urn_quantile

__all__ = [
    "HMC",
    "BayesianBootstrap",
    "ConditionalResult",
    "ConjugatePredictive",
    "Convergence",
    "CopulaPredictive",
    "CopulaRegression",
    "Density",
    "DirichletProcess",
    "FilterHistory",
    "FilterResult",
    "FrozenLadder",
    "HiddenMarkovResult",
    "HitAndRunResult",
    "IncrementalPredictive",
    "IndependentProposal",
    "KalmanResult",
    "LinearGaussian",
    "MartingalePosterior",
    "PlugInPredictive",
    "Predictive",
    "Proposal",
    "RandomWalk",
    "SMC2Result",
    "SMCResult",
    "SmootherResult",
    "SmoothingResult",
    "StateSpaceModel",
    "SteinCheck",
    "TemperedTarget",
    "check_martingale",
    "conditional_smc",
    "convergence",
    "forward_backward",
    "freeze_ladder",
    "hit_and_run",
    "hmc",
    "kalman_filter",
    "kalman_smoother",
    "martingale_posterior",
    "nuts",
    "particle_filter",
    "particle_gibbs",
    "pmmh",
    "sample_paths",
    "simulate",
    "smc2",
    "smooth",
    "stein_check",
    "tempered_smc",
    "urn_quantile",
]
