"""Finetuning of a few-step sampler with an MMD loss (MMD-DDM), with the gradient from `adjoint.py`.

References:
    Aiello, Valsesia, Magli, Fast Inference in Denoising Diffusion Models via MMD Finetuning.
    https://arxiv.org/abs/2301.07969
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .adjoint import Denoise, Penalty, accumulate, draw, micro_batches
from .balanced import balanced_choice
from .chain import LinearChain
from .config import DDMConfig
from .lora import LoRA
from .loss import MMDLoss

__all__ = ["Problem", "Step", "Training"]

VALIDATION_BATCHES = 2  # that each validation draws; drawing without gradients is cheaper
COMPARED_BATCHES = 4  # that the comparison with the model alone draws, once in the end


@dataclass(frozen=True, eq=False)
class Problem:
    """The model to train, and the references that its samples must match.

    Attributes:
        chains: The samplers; one is chosen at random for each update. Validation uses the first.
        shape: The shape of one sample.
        device: The device of the samples.
        scaled: Maps `(noise, sigma)` to x_0 at the noise level σ: the model's noise_scaling.
        denoise: Maps the prompt indices of a batch to a `Denoise` with these prompts.
        features: Maps `(x, noise, prompts)` to the features of samples, with shape `(b, F)`,
            differentiable in x. `noise` is standard normal with the shape of x, for features of
            noisy samples.
        loss: The loss relative to the training references.
        held_out: The loss relative to the held-out references; None if there are none.
        chances: The probability of each prompt, with shape `(P,)`, sum 1.
        prompt_features: The features of the prompts, with shape `(P, E)`; None if prompts are not
            compared.
    """

    chains: tuple[LinearChain, ...]
    shape: tuple[int, ...]
    device: torch.device
    scaled: Callable[[Tensor, float], Tensor]
    denoise: Callable[[Sequence[int]], Denoise]
    features: Callable[[Tensor, Tensor, Sequence[int]], Tensor]
    loss: MMDLoss
    held_out: MMDLoss | None
    chances: Tensor
    prompt_features: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The result of an update.

    Attributes:
        iteration: The number of updates so far; 0 is the model before training.
        loss: MMD²_U of the batch of this update; NaN for iteration 0.
        held_out: MMD²_U of the averaged adapters relative to the held-out references, on fixed
            noise; None without validation at this iteration.
        samples: The samples of that validation, with shape `(n, *)`, or None.
    """

    iteration: int
    loss: float
    held_out: float | None = None
    samples: Tensor | None = None


class _Batch(NamedTuple):
    """The random inputs of one batch.

    Attributes:
        start: x_0, with shape `(N, *)`.
        noise: ξ, the noise of the sampler, with shape `(R, N, *)`.
        feature_noise: The noise of the features, with shape `(N, *)`.
        prompts: The index of the prompt of each sample.
    """

    start: Tensor
    noise: Tensor
    feature_noise: Tensor
    prompts: list[int]


