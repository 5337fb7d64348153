"""Half precision where the processor has units for it; elsewhere it is twenty times slower."""

import torch

HAS_BF16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
FAST = torch.bfloat16 if HAS_BF16 else torch.float32


def fast_math() -> torch.autocast:
    """Matrix products in the fastest precision of this processor."""
    return torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16)
