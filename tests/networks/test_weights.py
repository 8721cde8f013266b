"""Teacher files: what is written is read again, and what is wrong with one from elsewhere is said when it is loaded."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

import anomalib_students.teacher
from anomalib_students.cli import main
from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.weights import BUNDLED, load_teacher, read_metadata, save_teacher, teacher_path

pytestmark = pytest.mark.usefixtures("narrow_networks")

METADATA = {"patch_size": "17", "descriptor_dim": "4"}


@pytest.fixture
def network():
    return PatchNetwork(patch_size=17, descriptor_dim=4)


@pytest.fixture
def teacher(network, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_teacher(network, path, {"source": "resnet18", "held_out_r2": "0.5"})
    return path


@pytest.fixture
def crafted(network, tmp_path):
    """Write a teacher file: the weights of a network, changed by a function, and its metadata."""

    def crafted(change=lambda state: state, **metadata):
        path = tmp_path / "crafted.safetensors"
        changed = {name: weight.contiguous() for name, weight in change(network.state_dict()).items()}
        save_file(changed, path, metadata={**METADATA, **metadata})
        return path

    return crafted


def refused(path, message, patch_size=17, descriptor_dim=4, architecture="paper"):
    """A teacher is refused in one short line."""
    with pytest.raises(ValueError, match=message) as error:
        load_teacher(path, patch_size, descriptor_dim, architecture)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


class TestRoundTrip:
    def test_weights_come_back_rounded_to_half_precision_and_frozen(self, network, teacher):
        assert {weight.dtype for weight in load_file(teacher).values()} == {torch.float16}
        loaded, state = load_teacher(teacher, patch_size=17, descriptor_dim=4), network.state_dict()
        assert loaded.state_dict().keys() == state.keys()
        for name, weight in loaded.state_dict().items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, state[name].half().float())
        assert not any(weight.requires_grad for weight in loaded.parameters())

    def test_metadata_tell_the_network_and_what_was_given_but_do_not_belie_it(self, network, tmp_path):
        path = tmp_path / "new" / "folder" / "teacher.safetensors"
        save_teacher(network, path, {"patch_size": "65", "descriptor_dim": "512", "source": "resnet18"})
        expected = {**METADATA, "architecture": "paper", "teacher_format": "1", "source": "resnet18"}
        assert read_metadata(path) == expected

    def test_an_older_file_is_replaced(self, network, teacher):
        torch.nn.init.zeros_(network.convolutions[0].weight)
        save_teacher(network, teacher, {})
        assert not load_teacher(teacher, 17, 4).convolutions[0].weight.any()
        assert list(teacher.parent.iterdir()) == [teacher]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
    def test_weights_that_are_not_finite_in_half_precision_are_not_written(self, network, teacher, value):
        before = teacher.read_bytes()
        with torch.no_grad():
            network.convolutions[0].weight[0, 0, 0, 0] = value
        for path in (teacher, teacher.with_name("new.safetensors")):
            with pytest.raises(ValueError, match="weights are not finite"):
                save_teacher(network, path, {})
        assert teacher.read_bytes() == before
        assert list(teacher.parent.iterdir()) == [teacher]


class TestLoading:
    def test_a_missing_file_is_told(self, tmp_path):
        for read in (read_metadata, lambda path: load_teacher(path, 17, 4)):
            with pytest.raises(FileNotFoundError, match=r"teacher file does not exist: .*none\.safetensors"):
                read(tmp_path / "none.safetensors")

    @pytest.mark.parametrize("kept", [0, 5, 100, -1])
    def test_a_truncated_file_is_told(self, teacher, kept):
        teacher.write_bytes(teacher.read_bytes()[:kept])
        refused(teacher, "is not a teacher file, or is damaged")

    @pytest.mark.parametrize(
        ("needed", "message"),
        [
            ({"patch_size": 33}, "has patch_size 17, but patch_size 33 is needed"),
            ({"descriptor_dim": 128}, "has descriptor_dim 4, but descriptor_dim 128 is needed"),
            # A file that does not name its architecture is of the paper's.
            ({"architecture": "lean"}, "has architecture paper, but architecture lean is needed"),
        ],
    )
    def test_a_teacher_of_another_network_is_told(self, crafted, needed, message):
        refused(crafted(), message, **needed)

    def test_a_teacher_of_an_unknown_architecture_is_told(self, crafted):
        refused(crafted(architecture="light"), r"has architecture light, but there are only \['paper', 'lean'\]")

    def test_metadata_that_belie_the_weights_are_told(self, crafted):
        message = "lacks the weights of a network for p = 33"
        refused(crafted(patch_size="33"), message, patch_size=33)

    def test_many_foreign_weights_are_one_short_error(self, crafted):
        path = crafted(lambda state: state | {f"{number}" * 50: torch.zeros(1) for number in range(2000)})
        refused(path, "lacks the weights of a network")

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"patch_size": "17"}])
    def test_a_safetensors_file_that_is_no_teacher_is_told(self, tmp_path, metadata):
        path = tmp_path / "other.safetensors"
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        refused(path, "is not a teacher file: its metadata lack")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floating_weights_are_loaded_in_float32(self, crafted, dtype):
        path = crafted(lambda state: {name: weight.to(dtype) for name, weight in state.items()})
        network = load_teacher(path, patch_size=17, descriptor_dim=4)
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        assert network(torch.zeros(1, 3, 17, 17)).isfinite().all()

    @pytest.mark.parametrize(
        "dtype",
        [torch.complex64, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2],
        ids=str,
    )
    def test_weights_of_another_type_are_refused_by_name(self, crafted, dtype):
        if dtype not in safetensors.torch._SIZE:
            pytest.skip("this version of safetensors writes no such file")
        path = crafted(lambda state: {name: weight.to(dtype) for name, weight in state.items()})
        refused(path, r"crafted\.safetensors has convolutions\.\S+ in \w+: only")

    @pytest.mark.parametrize("value", [1e300, float("nan"), float("inf")])
    def test_weights_that_are_not_finite_in_float32_are_refused(self, crafted, value):
        def change(state):
            state = {name: weight.double() for name, weight in state.items()}
            state["convolutions.0.bias"][0] = value
            return state

        refused(crafted(change), "has weights that are not finite")

    def test_weights_whose_descriptors_overflow_are_refused(self, crafted):
        """They are finite, but what they give is not: the training would be said to diverge."""
        path = crafted(lambda state: {name: torch.full_like(weight, 1e30) for name, weight in state.items()})
        refused(path, "has weights so large that descriptors are not finite")


class TestMetadata:
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
    def test_are_bounded(self, crafted, metadata, reason):
        path = crafted(**metadata)
        refused(path, rf"crafted\.safetensors has metadata .*{reason}")
        with pytest.raises(ValueError, match=reason):
            read_metadata(path)

    def test_are_shown_as_they_are(self, crafted, capsys):
        """Square brackets would be the markup of the library that draws the table."""
        main(["teachers", "--file", str(crafted(data="[red]parts[/red] [/]"))])
        assert "[red]parts[/red] [/]" in capsys.readouterr().out

    def test_that_could_not_be_read_are_refused_before_the_training(self, photographs, tmp_path):
        arguments = ["--images", str(photographs), "--output", str(tmp_path / "t.safetensors"), "--licences", "\x1b[2J"]
        with pytest.raises(SystemExit, match="The teacher to be written has metadata with control characters"):
            main(["pretrain", *arguments])


class TestPath:
    @pytest.mark.parametrize(
        ("architecture", "patch_size", "name"),
        [
            *(("paper", size, f"p{size}") for size in (17, 33, 65)),
            *(("lean", size, "lean_p83") for size in (83, 167)),
        ],
    )
    def test_a_bundled_teacher_lies_in_the_package(self, architecture, patch_size, name):
        path = teacher_path(BUNDLED, patch_size, architecture)
        assert path.name == f"{name}.safetensors"
        assert path.parent.parent == Path(anomalib_students.teacher.__file__).parent
        assert read_metadata(path)["architecture"] == architecture

    def test_a_mapping_gives_each_patch_size_its_own(self, tmp_path):
        own = tmp_path / "small.safetensors"
        assert teacher_path(str(own), 33) == own
        # Keys on a command line are strings.
        for teachers in ({17: own, 65: BUNDLED}, {"17": str(own), "65": BUNDLED}):
            assert teacher_path(teachers, 17) == own
            assert teacher_path(teachers, 65) == teacher_path(BUNDLED, 65)
        with pytest.raises(ValueError, match=r"No teacher is given for patch size 33, only for \[17, 65\]"):
            teacher_path({65: BUNDLED, 17: BUNDLED}, 33)
