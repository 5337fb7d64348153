"""ComfyUI's dynamic VRAM: weights come to the GPU when used, and give way to other memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management as management

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher


def is_dynamic(model: ModelPatcher) -> bool:
    """Whether ComfyUI brings each weight of the model to the GPU when it is used."""
    return getattr(model, "is_dynamic", lambda: False)()


def giving_way(device: torch.device) -> int:
    """Bytes of weights on the device that count as used, but give way to other memory."""
    loaded = [m for m in management.loaded_models() if is_dynamic(m) and m.load_device == device]
    # Clones of a model share its weights.
    return sum({id(m.model): int(m.loaded_size()) for m in loaded}.values())
