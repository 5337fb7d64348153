"""TRI-TSMC: trust-region iterative twisted sequential Monte Carlo.

It samples a model that is tilted towards a reward. Open `learning.py` first: it holds the
iterations.

The update is the published one: tempered importance weights under a KL constraint in path space,
then weighted maximum likelihood. The family of twists and the default settings are this project's
own.

Notation:
    x_0 … x_T  a path in sampling order; its last sample is z = x_T
    P          the base distribution of paths
    r(z)       the reward
    λ          the inverse temperature (`reward_scale`)
    π          the target, π ~ P e^{λ r(z)}
    Q_θ        the proposal
    R          the importance weights dπ/dQ_θ, known up to the constant Z = E_P[e^{λ r(z)}]

References:
    Wang, Yang, Deng, Xu, TRI-TSMC, 2026. https://arxiv.org/abs/2605.25123
"""

from .config import FINALS, TWIST_FEATURES, TSMCConfig
from .expansion import KernelExpansion
from .jacobian import DenoiserJacobian
from .learning import BatchSummary, Learning
from .paths import Denoise, Noise, Paths, Recording, propose, replayed
from .smc import ParticleSystem, Potential, smc
from .surrogate import fitted
from .transition import Transition, transitions
from .twist import MAX_SHIFT, Gradient, GradientTwist, Jacobian, Twist, white
from .weights import effective, log_mean_exp, systematic
from .witness import Witness

__all__ = [
    "FINALS",
    "MAX_SHIFT",
    "TWIST_FEATURES",
    "BatchSummary",
    "Denoise",
    "DenoiserJacobian",
    "Gradient",
    "GradientTwist",
    "Jacobian",
    "KernelExpansion",
    "Learning",
    "Noise",
    "ParticleSystem",
    "Paths",
    "Potential",
    "Recording",
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