class Training:
    """One training.

    Attributes:
        losses: MMD²_U of each update.
        validated: `(iteration, MMD²_U)` of each validation.
        best: The iteration that `values` belong to.
        values: The factors of the adapters to keep.
        compared: MMD²_U without adapters and with `values`, relative to the held-out references, on
            noise that chose nothing; None before the end, or if no references are held out.
        ended: Why training ended early; "" if it did not.
    """

    def __init__(self, config: DDMConfig, problem: Problem, lora: LoRA) -> None:
        self.config, self.problem, self.lora = config, problem, lora
        self.losses: list[float] = []
        self.validated: list[tuple[int, float]] = []
        self.compared: tuple[float, float] | None = None
        self.best, self.values, self.ended = 0, lora.values(), ""
        self.random = torch.Generator().manual_seed(config.seed)
        self._average = lora.values()

    def run(self) -> Iterator[Step]:
        """A generator: yields iteration 0, then makes one update per yielded `Step`.

        In the end the adapters have the factors `values`. With `keep` = `best`, these have no
        effect if they are no better than the model without adapters.

        Raises:
            ValueError: The samples do not depend on the adapters.
        """
        config, lora = self.config, self.lora
        optimizer = torch.optim.Adam(lora.parameters, lr=config.learning_rate)
        yield self._validate(0, math.nan)
        for i in range(config.iterations):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * config.rate(i)
            optimizer.zero_grad(set_to_none=True)
            loss, finite = self._gradient()
            if not finite:
                self.ended = (
                    f"after {i} updates, because the loss or its gradient was not a finite number"
                )
                break
            optimizer.step()
            self.losses.append(loss)
            self._update_average(i)
            done = i + 1
            if done % config.validate_every == 0 or done == config.iterations:
                yield self._validate(done, loss)
                if done < config.iterations and self._only_rises():
                    self.ended = (
                        f"after {done} updates, because the distance from held-out references rose "
                        f"{config.patience} times in a row"
                    )
                    break
            else:
                yield Step(done, loss)
        lora.put(self.values)
        if self.problem.held_out is not None:
            self._compare()

    def _gradient(self) -> tuple[float, bool]:
        """Sets the gradients of the adapters.

        Returns:
            MMD²_U, and whether it and the gradients are finite.
        """
        config, problem = self.config, self.problem
        chain = problem.chains[int(torch.randint(len(problem.chains), (), generator=self.random))]
        batch = self._batch(chain, config.batch_size, self.random)
        denoise = problem.denoise(batch.prompts)
        drawn = draw(chain, denoise, batch.start, batch.noise, config.micro_batch)
        features = self._features(drawn.samples, batch)
        loss, gradient = problem.loss(features, self._prompt_features(batch), self.random)
        upstream = torch.empty_like(drawn.samples)
        for indices in micro_batches(len(batch.start), config.micro_batch):
            piece = slice(indices.start, indices.stop)
            x = drawn.samples[piece].detach().requires_grad_()
            with torch.enable_grad():
                found = problem.features(x, batch.feature_noise[piece], batch.prompts[piece])
            (upstream[piece],) = torch.autograd.grad(found, x, gradient[piece].to(found))

        def base(x: Tensor, sigma: float, indices: Sequence[int]) -> Tensor:
            with self.lora.set_active(False):
                return denoise(x, sigma, indices)

        parameters = self.lora.parameters
        accumulate(
            chain, denoise, drawn.states, upstream, parameters, config.micro_batch,
            config.grad_last_k,
            Penalty(base, config.drift_penalty) if config.drift_penalty else None,
        )  # fmt: skip
        if all(parameter.grad is None for parameter in parameters):
            raise ValueError(
                "the LoRA has no effect on the samples: train on the model without nodes that "
                "compile or replace its network"
            )
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf)
        return loss, math.isfinite(loss) and bool(norm.isfinite())

    def _batch(self, chain: LinearChain, count: int, random: torch.Generator) -> _Batch:
        problem = self.problem
        numbers = torch.randn(2 + chain.draws, count, *problem.shape, generator=random)
        numbers = numbers.to(problem.device)
        prompts = balanced_choice(problem.chances, count, random)
        start = problem.scaled(numbers[0], chain.sigmas[0])
        return _Batch(start, numbers[2:], numbers[1], prompts)

    @torch.no_grad()
    def _features(self, samples: Tensor, batch: _Batch) -> Tensor:
        pieces = [
            slice(indices.start, indices.stop)
            for indices in micro_batches(len(samples), self.config.micro_batch)
        ]
        return torch.cat([
            self.problem.features(samples[piece], batch.feature_noise[piece], batch.prompts[piece])
            for piece in pieces
        ])  # fmt: skip

    def _prompt_features(self, batch: _Batch) -> Tensor | None:
        features = self.problem.prompt_features
        return None if features is None else features[batch.prompts]

    @torch.no_grad()
    def _update_average(self, i: int) -> None:
        """Updates the exponential moving average of the adapters.

        Its decay is smaller in the first updates.
        """
        decay = min(self.config.ema, (1 + i) / (10 + i)) if self.config.ema else 0.0
        for kept, value in zip(self._average, self.lora.parameters, strict=True):
            kept.lerp_(value.cpu(), 1 - decay)

    def _validate(self, done: int, loss: float) -> Step:
        """Validates the averaged adapters, and keeps them if they are the best.

        The noise is the same each time.
        """
        if self.problem.held_out is None:
            self.best, self.values = done, [value.clone() for value in self._average]
            return Step(done, loss)
        trained = self.lora.values()
        self.lora.put(self._average)
        try:
            found, samples = self._distance(1, VALIDATION_BATCHES)
        finally:
            self.lora.put(trained)
        best = min((value for _, value in self.validated), default=math.inf)
        self.validated.append((done, found))
        if self.config.keep == "last" or found < best:
            self.best, self.values = done, [value.clone() for value in self._average]
        return Step(done, loss, found, samples)

    def _distance(self, offset: int, batches: int) -> tuple[float, Tensor]:
        """MMD²_U of new samples relative to the held-out references, and the samples.

        Arguments:
            offset: Added to the seed; the same offset gives the same noise.
            batches: The number of samples, in batches.
        """
        config, problem = self.config, self.problem
        random = torch.Generator().manual_seed(config.seed + offset)
        chain = problem.chains[0]
        batch = self._batch(chain, batches * config.batch_size, random)
        denoise = problem.denoise(batch.prompts)
        drawn = draw(chain, denoise, batch.start, batch.noise, config.micro_batch, keep=False)
        features = self._features(drawn.samples, batch)
        found, _ = problem.held_out(features, self._prompt_features(batch), random)
        return found, drawn.samples

    @torch.no_grad()
    def _compare(self) -> None:
        """Compares `values` with the model without adapters, and drops them if they are no better.

        The noise is new: that of the validations made the best of them look better than it is.
        """
        with self.lora.set_active(False):
            before, _ = self._distance(2, COMPARED_BATCHES)
        after, _ = self._distance(2, COMPARED_BATCHES)
        if self.config.keep == "best" and not after < before:
            self.best, self.values, after = 0, self.lora.without_effect(), before
            self.lora.put(self.values)
        self.compared = before, after

    def _only_rises(self) -> bool:
        """Whether the last `patience` validations all rose. Fewer rises may be noise."""
        patience = self.config.patience
        last = [value for _, value in self.validated[-patience - 1 :]]
        rises = len(last) > patience and all(a < b for a, b in pairwise(last))
        return patience > 0 and rises and self.config.keep == "best"
