"""Gaussian mixtures and their exact denoiser, as a ComfyUI MODEL.

With modes k of weight π_k, means m_k and one diagonal covariance v, shared by all modes, in an
orthonormal basis, the noisy x = x0 + σ·n has the responsibilities and the posterior mean

    r_k ∝ π_k exp(−½ Σ_f (x_f − m_kf)² / (v_f + σ²))      D(x, σ) = Σ_k r_k (m_k + w (x − m_k)),   w = v / (v + σ²)
"""

import math

import torch
from torch import Tensor, nn


def dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II, with shape `(n, n)`: frequency by place."""
    frequency, place = torch.meshgrid(
        torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64), indexing="ij"
    )
    matrix = torch.cos(math.pi / n * (place + 0.5) * frequency) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


class Dct(nn.Module):
    """The orthonormal 2-D DCT of pictures `(B, C, n, n)` and back."""

    def __init__(self, side: int):
        super().__init__()
        self.register_buffer("matrix", dct_matrix(side))

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x @ self.matrix.T

    def inverse(self, x: Tensor) -> Tensor:
        return self.matrix.T @ x @ self.matrix


class Plain(nn.Module):
    """The basis that a picture comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    inverse = forward


class Mixture(nn.Module):
    """A mixture of K Gaussians with one diagonal covariance.

    Arguments:
        weights: π, with shape `(K,)`, sum 1.
        means: With shape `(K, *shape)`.
        variances: v, with shape `shape`.
    """

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor):
        super().__init__()
        self.shape = means.shape[1:]
        self.register_buffer("weights", weights)
        self.register_buffer("means", means.flatten(1))
        self.register_buffer("variances", variances.flatten())

    def log_joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        """ln π_k + ln N(x; m_k, v + σ²) but for a term that is the same for all k, `(B, K)`.

        Arguments:
            x: Noisy samples, with shape `(B, *shape)`.
            sigma: Their noise levels, with shape `(B,)`.
        """
        precision = 1 / (self.variances + sigma[:, None].square())  # (B, D)
        pull = (x.flatten(1) * precision) @ self.means.T
        return self.weights.log() + pull - precision @ self.means.square().T / 2

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The posterior mean of clean samples, with the shape `(B, *shape)` of x."""
        responsibilities = self.log_joint(x, sigma).softmax(1)
        kept = self.variances / (self.variances + sigma[:, None].square())
        return (kept * x.flatten(1) + (1 - kept) * (responsibilities @ self.means)).view_as(x)

    def log_density(self, x: Tensor, sigma: float) -> Tensor:
        """ln p(x) of noisy samples, with shape `(B,)`; summed directly, to check the rest against."""
        variances = self.variances + sigma**2
        d2 = (x.flatten(1)[:, None] - self.means).square() / variances + variances.log()
        whole = self.weights.log() - d2.sum(2) / 2 - len(variances) / 2 * math.log(2 * math.pi)
        return whole.logsumexp(1)

    def nearest_mode(self, x: Tensor) -> Tensor:
        """The mode of clean samples, with shape `(B,)`: where each is likeliest, weights apart."""
        precision = 1 / self.variances
        scores = (x.flatten(1) * precision) @ self.means.T - self.means.square() @ precision / 2
        return scores.argmax(1)

    def deviations(self, x: Tensor, modes: Tensor) -> Tensor:
        """(x − m_k) / √v of samples that belong to `modes`, with shape `(B, D)`."""
        return (x.flatten(1) - self.means[modes]) / self.variances.sqrt()

    def sample(self, modes: Tensor, generator: torch.Generator) -> Tensor:
        """One sample of each of the modes `(n,)`, with shape `(n, *shape)`."""
        noise = torch.randn(len(modes), self.means.shape[1], generator=generator)
        return (self.means[modes] + noise * self.variances.sqrt()).view(-1, *self.shape)

    def sample_modes(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent modes `(n,)` by their weights."""
        return torch.multinomial(self.weights, n, replacement=True, generator=generator)


def exact_counts(weights, n: int) -> list[int]:
    """n split by weights and rounded so that the sum is n (largest remainders)."""
    exact = [float(w) * n for w in weights]
    counts = [int(e + 1e-6) for e in exact]
    order = sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])
    for k in order[: n - sum(counts)]:
        counts[k] += 1
    return counts


class ExactDenoiser(nn.Module):
    """What ComfyUI takes for a network: the posterior mean in some basis."""

    dtype = torch.float32  # BaseModel asks its diffusion model

    def __init__(self, mixture: Mixture, basis: nn.Module):
        super().__init__()
        self.mixture, self.basis = mixture, basis

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.basis.inverse(self.mixture.denoise(self.basis(x), sigma))


def exact_model(denoiser: ExactDenoiser, latent_format: type, model_type: str, **sampling):
    """The denoiser as a MODEL with ComfyUI's own noise schedule of `model_type` (EPS, EDM).

    The estimate is handed over at the very σ of the call: a network of ModelType.EPS would round
    it to one of a thousand time steps, which is an error of the model and not of any guidance.
    """
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models_base

    class Exact(comfy.model_base.BaseModel):
        def _apply_model(self, x, t, *_conditioning, **_options):
            return self.diffusion_model(x, t)

    class Config(comfy.supported_models_base.BASE):
        unet_config = {"disable_unet_model_creation": True}
        sampling_settings = sampling
        supported_inference_dtypes = [torch.float32]

    Config.latent_format = latent_format
    model = Exact(Config(Config.unet_config), getattr(comfy.model_base.ModelType, model_type))
    model.diffusion_model = denoiser
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)
