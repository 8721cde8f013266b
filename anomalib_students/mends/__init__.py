"""What is mended of anomalib and OpenVINO, each in a module that says what, and in which version it was found.

It concerns every model of anomalib in a program.
"""

from .images import read_by_ours
from .masks import name_masks
from .telemetry import report_only_if_asked

__all__ = ["apply_mends"]


def apply_mends() -> None:
    """Mend the modules, now or as soon as they are imported; a second call changes nothing more."""
    read_by_ours()
    name_masks()
    report_only_if_asked()
