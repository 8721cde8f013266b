"""Arithmetic of networks, and which devices compute in bfloat16 natively: at least twice as fast as in float32."""

from collections.abc import Mapping
from typing import Literal

import torch

__all__ = ["Precision", "has_bfloat16"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Arithmetic of networks, in the words of Lightning's trainer."""


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16.

    Where a processor has none, the arithmetic is emulated, and slower than that in float32.

    Args:
        device: Device of torch.

    Returns:
        Whether it is a processor with AVX512-BF16, AMX or ARM's extension for bfloat16, or a GPU that does not emulate
        it. False for a processor of which torch, in older versions, does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
