import pytest
import torch

from reproduction.baselines.ssim_autoencoder.similarity import structural_similarity
from reproduction.baselines.ssim_autoencoder.torch_model import SSIMAutoencoderModel

# See test_similarity.py.
ROUNDING = 5e-4

GREY = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
"""Weights of ITU-R 601."""


def make_model(**arguments):
    return SSIMAutoencoderModel(patch_size=128, latent_dim=8, **arguments).eval()


def dissimilarity(model, patches):
    with torch.no_grad():
        return 1 - structural_similarity(model.autoencoder(patches), patches, 1e-4, 9e-4)


def test_map_is_one_minus_the_similarity_of_the_reconstruction():
    model = make_model()
    images = torch.rand(2, 3, 128, 128)
    predictions = model(images)
    grey = (images * GREY).sum(dim=1, keepdim=True)
    torch.testing.assert_close(predictions.anomaly_map, dissimilarity(model, grey), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(predictions.pred_score, predictions.anomaly_map.amax(dim=(1, 2, 3)))


def test_larger_images_have_the_mean_of_their_patches():
    model = make_model(patch_stride=30)
    images = torch.rand(1, 3, 165, 140)
    anomaly_map = model(images).anomaly_map[0, 0]
    assert anomaly_map.shape == (165, 140)
    grey = (images * GREY).sum(dim=1, keepdim=True)
    # The last patches end with the image.
    patches = {
        (top, left): dissimilarity(model, grey[..., top : top + 128, left : left + 128])[0, 0]
        for top in (0, 30, 37)
        for left in (0, 12)
    }
    for row, column in ((0, 0), (5, 20), (35, 139), (80, 64), (129, 3), (164, 139)):
        values = [
            patch[row - top, column - left]
            for (top, left), patch in patches.items()
            if 0 <= row - top < 128 and 0 <= column - left < 128
        ]
        torch.testing.assert_close(anomaly_map[row, column], torch.stack(values).mean(), rtol=0, atol=ROUNDING)


def test_loss_is_the_mean_dissimilarity_and_reaches_all_weights():
    model = make_model()
    images = torch.rand(2, 3, 128, 128)
    expected = model(images).anomaly_map.mean()
    loss = model.train()(images)
    torch.testing.assert_close(loss.detach(), expected, rtol=0, atol=ROUNDING)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_training_crops_each_image_by_itself():
    model = make_model().train()
    seen = []
    model.autoencoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    # Each pixel names its row.
    images = (torch.arange(400.0) / 400).view(-1, 1).expand(4, 3, 400, 128)
    model(images)
    assert seen[0].shape == (4, 1, 128, 128)
    assert len(seen[0][:, 0, 0, 0].unique()) > 1


def test_training_lowers_the_loss():
    model = make_model().train()
    rows = torch.arange(128.0).view(-1, 1)
    images = torch.stack([0.5 + 0.4 * torch.sin(rows / 8 + phase).expand(3, 128, 128) for phase in range(2)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(images)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_exported_program_gives_the_same_map_for_any_number_of_images():
    model = make_model()
    images = torch.rand(3, 3, 140, 128)
    program = torch.export.export(
        model, (torch.rand(2, 3, 140, 128),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.testing.assert_close(program.module()(images).anomaly_map, model(images).anomaly_map, rtol=0, atol=ROUNDING)


def test_images_smaller_than_a_patch_are_one_clear_error():
    with pytest.raises(ValueError, match="128 x 96 pixels are smaller than patch_size 128"):
        make_model()(torch.rand(1, 3, 128, 96))


@pytest.mark.parametrize("arguments", [{"patch_stride": 0}, {"patch_stride": 129}, {"ssim_constants": (0.01, 0.0)}])
def test_argument_out_of_range_is_one_clear_error(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        make_model(**arguments)
