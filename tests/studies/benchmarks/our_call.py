"""Guidance as a user gets it: set up once for a run, then called with (x̂0, x, σ)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Memory,
    Schedule,
    Window,
)
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from torch import Tensor

STEPS, TOP, BOTTOM, RHO = 25, 14.6, 0.03, 7  # of the karras schedule of SD 1.5
WINDOW = Window(1e9, 0.693)  # start_percent 0 and end_percent .75 of SD 1.5's noise
STRENGTHS = {"flow": GuidanceConfig().strength, "paper": 50.0, "official": 0.05}
FINISHED = 64  # samples of a memory


def karras() -> list[float]:
    """The schedule, with the 0 that samplers end on."""
    ends = TOP ** (1 / RHO), BOTTOM ** (1 / RHO)
    sigmas = [(ends[0] + i / (STEPS - 1) * (ends[1] - ends[0])) ** RHO for i in range(STEPS)]
    return [*sigmas, 0.0]


SIGMAS = karras()


@dataclass(frozen=True)
class Setting:
    """What a call is made with.

    Arguments:
        kernel, multipliers, mode: Of the configuration.
        substeps: A number, or None for that of the default strength.
        record: Whether a trace is kept.
        finished: Whether there is a memory.
        prompts: Whether prompts are compared.
        companions: Whether each sample follows one reference, as below 8 images.
        dtype: Of x̂0 and x.
        budget: How many bytes of references may be kept; 0 streams them from the CPU.
    """

    kernel: str | None = "rbf"
    multipliers: tuple[float, ...] = (0.5, 1.0, 2.0)
    mode: str = "flow"
    substeps: int | None = 1
    record: bool = False
    finished: bool = False
    prompts: bool = False
    companions: bool = False
    dtype: torch.dtype = torch.float32
    budget: float = math.inf

    def config(self) -> GuidanceConfig:
        prompt_kernel = "cosine" if self.prompts else "none"
        kernel = self.kernel and KernelConfig(
            self.kernel, multipliers=self.multipliers, prompt_kernel=prompt_kernel
        )
        config = GuidanceConfig(STRENGTHS[self.mode], mode=self.mode, kernel=kernel)
        return config.for_batch(1) if self.companions else config


@torch.inference_mode()  # as ComfyUI calls it
def set_up(world: LatentWorld, references: Tensor, setting: Setting) -> Guidance:
    """The guidance of one run."""
    n, memory = len(references), None
    if setting.budget == 0:
        references = references.cpu()
    if setting.finished:
        features = world.prompts(FINISHED, 2) if setting.prompts else None
        memory = Memory(world.finished(FINISHED), features)
    return Guidance(
        setting.config(),
        Latents(references, torch.full((n,), 1 / n, device=world.device)),
        Schedule(SIGMAS, WINDOW),
        memory,
        world.prompts(n, 1) if setting.prompts else None,
        Execution(setting.record, setting.budget),
    )


@dataclass
class Call:
    """One call of `guidance` at σ with a strength, on data of `world`."""

    guidance: Guidance
    world: LatentWorld
    setting: Setting
    batch: int
    sigma: float
    strength: float
    inputs: tuple = field(init=False)

    def __post_init__(self):
        self.config = replace(self.guidance.config, strength=self.strength)
        x0, x = (t.to(self.setting.dtype) for t in self.world.call(self.batch, self.sigma))
        prompts = self.world.prompts(self.batch, 3) if self.setting.prompts else None
        self.inputs = x0, x, self.sigma, prompts

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        self.guidance.config = self.config
        return self.guidance(*self.inputs)

    def substeps(self) -> int:
        """How many sub-steps it takes; 0 where guidance does not act."""
        record, self.guidance.record = self.guidance.record, True
        self()
        self.guidance.record = record
        return self.guidance.trace[-1].substeps


def usual_sigma(world: LatentWorld, references: Tensor, batch: int, setting: Setting) -> float:
    """The σ of the call that has the median of sub-steps, of those in the window, at the setting's strength."""
    guidance = set_up(world, references, setting)
    strength = guidance.config.strength
    counted = [
        (Call(guidance, world, setting, batch, sigma, strength).substeps(), sigma)
        for sigma in SIGMAS[:-1]
    ]
    acting = sorted(found for found in counted if found[0])
    return acting[len(acting) // 2][1]


def strength_for(substeps: int | None, call: Callable[[float], Call], usual: float) -> float:
    """A strength that makes a call take so many sub-steps, or the next fewer that one does.

    Arguments:
        substeps: How many; None for as many as the default strength takes.
        call: The call with a strength.
        usual: The default strength.
    """
    if substeps is None:
        return usual
    low, high = usual / 1000, usual * 100  # one sub-step, and the most that there can be
    for _ in range(0 if substeps == 1 else 14):
        middle = (low * high) ** 0.5
        if call(middle).substeps() > substeps:
            high = middle
        else:
            low = middle
    return low
