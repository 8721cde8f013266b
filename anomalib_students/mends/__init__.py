"""Fixes of faults of anomalib and OpenVINO; each module says which fault, and in which version it was found.

They apply to every model of anomalib in a program. A fix is removed when anomalib has fixed the fault.
"""

from functools import cache

from .class_paths import name_models_as_anomalib
from .compression_names import take_lower_case
from .one_line_errors import end_in_one_line
from .results_folders import keep_untrained_results
from .resumed_training import measure_what_was_trained
from .seed import seed_before_models
from .signal_stacks import keep_signal_stacks
from .telemetry import report_only_if_asked
from .trainer_settings import let_models_choose

__all__ = ["apply_mends"]


@cache
def apply_mends() -> None:
    """Fix the modules, now or as soon as they are imported. A second call changes nothing."""
    end_in_one_line()
    keep_signal_stacks()
    keep_untrained_results()
    let_models_choose()
    name_models_as_anomalib()
    report_only_if_asked()
    seed_before_models()
    take_lower_case()
    measure_what_was_trained()
