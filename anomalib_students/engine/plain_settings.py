"""Settings of the trainer that a command line or a YAML file may give: plain values, from which no class is made."""

from jsonargparse.typing import restricted_string_type

__all__ = ["PlainSettings"]

# jsonargparse takes a mapping that fits nothing else for the text of it.
Text = restricted_string_type("Text", r"[^{}]*", docstring="Text without braces.")

PlainSettings = dict[str, bool | int | float | Text | list[int] | list[Text] | None]  # type: ignore[valid-type]
"""Type of such settings. Of ``Any``, jsonargparse would instantiate whatever class a file names."""
