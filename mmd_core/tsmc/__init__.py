"""TRI-TSMC (trust-region iterative twisted sequential Monte Carlo): samples a model that is tilted towards a reward.

Implements the published update (tempered importance weights under a KL constraint in path space, then weighted maximum
likelihood) of Wang, Yang, Deng, Xu, arXiv 2605.25123. The twist family and the default settings are this project's own.
Start with `learning.py`, which holds the iterations.

Notation: a path x_0 … x_T in sampling order, its last sample `z` = x_T, base distribution P, reward `r(z)`, inverse
temperature λ (`reward_scale`), target π ∝ P e^{λ r(z)}, proposal Q_θ, importance weights R = dπ/dQ_θ, which are known
up to the constant Z = E_P[e^{λ r(z)}].
"""

from .config import FINALS, TWIST_FEATURES, TSMCConfig
from .expansion import KernelExpansion
from .jacobian import DenoiserJacobian
from .learning import Learning, Pass
from .paths import (
    Denoise,
    Noise,
    Paths,
    Recording,
    propose,
    replayed,
)
from .smc import Potential, Swarm, smc
from .surrogate import fitted
from .transition import Transition, transitions
from .twist import MAX_SHIFT, Gradient, GradientTwist, Jacobian, Twist, white
from .weights import effective, log_mean_exp, systematic
from .witness import Witness

__all__ = [
    "FINALS",
    "MAX_SHIFT",
    "TWIST_FEATURES",
    "Denoise",
    "DenoiserJacobian",
    "Gradient",
    "GradientTwist",
    "Jacobian",
    "KernelExpansion",
    "Learning",
    "Noise",
    "Pass",
    "Paths",
    "Potential",
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
