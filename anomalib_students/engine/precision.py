"""Precision of networks, and the devices that compute in bfloat16 natively: at least twice as fast as in float32."""

import os
from collections.abc import Mapping
from typing import Literal

import torch

__all__ = ["Precision", "has_bfloat16"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precisions by their names in Lightning's trainer."""
LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that limits the instructions which oneDNN uses."""
LIMITS_WITH_BFLOAT16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
"""Parts of the values that leave it those for bfloat16."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 that may be used; their emulation is slower than float32.

    These are AVX512-BF16, AMX, ARM's extension, or those of a GPU. Older versions of torch report none of a processor.
    ``ONEDNN_MAX_CPU_ISA`` and ``ATEN_CPU_CAPABILITY`` can forbid those of x86 processors.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("bf16"):
        return True
    allowed = any(name in os.environ.get(LIMIT, "ALL").upper() for name in LIMITS_WITH_BFLOAT16)
    allowed &= torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AMX"))
    return allowed and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
