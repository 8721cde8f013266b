import pytest
import torch
from torch import nn

from reproduction.baselines.ssim_autoencoder.network import ConvolutionalAutoencoder

# Table 1 of the paper: output size, channels, kernel and stride of the layers from the input to the latent vector.
TABLE = [
    (64, 32, 4, 2),
    (32, 32, 4, 2),
    (32, 32, 3, 1),
    (16, 64, 4, 2),
    (16, 64, 3, 1),
    (8, 128, 4, 2),
    (8, 64, 3, 1),
    (8, 32, 3, 1),
    (1, 100, 8, 1),
]


def outputs(layers, inputs):
    """Output of each convolution, with its kernel and stride."""
    rows = []
    for layer in layers:
        inputs = layer(inputs)
        if not isinstance(layer, nn.LeakyReLU):
            rows.append((inputs.shape[-1], inputs.shape[1], layer.kernel_size[0], layer.stride[0]))
    return rows, inputs


def test_shapes_are_those_of_the_table():
    network = ConvolutionalAutoencoder(patch_size=128, latent_dim=100)
    encoded, latent = outputs(network.encoder, torch.rand(1, 1, 128, 128))
    assert encoded == TABLE
    decoded, _ = outputs(network.decoder, latent)
    # Backwards, each layer gives what its counterpart was given.
    sizes = [(128, 1), *((size, channels) for size, channels, _, _ in TABLE[:-1])]
    kernels = [(kernel, stride) for _, _, kernel, stride in TABLE]
    assert decoded == [(*size, *kernel) for size, kernel in zip(sizes[::-1], kernels[::-1], strict=True)]


def test_number_of_parameters_is_that_of_the_table():
    widths = [1, *(channels for _, channels, _, _ in TABLE)]
    kernels = [kernel for _, _, kernel, _ in TABLE]
    weights = sum(
        inputs * outputs * kernel**2 for inputs, outputs, kernel in zip(widths, widths[1:], kernels, strict=False)
    )
    expected = 2 * weights + sum(widths[1:]) + sum(widths[:-1])
    network = ConvolutionalAutoencoder(patch_size=128, latent_dim=100)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 1_048_549


def test_objects_have_one_more_layer():
    small, large = (
        outputs(ConvolutionalAutoencoder(side).encoder, torch.rand(1, 1, side, side)) for side in (128, 256)
    )
    assert large[0][0] == (128, 32, 4, 2)
    assert large[0][1:] == small[0]


def test_outputs_of_encoder_and_decoder_are_linear():
    network = ConvolutionalAutoencoder(patch_size=128)
    for layers in (network.encoder, network.decoder):
        kinds = [isinstance(layer, nn.LeakyReLU) for layer in layers]
        assert kinds == [False, True] * 8 + [False]
        assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}


@pytest.mark.parametrize("arguments", [{"patch_size": 64}, {"latent_dim": 0}])
def test_argument_out_of_range_is_one_clear_error(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        ConvolutionalAutoencoder(**arguments)
