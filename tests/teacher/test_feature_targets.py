import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_students.teacher import feature_source, feature_targets
from anomalib_students.teacher.crops import cut_crops
from anomalib_students.teacher.feature_targets import FeatureTargets
from anomalib_students.teacher.images import find_images


class MeanColours(torch.nn.Module):
    """A source whose features are the mean colours of squares of pixels."""

    channels = (3, 3)

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(()))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return [self.factor * torch.nn.functional.avg_pool2d(images, stride) for stride in (8, 16)]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(feature_targets, "PART", 4)
    monkeypatch.setattr(feature_source, "has_bfloat16", lambda device: False)


def make_targets(folder, images, source=None, **settings):
    sources = {"colours": source or MeanColours()}
    return FeatureTargets(folder, images, sources, {"colours": 1.0}, **{"side": 32, "n_components": 4, **settings})


def write(targets):
    targets.write(torch.device("cpu"), progress=False)
    return targets


def files(targets):
    paths = [*targets.folder.rglob("*.npy"), *targets.folder.rglob("*.safetensors")]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_targets_are_the_whitened_components_of_the_features(photographs, tmp_path):
    targets = write(make_targets(tmp_path, photographs))
    assert len(targets) == 12
    crops, components = targets.read(range(12), dim=3)
    expected = [cut_crops(path, number, 2, 32, seed=0) for number, path in enumerate(find_images(photographs))]
    np.testing.assert_array_equal(crops, np.concatenate(expected))
    assert components.shape == (12, 3, 8, 8)
    assert components.dtype == torch.float16

    blocks = feature_source.feature_blocks([MeanColours()], crops)
    scaled = []
    for block in blocks:
        vectors = block.movedim(1, -1).reshape(-1, 3).double().numpy()
        centred = vectors - vectors.mean(0)
        scaled.append(centred / np.sqrt((centred**2).sum(1).mean()))
    scaled = np.concatenate(scaled, axis=1)
    # All points of all crops are the sample here.
    variances, directions = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    variances, directions = variances[::-1][:4], directions[:, ::-1][:, :4]
    whitened = (scaled @ directions / np.sqrt(variances + 0.1 * variances.mean()))[:, :3]
    computed = components.movedim(1, -1).reshape(-1, 3).double().numpy()
    signs = np.sign((computed * whitened).sum(0))
    np.testing.assert_allclose(computed * signs, whitened, atol=5e-3)


def test_crops_are_read_in_any_order(photographs, tmp_path):
    targets = write(make_targets(tmp_path, photographs))
    crops, components = targets.read(range(12), dim=4)
    some_crops, some_components = targets.read([9, 0, 9, 7], dim=4)
    assert torch.equal(some_crops, crops[[9, 0, 9, 7]])
    assert torch.equal(some_components, components[[9, 0, 9, 7]])


def test_what_is_there_is_not_computed_again(photographs, tmp_path):
    before = files(write(make_targets(tmp_path, photographs)))
    source = MeanColours()
    assert files(write(make_targets(tmp_path, photographs, source))) == before
    assert source.seen == 0


def test_an_interrupted_computation_is_resumed(photographs, tmp_path):
    class Failing(MeanColours):
        def forward(self, images):
            # Twelve crops for the principal components, and the four photographs of the first part.
            if self.seen >= 20:
                raise RuntimeError("power cut")
            return super().forward(images)

    targets = make_targets(tmp_path / "a", photographs, Failing())
    with pytest.raises(RuntimeError, match="power cut"):
        write(targets)
    assert [path.name for path in (targets.folder / "targets").iterdir()] == ["00000.npy"]
    before = files(targets)
    source = MeanColours()
    resumed = write(make_targets(tmp_path / "a", photographs, source))
    assert source.seen == 4
    assert before.items() <= files(resumed).items()
    whole = write(make_targets(tmp_path / "b", photographs))
    for part, expected in zip(resumed.read(range(12), 4), whole.read(range(12), 4), strict=True):
        assert torch.equal(part, expected)


def test_each_setting_has_a_folder_of_its_own(photographs, tmp_path):
    other_photographs = shutil.copytree(photographs, tmp_path / "others")
    Image.new("RGB", (40, 40)).save(other_photographs / "0.png")
    other_source = MeanColours()
    other_source.factor.fill_(2)
    names = [
        make_targets(tmp_path, photographs).name,
        make_targets(tmp_path, other_photographs).name,
        make_targets(tmp_path, photographs, other_source).name,
        *(make_targets(tmp_path, photographs, **change).name for change in ({"seed": 1}, {"crops": 3}, {"side": 40})),
    ]
    assert len(set(names)) == len(names)
    assert make_targets(tmp_path, shutil.copytree(photographs, tmp_path / "moved")).name == names[0]


def test_there_are_no_more_components_than_features(photographs, tmp_path):
    assert make_targets(tmp_path, photographs, n_components=192).n_components == 6


def test_a_damaged_photograph_is_found_before_any_feature_is_computed(photographs, tmp_path):
    damaged = shutil.copytree(photographs, tmp_path / "damaged")
    (damaged / "5.png").write_text("no image")
    source = MeanColours()
    with pytest.raises(ValueError, match=r"Cannot read .*5\.png as an image"):
        write(make_targets(tmp_path, damaged, source))
    assert source.seen == 0


def test_a_disk_that_is_too_small_is_refused(photographs, tmp_path, monkeypatch):
    targets = make_targets(tmp_path, photographs)
    targets.check_space()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(OSError, match=r"need 0.0 GB, but .* has 0.0 GB left: take fewer photographs"):
        targets.check_space()
    write(targets)
    targets.check_space()
