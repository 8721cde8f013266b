from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import anomalib_students.teacher
from anomalib_students.networks.patch_network import PatchNetwork
from anomalib_students.networks.weights import BUNDLED, load_teacher, read_metadata, save_teacher, teacher_path

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture
def network():
    return PatchNetwork(patch_size=17, descriptor_dim=4)


@pytest.fixture
def teacher(network, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_teacher(network, path, {"source": "resnet18", "held_out_r2": "0.5"})
    return path


def assert_one_line(error):
    assert "\n" not in str(error.value)


class TestRoundTrip:
    def test_weights_come_back_rounded_to_half_precision(self, network, teacher):
        loaded = load_teacher(teacher, patch_size=17, descriptor_dim=4)
        state = network.state_dict()
        assert loaded.state_dict().keys() == state.keys()
        for name, weight in loaded.state_dict().items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, state[name].half().float())

    def test_the_file_holds_half_precision(self, network, teacher):
        assert {weight.dtype for weight in load_file(teacher).values()} == {torch.float16}
        n_weights = sum(weight.numel() for weight in network.parameters())
        assert teacher.stat().st_size < 2 * n_weights + 4096

    def test_metadata_tell_size_dimension_and_what_was_given(self, teacher):
        assert read_metadata(teacher) == {
            "patch_size": "17",
            "descriptor_dim": "4",
            "architecture": "paper",
            "teacher_format": "1",
            "source": "resnet18",
            "held_out_r2": "0.5",
        }

    def test_metadata_can_not_belie_the_network(self, network, tmp_path):
        path = tmp_path / "teacher.safetensors"
        save_teacher(network, path, {"patch_size": "65", "descriptor_dim": "512"})
        expected = {"patch_size": "17", "descriptor_dim": "4", "architecture": "paper", "teacher_format": "1"}
        assert read_metadata(path) == expected

    def test_a_loaded_teacher_is_frozen_and_in_evaluation_mode(self, teacher):
        loaded = load_teacher(teacher, patch_size=17, descriptor_dim=4)
        assert not loaded.training
        assert not any(weight.requires_grad for weight in loaded.parameters())

    def test_a_missing_folder_is_made(self, network, tmp_path):
        path = tmp_path / "new" / "folder" / "p17.safetensors"
        save_teacher(network, path, {})
        load_teacher(path, patch_size=17, descriptor_dim=4)

    def test_a_saved_network_describes_as_before(self, network, tmp_path):
        save_teacher(network, tmp_path / "teacher.safetensors", {})
        loaded = load_teacher(tmp_path / "teacher.safetensors", patch_size=17, descriptor_dim=4)
        patches = torch.randn(2, 3, 17, 17)
        torch.testing.assert_close(loaded(patches), network(patches), rtol=0, atol=1e-2)


