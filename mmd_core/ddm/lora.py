"""LoRA adapters on a frozen network: W becomes W + (alpha / rank) · up · down, in forward hooks.

The weights themselves do not change. So they may be quantised, no gradient of a full weight is
computed, and the adapters can be switched off at any time. The tensors have the names and shapes of
the usual LoRA files.

References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
    https://arxiv.org/abs/2106.09685
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.quoted import quoted

__all__ = ["LoRA", "TARGETS", "adapter_numbers", "layers"]

ATTENTION = r"attn|attention|to_[qkv]\b|to_out|qkv"
MLP = r"\bff\b|mlp|ffn|feed_forward"
TARGETS = {
    "all": re.compile(""),
    "attention+mlp": re.compile(f"{ATTENTION}|{MLP}", re.I),
    "attention": re.compile(ATTENTION, re.I),
}
_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


def _convolution(module: nn.Module) -> Callable[..., Tensor] | None:
    """The function that computes a convolutional layer; None for other modules."""
    return next((f for kind, f in _CONVOLUTIONS.items() if isinstance(module, kind)), None)


def layers(network: nn.Module, targets: str) -> list[str]:
    """The names of the linear and convolutional layers of a network that `targets` selects.

    Raises:
        ValueError: `targets` is unknown, or the network has no such layer.
    """
    if targets not in TARGETS:
        raise ValueError(f"unknown targets {quoted(targets)}: choose one of {', '.join(TARGETS)}")
    found = []
    for name, module in network.named_modules():
        convolution = (
            _convolution(module) is not None
            and module.groups == 1
            and module.padding_mode == "zeros"
        )
        linear = hasattr(module, "in_features") and hasattr(module, "out_features")
        if (convolution or linear) and TARGETS[targets].search(name):
            found.append(name)
    if not found:
        raise ValueError(f"this model has no layer of the kind {targets}: set targets to all")
    return found


def _lengths(layer: nn.Module) -> tuple[int, int, tuple[int, ...]]:
    """The numbers of inputs and of outputs of a layer, and the side lengths of a convolution."""
    if _convolution(layer) is None:
        return layer.in_features, layer.out_features, ()
    return layer.in_channels, layer.out_channels, tuple(layer.kernel_size)


def adapter_numbers(network: nn.Module, names: Sequence[str], rank: int) -> int:
    """How many numbers the adapters of the named layers have."""
    modules = dict(network.named_modules())
    lengths = [_lengths(modules[name]) for name in names]
    return sum(rank * (ins * math.prod(sides) + outs) for ins, outs, sides in lengths)


class _Adapter(nn.Module):
    """The two factors, down and up, of the adapter of one layer."""

    def __init__(
        self, layer: nn.Module, rank: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.scale, self.convolve = scale, _convolution(layer)
        ins, outs, sides = _lengths(layer)
        down = torch.empty(rank, ins, *sides)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(outs, rank, *[1] * len(sides)))

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        down, up = self.down.to(x.dtype), (self.up * self.scale).to(x.dtype)
        if self.convolve is None:
            return F.linear(F.linear(x, down), up)
        low = self.convolve(x, down, None, layer.stride, layer.padding, layer.dilation)
        return self.convolve(low, up)


class LoRA:
    """LoRA adapters on the named layers of a network.

    They are active at once, and 0 until they are trained.

    Arguments:
        network: The network; its layers have forward hooks until `remove` is called.
        names: The names of its linear and convolutional layers.
        rank: r, at least 1.
        alpha: α; the output of an adapter is multiplied by α / r.
        seed: The seed of the initial down factors.
        initial: An earlier `state_dict` to continue from, or None; its rank and α replace `rank`
            and `alpha`.
        prefix: The prefix of the tensor names in `state_dict`.

    Raises:
        ValueError: `initial` does not fit these layers.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str], rank: int, alpha: float, seed: int = 0,
        initial: dict[str, Tensor] | None = None, prefix: str = "",
    ) -> None:  # fmt: skip
        self.prefix, self.active = prefix, True
        if initial is not None:
            rank, alpha = self._rank_of(initial, names)
        self.rank, self.alpha = rank, alpha
        generator = torch.Generator().manual_seed(seed)
        modules = dict(network.named_modules())
        self.adapters = {
            name: _Adapter(modules[name], rank, alpha / rank, generator) for name in names
        }
        self._hooks = [
            modules[name].register_forward_hook(self._hook(adapter))
            for name, adapter in self.adapters.items()
        ]
        if initial is not None:
            self.load(initial)

    def _hook(self, adapter: _Adapter) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        def hook(layer: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return output + adapter(layer, args[0]).to(output.dtype) if self.active else output

        return hook

    def _rank_of(self, state: dict[str, Tensor], names: Sequence[str]) -> tuple[int, float]:
        wanted = {f"{self.prefix}{name}.lora_down.weight" for name in names}
        found = {key: down for key, down in state.items() if key.endswith("lora_down.weight")}
        ranks = {len(down) for down in found.values()}
        if set(found) != wanted or len(ranks) != 1:
            raise ValueError(
                f"the existing LoRA does not fit: it has {len(found)} layers, "
                f"{len(wanted & set(found))} of the {len(wanted)} that are to be trained, and rank "
                f"{', '.join(map(str, sorted(ranks))) or 'unknown'}. Connect one that was trained "
                "with the same targets on the same kind of model, or none"
            )
        rank = ranks.pop()
        alphas = {float(state.get(f"{self.prefix}{name}.alpha", rank)) for name in names}
        if len(alphas) != 1:
            raise ValueError(
                "the existing LoRA does not fit: its layers have different alphas. Connect one of "
                "MMDTrainLoRA"
            )
        return rank, alphas.pop()

    @property
    def parameters(self) -> list[Tensor]:
        """The factors: down and up of each layer."""
        return [
            factor for adapter in self.adapters.values() for factor in (adapter.down, adapter.up)
        ]

    def to(self, device: torch.device) -> "LoRA":
        """Moves all factors to the device."""
        for adapter in self.adapters.values():
            adapter.to(device)
        return self

    def requires_grad(self, trained: bool) -> None:
        """Sets whether the factors are trained."""
        for parameter in self.parameters:
            parameter.requires_grad_(trained)

    def values(self) -> list[Tensor]:
        """Copies of all factors, on the CPU: on a GPU, memory is scarce in training."""
        return [parameter.detach().to("cpu", copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Sets all factors to `values`, in the order of the method `values`."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def without_effect(self) -> list[Tensor]:
        """`values` with up factors 0: with these the network computes as before."""
        values = self.values()
        return [value if i % 2 == 0 else torch.zeros_like(value) for i, value in enumerate(values)]

    @contextlib.contextmanager
    def set_active(self, active: bool) -> Iterator[None]:
        """A context in which the adapters are on or off.

        Without them the network computes as before.
        """
        self.active, before = active, self.active
        try:
            yield
        finally:
            self.active = before

    def state_dict(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors under the names of a LoRA file, float32 on the CPU.

        Arguments:
            values: The factors to take instead of the current ones.
        """
        values = iter(self.values() if values is None else values)
        state = {}
        for name in self.adapters:
            down, up = next(values), next(values)
            state[f"{self.prefix}{name}.lora_down.weight"] = down.float().cpu()
            state[f"{self.prefix}{name}.lora_up.weight"] = up.float().cpu()
            state[f"{self.prefix}{name}.alpha"] = torch.tensor(float(self.alpha))
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Sets all factors from a `state_dict`.

        Raises:
            ValueError: It does not fit these layers.
        """
        values = []
        for name, adapter in self.adapters.items():
            for part, factor in (("down", adapter.down), ("up", adapter.up)):
                value = state.get(f"{self.prefix}{name}.lora_{part}.weight", torch.empty(0))
                if value.numel() != factor.numel():
                    raise ValueError(
                        f"the existing LoRA does not fit: {name} has the shape "
                        f"{tuple(value.shape)}, not {tuple(factor.shape)}. Connect one of the same "
                        "kind of model"
                    )
                values.append(value.reshape(factor.shape).to(factor))
        self.put(values)

    def remove(self) -> None:
        """Removes the hooks from the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
