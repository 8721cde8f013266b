"""Crops and targets of distillation: computed once, resumed, and drawn in an order that follows from the seed."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_students.teacher import sources, targets
from anomalib_students.teacher.data import cut_crops, find_images
from anomalib_students.teacher.targets import DistillationData, DistilSettings, principal_components


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
    monkeypatch.setattr(targets, "CHUNK", 4)
    monkeypatch.setattr(sources, "has_bfloat16", lambda device: False)


def make_data(folder, images, source=None, **settings):
    settings = {"crop_side": 32, "components": 4, "descriptor_dim": 4, "sources": {"colours": None}, **settings}
    quiet = {"enable_progress_bar": False}
    task = DistilSettings(images=images, output=folder, results=folder, trainer_arguments=quiet, **settings)
    return DistillationData(task, {"colours": source or MeanColours()})


def write(data):
    data.write(torch.device("cpu"))
    return data


def files(data):
    paths = [*data.folder.rglob("*.npy"), *data.folder.rglob("*.safetensors")]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.parametrize("n_components", [1, 3, 5])
def test_principal_components_are_those_of_weighted_blocks_of_equal_variance(n_components):
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 5)) @ random.normal(size=(5, 5)) * [100, 100, 100, 0.01, 0.01]
    features -= features.mean(0)
    covariance = torch.from_numpy(features.T @ features / 200)
    components = features @ principal_components(covariance, [3, 2], [1.0, 0.7], n_components).double().numpy()

    blocks = (features[:, :3], features[:, 3:])
    scaled = np.concatenate([block / np.sqrt((block**2).sum(1).mean()) for block in blocks], axis=1)
    scaled[:, 3:] *= 0.7
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    variances = singular[:n_components] ** 2 / 200
    expected = scaled @ directions[:n_components].T / np.sqrt(variances + 0.1 * variances.mean())
    # The sign of a component is open.
    np.testing.assert_allclose(components * np.sign((components * expected).sum(0)), expected, atol=1e-3)


def test_features_that_do_not_vary_are_no_reason_to_fail():
    assert principal_components(torch.zeros(5, 5).double(), [3, 2], [1.0, 0.7], 5).isfinite().all()


def test_targets_are_the_whitened_components_of_the_features(photographs, tmp_path):
    data = write(make_data(tmp_path, photographs, descriptor_dim=3))
    crops, components = data.read(range(12))
    expected = [cut_crops(path, number, 2, 32, seed=0) for number, path in enumerate(find_images(photographs))]
    np.testing.assert_array_equal(crops, np.concatenate(expected))
    assert components.shape == (12, 3, 8, 8)
    assert components.dtype == torch.float16

    blocks = sources.feature_blocks([MeanColours()], crops)
    features = torch.cat(blocks, dim=1).movedim(1, -1).reshape(-1, 6).double()
    # All points of all crops are the sample here.
    features -= features.mean(dim=0)
    matrix = principal_components(features.T @ features / len(features), [3, 3], [1.0, 1.0], 4)
    whitened = (features @ matrix.double())[:, :3]
    computed = components.movedim(1, -1).reshape(-1, 3).double()
    signs = (computed * whitened).sum(dim=0).sign()
    torch.testing.assert_close(computed * signs, whitened, atol=5e-3, rtol=0)

    some_crops, some_components = data.read([9, 0, 9, 7])
    assert torch.equal(some_crops, crops[[9, 0, 9, 7]])
    assert torch.equal(some_components, components[[9, 0, 9, 7]])


def test_what_is_there_is_not_computed_again(photographs, tmp_path):
    before = files(write(make_data(tmp_path, photographs)))
    source = MeanColours()
    assert files(write(make_data(tmp_path, photographs, source))) == before
    assert source.seen == 0


def test_an_interrupted_computation_is_resumed(photographs, tmp_path):
    class Failing(MeanColours):
        def forward(self, images):
            # Twelve crops for the principal components, and the four photographs of the first chunk.
            if self.seen >= 20:
                raise RuntimeError("power cut")
            return super().forward(images)

    data = make_data(tmp_path / "a", photographs, Failing())
    with pytest.raises(RuntimeError, match="power cut"):
        write(data)
    assert [path.name for path in (data.folder / "targets").iterdir()] == ["00000.npy"]
    before = files(data)
    source = MeanColours()
    resumed = write(make_data(tmp_path / "a", photographs, source))
    assert source.seen == 4
    assert before.items() <= files(resumed).items()
    whole = write(make_data(tmp_path / "b", photographs))
    for values, expected in zip(resumed.read(range(12)), whole.read(range(12)), strict=True):
        assert torch.equal(values, expected)


def test_each_setting_has_a_folder_of_its_own(photographs, tmp_path):
    other_photographs = shutil.copytree(photographs, tmp_path / "others")
    Image.new("RGB", (40, 40)).save(other_photographs / "0.png")
    other_source = MeanColours()
    other_source.factor.fill_(2)
    names = [
        make_data(tmp_path, photographs).folder.name,
        make_data(tmp_path, other_photographs).folder.name,
        make_data(tmp_path, photographs, other_source).folder.name,
        *(make_data(tmp_path, photographs, **change).folder.name for change in ({"seed": 1}, {"crops": 3})),
    ]
    assert len(set(names)) == len(names)
    assert make_data(tmp_path, shutil.copytree(photographs, tmp_path / "moved")).folder.name == names[0]


def test_there_are_no_more_components_than_features(photographs, tmp_path):
    assert make_data(tmp_path, photographs, components=192).n_components == 6


def test_a_damaged_photograph_is_found_before_any_feature_is_computed(photographs, tmp_path):
    damaged = shutil.copytree(photographs, tmp_path / "damaged")
    (damaged / "5.png").write_text("no image")
    source = MeanColours()
    with pytest.raises(ValueError, match=r"Cannot read .*5\.png as an image"):
        write(make_data(tmp_path, damaged, source))
    assert source.seen == 0


class TestOrder:
    @pytest.fixture
    def data(self, photographs, tmp_path):
        """Crops that hold their own number, and in the last column another value."""

        def read(indices):
            crops = torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)
            crops[:] = torch.tensor(indices)[:, None, None, None]
            crops[..., -1] = 255
            return crops, (crops[..., ::4, 3::4] == 255).half()

        def data(**settings):
            data = make_data(tmp_path, photographs, crops=3, **settings)
            data.read = read
            return data

        return data

    def numbers(self, data, batches):
        return torch.cat([data.draw(number)[0] for number in batches])[:, 0, 0, 4].tolist()

    def test_each_crop_is_drawn_once_before_any_is_drawn_again(self, data):
        """And none of the photograph that is held out."""
        data = data(batch_size=5)
        assert data.held_out == [0, 1, 2]
        for epoch in range(3):
            assert sorted(self.numbers(data, range(3 * epoch, 3 * epoch + 3))) == list(range(3, 18))
        assert self.numbers(data, range(3)) != self.numbers(data, range(3, 6))

    def test_a_batch_follows_from_seed_and_number(self, data):
        assert self.numbers(data(), [7]) == self.numbers(data(), range(8))[-4:]
        assert self.numbers(data(seed=1), [7]) != self.numbers(data(), [7])

    def test_crops_and_targets_are_flipped_together(self, data):
        data = data()
        crops, seen = (torch.cat(values) for values in zip(*(data.draw(number) for number in range(40)), strict=True))
        flipped = crops[:, 0, 0, 0] == 255
        assert torch.equal(seen[:, 0, 0, 0] == 1, flipped)
        assert 0.3 < flipped.float().mean() < 0.7

    def test_two_processes_draw_the_shares_of_one_batch(self, data):
        shares = [data(batch_size=2).draw(3, rank=rank, world_size=2) for rank in range(2)]
        for values, expected in zip(zip(*shares, strict=True), data().draw(3), strict=True):
            assert torch.equal(torch.cat(values), expected)

    def test_fewer_crops_than_a_batch_are_repeated(self, data):
        np.testing.assert_array_equal(np.bincount(self.numbers(data(batch_size=30), [0]))[3:], 2)