class TestLoading:
    def test_a_missing_file_is_told(self, tmp_path):
        path = tmp_path / "none.safetensors"
        for read in (read_metadata, lambda path: load_teacher(path, 17, 4)):
            with pytest.raises(FileNotFoundError, match=r"teacher file does not exist: .*none\.safetensors") as error:
                read(path)
            assert_one_line(error)

    @pytest.mark.parametrize("kept", [0, 5, 100, -1])
    def test_a_truncated_file_is_told(self, teacher, kept):
        teacher.write_bytes(teacher.read_bytes()[:kept])
        with pytest.raises(ValueError, match="is not a teacher file, or is damaged") as error:
            load_teacher(teacher, 17, 4)
        assert_one_line(error)

    def test_a_teacher_of_another_patch_size_is_told(self, teacher):
        with pytest.raises(ValueError, match="has patch_size 17, but patch_size 33 is needed"):
            load_teacher(teacher, patch_size=33, descriptor_dim=4)

    def test_a_teacher_of_another_descriptor_dimension_is_told(self, teacher):
        with pytest.raises(ValueError, match="has descriptor_dim 4, but descriptor_dim 128 is needed"):
            load_teacher(teacher, patch_size=17, descriptor_dim=128)

    def test_a_teacher_of_another_architecture_is_told(self, teacher):
        # A file that does not name its architecture is of the first version, which had the paper's alone.
        metadata = {name: value for name, value in read_metadata(teacher).items() if name != "architecture"}
        save_file(load_file(teacher), teacher, metadata=metadata)
        assert read_metadata(teacher)["architecture"] == "paper"
        with pytest.raises(ValueError, match="has architecture paper, but architecture light is needed"):
            load_teacher(teacher, 17, 4, architecture="light")

    def test_metadata_that_belie_the_weights_are_told(self, teacher):
        save_file(load_file(teacher), teacher, metadata={"patch_size": "33", "descriptor_dim": "4"})
        with pytest.raises(ValueError, match="does not have the weights of a patch network with patch_size 33"):
            load_teacher(teacher, patch_size=33, descriptor_dim=4)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_are_told(self, teacher, value):
        state = load_file(teacher)
        state["convolutions.1.bias"][0] = value
        save_file(state, teacher, metadata=read_metadata(teacher))
        with pytest.raises(ValueError, match="has weights that are not finite"):
            load_teacher(teacher, patch_size=17, descriptor_dim=4)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"patch_size": "17"}])
    def test_a_safetensors_file_that_is_no_teacher_is_told(self, tmp_path, metadata):
        path = tmp_path / "other.safetensors"
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="is not a teacher file: its metadata lack") as error:
            load_teacher(path, 17, 4)
        assert_one_line(error)


class TestSaving:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
    def test_weights_that_are_not_finite_in_half_precision_are_not_written(self, network, teacher, value):
        before = teacher.read_bytes()
        with torch.no_grad():
            network.convolutions[0].weight[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="weights are not finite"):
            save_teacher(network, teacher, {})
        with pytest.raises(ValueError, match="weights are not finite"):
            save_teacher(network, teacher.with_name("new.safetensors"), {})
        assert teacher.read_bytes() == before
        assert list(teacher.parent.iterdir()) == [teacher]

    def test_an_older_file_is_replaced(self, network, teacher):
        before = teacher.read_bytes()
        torch.nn.init.zeros_(network.convolutions[0].weight)
        save_teacher(network, teacher, {})
        assert teacher.read_bytes() != before
        assert not load_teacher(teacher, 17, 4).convolutions[0].weight.any()
        assert list(teacher.parent.iterdir()) == [teacher]


class TestPath:
    def test_a_path_is_that_of_the_file(self, tmp_path):
        assert teacher_path(str(tmp_path / "teacher.safetensors"), 33) == tmp_path / "teacher.safetensors"

    def test_a_mapping_may_have_its_keys_as_strings(self, tmp_path):
        assert teacher_path({"33": tmp_path / "teacher.safetensors"}, 33) == tmp_path / "teacher.safetensors"

    @pytest.mark.parametrize(("architecture", "prefix"), [("paper", ""), ("light", "light_")])
    @pytest.mark.parametrize("patch_size", [17, 33, 65])
    def test_a_bundled_teacher_lies_in_the_package(self, patch_size, architecture, prefix):
        path = teacher_path(BUNDLED, patch_size, architecture)
        assert path.name == f"{prefix}p{patch_size}.safetensors"
        assert path.parent.parent == Path(anomalib_students.teacher.__file__).parent
        assert read_metadata(path)["architecture"] == architecture

    def test_a_mapping_gives_each_patch_size_its_own(self, tmp_path):
        teachers = {17: tmp_path / "small.safetensors", 65: BUNDLED}
        assert teacher_path(teachers, 17) == tmp_path / "small.safetensors"
        assert teacher_path(teachers, 65) == teacher_path(BUNDLED, 65)

    def test_a_mapping_without_the_patch_size_is_told(self):
        with pytest.raises(ValueError, match=r"No teacher is given for patch size 33, only for \[17, 65\]"):
            teacher_path({65: BUNDLED, 17: BUNDLED}, 33)
