"""What is mended of anomalib, each in a module that says what and since which version.

They concern every model of anomalib in a program, and change nothing else.
"""

from .images import read_by_ours
from .masks import name_masks

__all__ = ["apply_mends"]


def apply_mends() -> None:
    """Mend the modules of anomalib, now or as soon as they are imported; a second call changes nothing more."""
    read_by_ours()
    name_masks()
