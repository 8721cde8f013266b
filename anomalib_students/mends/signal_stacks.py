"""Stacks that signals are handled on, after OpenVINO.

The CPU plugin of OpenVINO 2026.4 has the thread that loads it handle signals on a stack of the plugin's own. When the
plugin is unloaded, it puts back the stack that was there before. If two ``Core`` objects are deleted in the order in
which they were made, that is the stack of the first, which is gone, and the thread crashes at its next signal, such as
the end of a data loader's worker.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

from .patching import wrap

if TYPE_CHECKING:
    import openvino

__all__ = ["keep_signal_stacks"]


def keep_signal_stacks() -> None:
    """Let each ``Core`` load the plugin in a thread that ends at once, and so keep the stacks of all others."""
    wrap(
        "openvino",
        "Core.__init__",
        _load_elsewhere,
        otherwise="a program that has deleted two Core objects may crash at the next signal",
    )


def _load_elsewhere(init: Callable[..., None], core: "openvino.Core", args: tuple, kwargs: dict) -> None:
    init(*args, **kwargs)
    thread = Thread(target=_load_plugin, args=(core,))
    thread.start()
    thread.join()


def _load_plugin(core: "openvino.Core") -> None:
    # If there is no plugin for CPUs, none changes the stack.
    with suppress(RuntimeError):
        core.get_property("CPU", "FULL_DEVICE_NAME")
