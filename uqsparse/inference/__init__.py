"""Randomised algorithms: sequential Monte Carlo, MCMC and their diagnostics."""

from uqsparse.inference.diagnostics import Convergence, SteinCheck, convergence, stein_check
from uqsparse.inference.moves import HMC, IndependentProposal, RandomWalk
from uqsparse.inference.nuts import hmc, nuts
from uqsparse.inference.smc_result import FrozenLadder, SMCResult, freeze_ladder
from uqsparse.inference.targets import TemperedTarget
from uqsparse.inference.tempered_smc import tempered_smc

__all__ = [
    "HMC",
    "Convergence",
    "FrozenLadder",
    "IndependentProposal",
    "RandomWalk",
    "SMCResult",
    "SteinCheck",
    "TemperedTarget",
    "convergence",
    "freeze_ladder",
    "hmc",
    "nuts",
    "stein_check",
    "tempered_smc",
]
