"""Precision of networks, and the devices that compute in bfloat16 natively: at least twice as fast as in float32."""

from collections.abc import Mapping
from typing import Literal

import torch

__all__ = ["Precision", "has_bfloat16"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precisions by their names in Lightning's trainer."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them, its emulation is slower than float32.

    These are AVX512-BF16, AMX, ARM's extension, or those of a GPU. Older versions of torch report none of a processor.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
