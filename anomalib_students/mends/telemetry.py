"""Usage data that an import of OpenVINO sends.

OpenVINO 2026 and NNCF 3 report each import, conversion and quantisation to an analytics host, unless the user has said
no by ``opt_in_out --opt_out``. Inspection machines don't look up foreign hosts: here, who has not said yes by
``opt_in_out --opt_in`` reports nothing.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import wrapt

__all__ = ["report_only_if_asked"]


def report_only_if_asked() -> None:
    """Have OpenVINO and NNCF take no answer for a no."""
    wrapt.when_imported("openvino_telemetry.utils.opt_in_checker")(_wrap)


def _wrap(module: ModuleType) -> None:
    declined, no_answer = module.ConsentCheckResult.DECLINED, module.ConsentCheckResult.NO_FILE

    def check(wrapped: Callable[..., Any], _: object, args: Sequence[Any], kwargs: dict[str, Any]) -> object:
        result = wrapped(*args, **kwargs)
        return declined if result == no_answer else result

    if not isinstance(vars(module.OptInChecker)["check"], wrapt.FunctionWrapper):
        wrapt.wrap_function_wrapper(module, "OptInChecker.check", check)
