"""Settings of the trainer that a command line or a YAML file may give: plain values, which create no classes."""

from jsonargparse.typing import restricted_string_type

__all__ = ["PlainSettings"]

# jsonargparse would take a mapping that fits nothing else as text.
Text = restricted_string_type("Text", r"[^{}]*", docstring="Text without braces.")

PlainSettings = dict[str, bool | int | float | Text | list[int] | list[Text] | None]  # type: ignore[valid-type]
"""Type of such settings. With ``Any``, jsonargparse would instantiate any class that a file names."""
