"""Teacher files come from elsewhere: what is wrong with one is said when it is loaded."""

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from anomalib_students.cli import main
from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.weights import load_teacher, read_metadata

pytestmark = pytest.mark.usefixtures("narrow_networks")

METADATA = {"patch_size": "17", "descriptor_dim": "4"}


@pytest.fixture
def crafted(tmp_path):
    """Write a teacher file: the weights of a network, changed by a function, and its metadata."""

    def crafted(change=lambda state: state, **metadata):
        state = PatchNetwork(patch_size=17, descriptor_dim=4).state_dict()
        path = tmp_path / "crafted.safetensors"
        changed = {name: weight.contiguous() for name, weight in change(state).items()}
        save_file(changed, path, metadata={**METADATA, **metadata})
        return path

    return crafted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_weights_are_loaded_in_float32(crafted, dtype):
    path = crafted(lambda state: {name: weight.to(dtype) for name, weight in state.items()})
    network = load_teacher(path, patch_size=17, descriptor_dim=4)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert network(torch.zeros(1, 3, 17, 17)).isfinite().all()


@pytest.mark.parametrize(
    "dtype",
    [torch.complex64, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_weights_of_another_type_are_refused_by_name(crafted, dtype):
    if dtype not in safetensors.torch._SIZE:
        pytest.skip("this version of safetensors writes no such file")
    path = crafted(lambda state: {name: weight.to(dtype) for name, weight in state.items()})
    with pytest.raises(ValueError, match=r"crafted\.safetensors has the weight convolutions\.\S+ in \w+: only"):
        load_teacher(path, patch_size=17, descriptor_dim=4)


@pytest.mark.parametrize(("value", "dtype"), [(1e300, torch.float64), (float("nan"), torch.float64)])
def test_weights_that_are_not_finite_in_float32_are_refused(crafted, value, dtype):
    def change(state):
        state = {name: weight.to(dtype) for name, weight in state.items()}
        state["convolutions.0.bias"][0] = value
        return state

    with pytest.raises(ValueError, match="has weights that are not finite"):
        load_teacher(crafted(change), patch_size=17, descriptor_dim=4)


def test_weights_whose_descriptors_overflow_are_refused(crafted):
    """They are finite, but what they give is not: the training would be said to diverge."""
    path = crafted(lambda state: {name: torch.full_like(weight, 1e30) for name, weight in state.items()})
    with pytest.raises(ValueError, match="describes a patch by values that are not finite"):
        load_teacher(path, patch_size=17, descriptor_dim=4)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"data": "x" * 100_000}, "100,0.. characters"),
        ({f"entry {number}": "" for number in range(5000)}, "5,002 entries"),
        ({"data": "\x1b]0;owned\x07"}, "control characters"),
        ({"\x00": "data"}, "control characters"),
    ],
    ids=["long", "many", "escape", "zero"],
)
def test_metadata_are_bounded(crafted, metadata, reason):
    path = crafted(**metadata)
    for read in (read_metadata, lambda path: load_teacher(path, 17, 4)):
        with pytest.raises(ValueError, match=rf"crafted\.safetensors has metadata .*{reason}") as error:
            read(path)
        assert len(str(error.value)) < 500


def test_many_foreign_weights_are_one_short_error(crafted):
    path = crafted(lambda state: state | {f"{number}" * 50: torch.zeros(1) for number in range(2000)})
    with pytest.raises(ValueError, match="does not have the weights of a patch network") as error:
        load_teacher(path, 17, 4)
    assert len(str(error.value)) < 500


def test_metadata_are_shown_as_they_are(crafted, capsys):
    """Square brackets would be the markup of the library that draws the table."""
    main(["teachers", "--file", str(crafted(data="[red]parts[/red] [/]"))])
    assert "[red]parts[/red] [/]" in capsys.readouterr().out


def test_metadata_that_could_not_be_read_are_refused_before_the_training(photographs, tmp_path):
    arguments = ["--images", str(photographs), "--output", str(tmp_path / "t.safetensors"), "--licences", "\x1b[2J"]
    with pytest.raises(SystemExit, match="The teacher to be written has metadata with control characters"):
        main(["pretrain", *arguments])
