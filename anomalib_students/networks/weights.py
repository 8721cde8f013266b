"""Teacher files: the weights of a patch network as safetensors, with metadata of their origin."""

from collections.abc import Mapping
from importlib.resources import files
from itertools import chain
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from anomalib_students.files import check_format, replace_file
from anomalib_students.networks.lean import make_network, seen_patch_size
from anomalib_students.networks.patch_network import PATCH_SIZES, PatchNetwork

BUNDLED = "bundled"  # Name that stands for the teachers that come with the package.
TEACHER_FORMAT = 1  # Format of the teacher files that this version writes.

DTYPES = ("F16", "BF16", "F32", "F64")
"""Types of weights, in the words of safetensors: the others lose some of what they hold in float32."""
MAX_ENTRIES = 100  # Most entries that the metadata of a teacher file may have. Ours have 18.
MAX_CHARACTERS = 16_384  # Most characters that the metadata of a teacher file may have in total. Ours have 316.
MAX_REASON = 200  # Most characters of torch's message about weights that do not fit.

Teachers = str | Path | Mapping[int, str | Path]


def teacher_path(teacher: Teachers, patch_size: int, architecture: str = "paper") -> Path:
    """Find the file of the teacher for a patch size.

    Args:
        teacher: ``"bundled"``, the path of a teacher file, or a mapping from patch size to either.
        patch_size: Side p of the patch in pixels.
        architecture: Architecture of the bundled teacher.

    Returns:
        Path of the teacher's file, which need not exist.

    Raises:
        ValueError: If a mapping has no entry for ``patch_size``.
    """
    if isinstance(teacher, Mapping):
        # The keys of a mapping on the command line or in a JSON file are strings.
        teachers = {int(size): path for size, path in teacher.items()}
        if patch_size not in teachers:
            raise ValueError(f"No teacher is given for patch size {patch_size}, only for {sorted(teachers)}.")
        return teacher_path(teachers[patch_size], patch_size, architecture)
    if str(teacher) == BUNDLED:
        size = seen_patch_size(patch_size)
        name = f"p{size}" if architecture == "paper" else f"{architecture}_p{size}"
        return Path(str(files("anomalib_students.teacher") / "weights" / f"{name}.safetensors"))
    return Path(teacher)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a teacher file: the settings of the network and of its training, and the format.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a teacher file, or is of a newer format.
    """
    return _read(path)[0]


def load_teacher(path: str | Path, patch_size: int, descriptor_dim: int, architecture: str = "paper") -> PatchNetwork:
    """Load a teacher.

    Args:
        path: Path of a teacher file.
        patch_size: Side p of the patch that the teacher must describe.
        descriptor_dim: Dimension d that its descriptors must have.
        architecture: Architecture that it must have.

    Returns:
        The patch network in float32, frozen. It computes the same in training and in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is no teacher file, is of a newer format, or holds a teacher of another p,
            d or architecture; or if its weights are not floating-point numbers, or not finite in float32, or give
            descriptors that are not finite.
    """
    metadata, state = _read(path)
    if metadata["architecture"] not in PATCH_SIZES:
        msg = f"The teacher {path} has architecture {metadata['architecture']}, but there are only {[*PATCH_SIZES]}."
        raise ValueError(msg)
    patch_size = seen_patch_size(patch_size)
    needed = {"patch_size": patch_size, "descriptor_dim": descriptor_dim, "architecture": architecture}
    for name, expected in needed.items():
        if metadata[name] != str(expected):
            raise ValueError(f"The teacher {path} has {name} {metadata[name]}, but {name} {expected} is needed.")
    # Weights that are replaced need not be drawn, nor change the random numbers after them.
    with torch.device("meta"):
        network = make_network(patch_size, descriptor_dim, architecture)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = shorten(str(error), MAX_REASON)
        raise ValueError(f"The teacher {path} lacks the weights of a network for p = {patch_size}: {reason}") from error
    if not all(weight.isfinite().all() for weight in state.values()):
        raise ValueError(f"The teacher {path} has weights that are not finite.")
    with torch.no_grad():
        patch = torch.linspace(-2, 2, 3 * patch_size**2).view(1, 3, patch_size, patch_size)
        if not network(patch).isfinite().all():
            raise ValueError(f"The teacher {path} has weights so large that descriptors are not finite.")
    return network.to(memory_format=torch.channels_last).requires_grad_(requires_grad=False)


def save_teacher(network: PatchNetwork, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a teacher file in float16, whole or not at all.

    Args:
        network: Patch network.
        path: Path of the file. An older file of that name is replaced.
        metadata: Metadata of the pretraining; p, d, the architecture and the format are added.

    Raises:
        ValueError: If the weights are not finite in float16.
        OSError: If the file cannot be written.
    """
    state = {
        name: weight.detach().cpu().to(torch.float16).contiguous() for name, weight in network.state_dict().items()
    }
    if not all(weight.isfinite().all() for weight in state.values()):
        raise ValueError("The teacher's weights are not finite: its pretraining diverged. Nothing was written.")
    description = {
        **metadata,
        "teacher_format": str(TEACHER_FORMAT),
        "patch_size": str(network.patch_size),
        "descriptor_dim": str(network.descriptor_dim),
        "architecture": network.architecture,
    }
    replace_file(path, save(state, metadata=description))


def check_metadata(metadata: Mapping[str, str], what: str) -> None:
    """Raise a ``ValueError`` if metadata are too long, or have control characters; ``what`` has them, for the error."""
    text = "".join(chain.from_iterable(metadata.items()))
    if len(metadata) > MAX_ENTRIES or len(text) > MAX_CHARACTERS:
        msg = (
            f"{what} has metadata of {len(metadata):,} entries and {len(text):,} characters: at most {MAX_ENTRIES} "
            f"and {MAX_CHARACTERS:,} are taken."
        )
        raise ValueError(msg)
    if not all(character.isprintable() or character in "\n\t" for character in text):
        raise ValueError(f"{what} has metadata with control characters.")


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not Path(path).is_file():
        advice = "Use teacher='bundled', or pretrain one with `anomalib-students pretrain`."
        raise FileNotFoundError(f"The teacher file does not exist: {path}. {advice}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            check_metadata(metadata, f"The teacher {path}")
            check_format(metadata.get("teacher_format", "1"), TEACHER_FORMAT, f"The teacher {path}")
            names = list(file.keys())
            for name in names:
                dtype = file.get_slice(name).get_dtype()
                if dtype not in DTYPES:
                    taken = ", ".join(DTYPES)
                    raise ValueError(f"The teacher {path} has {name[:MAX_REASON]} in {dtype}: only {taken} are taken.")
            # A value that is finite in float64 need not be in float32, in which it is used.
            state = {name: file.get_tensor(name).float() for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a teacher file, or is damaged: {error}") from error
    if not {"patch_size", "descriptor_dim"} <= metadata.keys():
        raise ValueError(f"{path} is not a teacher file: its metadata lack patch_size and descriptor_dim.")
    # Files of the first version do not name it.
    return {"architecture": "paper", **metadata}, state
