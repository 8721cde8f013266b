"""Usage data that an import of OpenVINO sends.

OpenVINO 2026 and NNCF 3 report each import, conversion and quantisation to an analytics host, unless the user has opted
out by ``opt_in_out --opt_out``. Inspection machines should not contact foreign hosts: here, nothing is reported unless
the user has opted in by ``opt_in_out --opt_in``.
"""

from collections.abc import Callable

from .patching import wrap

__all__ = ["report_only_if_asked"]


def report_only_if_asked() -> None:
    """Let OpenVINO and NNCF take no answer for a no."""
    wrap(
        "openvino_telemetry.utils.opt_in_checker",
        "OptInChecker.check",
        _check,
        otherwise="OpenVINO may report its use, unless opt_in_out --opt_out forbids it",
    )


def _check(check: Callable[..., object], _: object, args: tuple, kwargs: dict) -> object:
    from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult

    result = check(*args, **kwargs)
    return ConsentCheckResult.DECLINED if result == ConsentCheckResult.NO_FILE else result
