"""TRI-TSMC: samples of a model tilted towards a reward, by trust-region iterative twisted sequential Monte Carlo.

Implements the published update (tempered importance reweighting under a KL constraint in path space, then weighted
maximum likelihood) of Wang, Yang, Deng, Xu, arXiv 2605.25123. The family of twists and the defaults are this project's.

Notation: a path x_0 … x_T in sampling order, its last sample `z` = x_T, base law P, reward `r(z)`, inverse temperature
λ (`reward_scale`), target π ∝ P e^{λ r(z)}, proposal Q_θ, weights R = dπ/dQ_θ up to the constant Z = E_P[e^{λ r(z)}].
"""

from .chain import Transition, transitions
from .config import FEATURES, FINALS, TSMCConfig
from .expansion import KernelExpansion
from .jacobian import DenoiserJacobian
from .learning import Learning, Pass
from .paths import (
    Paths,
    Recording,
    propose,
    replayed,
)
from .smc import Swarm, smc
from .surrogate import fitted
from .twist import (
    MOST,
    GradientTwist,
    Twist,
    white,
)
from .weights import effective, log_mean_exp, systematic
from .witness import Witness

__all__ = [
    "DenoiserJacobian",
    "FEATURES",
    "FINALS",
    "MOST",
    "GradientTwist",
    "KernelExpansion",
    "Learning",
    "Pass",
    "Paths",
    "Recording",
    "Swarm",
    "TSMCConfig",
    "Transition",
    "Twist",
    "Witness",
    "effective",
    "fitted",
    "log_mean_exp",
    "propose",
    "replayed",
    "smc",
    "systematic",
    "transitions",
    "white",
]
