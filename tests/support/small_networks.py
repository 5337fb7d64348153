"""Small networks with adapters: what the tests of adapters have in common."""

import torch
from mmd_pack.mmd_core.ddm import LoRA, layers
from torch import nn

F64 = torch.float64


def filled(lora, rng):
    """Gives the adapters random factors."""
    lora.put([torch.randn(v.shape, generator=rng).to(v) for v in lora.values()])
    return lora


def frozen(module):
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return module.double().requires_grad_(False)


class Block(nn.Module):
    """A residual block, with the usual names of its layers."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, options=None, *, extra=None):
        q, k, v = self.attn["qkv"](self.norm(x)).chunk(3, -1)
        mixed = self.attn["proj"]((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
        x = x + mixed * counted(options) * counted(extra)
        return x + self.ff(self.norm(x))


def counted(options):
    """Like some networks, it counts blocks in the options that it passes on."""
    if options is None:
        return 1.0
    options["seen"] = options.get("seen", 0) + 1
    within = options.setdefault("within", {})
    within["seen"] = within.get("seen", 0) + 1
    return 1 + 0.1 * options["seen"] + 0.01 * within["seen"]


class Transformer(nn.Module):
    def __init__(self, depth=4, width=8):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 2, stride=2)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.middle = nn.Sequential(nn.Sequential(Block(width)), nn.SiLU())
        self.final = nn.Linear(width, 3)
        frozen(self)

    def forward(self, x, options=lambda: None):
        h = self.embed(x).flatten(2).mT
        for block in self.blocks:
            h = block(h, options(), extra=options())
        return self.final(self.middle(h))


def adapted(rng, targets="all", **sizes):
    network = Transformer(**sizes)
    lora = LoRA(network, layers(network, targets), rank=2, alpha=2.0, prefix="net.")
    for adapter in lora.adapters.values():
        adapter.double()
    return network, filled(lora, rng)


def picture(rng, n=2, size=8):
    return torch.randn(n, 3, size, size, generator=rng, dtype=F64)
