"""Whether a job that goes on has the settings that it began with."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["check_unchanged"]


def check_unchanged(before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings, whose results would be mixed with those that are there.

    Args:
        before: Settings that the job began with, as read from JSON.
        settings: Settings that it is to go on with; what JSON does not know, such as paths, counts as its text.

    Raises:
        ValueError: If they differ.
    """
    now = json.loads(json.dumps(settings, default=str))
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        told = ", ".join(f"{name}={before.get(name)}" for name in changed)
        msg = f"The job to be resumed had other settings: {told}. Resume it with these, or choose another name."
        raise ValueError(msg)
