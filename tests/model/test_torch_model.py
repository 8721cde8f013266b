"""The model: what it predicts and learns, with several scales, in chunks, exported and saved."""

import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from safetensors.torch import load_file, save_file
from torch import nn

from anomalib_students import UninformedStudents
from anomalib_students.model import augment
from anomalib_students.model.anomaly_map import image_score
from anomalib_students.model.augment import jitter_light, sample_phase
from anomalib_students.model.torch_model import UninformedStudentsModel
from anomalib_students.networks.dense import dense_descriptors

from .test_student_teacher import STATISTICS, make_images

pytestmark = pytest.mark.usefixtures("narrow_networks")

EQUATIONS = {
    "architecture": "paper",
    "hard_fraction": 1.0,
    "light_jitter": 0.0,
    "synthetic_defects": 0.0,
    "score_fraction": 0.0,
    "shared_layers": 0,
}
"""What the paper's equations say, which the defaults differ from."""
LEAN = {"patch_sizes": (83, 167), "architecture": "lean", "descriptor_dim": 81}


def make_model(patch_sizes=(17, 33, 65), n_students=2, **arguments):
    """A small model in double precision, whose networks and statistics all matter to its output."""
    model = UninformedStudentsModel(
        patch_sizes=patch_sizes, n_students=n_students, **{**EQUATIONS, "descriptor_dim": 4, **arguments}
    ).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for scale in model.scales:
        for name in STATISTICS:
            buffer = getattr(scale, name)
            buffer.copy_(torch.rand(buffer.shape) + (0.5 if name.endswith("_std") else 0))
    return model


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


class TestEvaluation:
    @pytest.mark.parametrize("output_stride", [1, 4])
    @pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 20), (33, 18)])
    def test_map_has_the_size_of_the_images_and_its_maximum_is_the_score(self, height, width, output_stride):
        predictions = make_model(output_stride=output_stride).eval()(make_images(2, 3, height, width))
        assert predictions.anomaly_map.shape == (2, 1, height, width)
        assert predictions.pred_score.shape == (2,)
        assert torch.equal(predictions.pred_score, predictions.anomaly_map.flatten(1).amax(dim=1))
        assert predictions.pred_label is predictions.pred_mask is None
        assert not predictions.anomaly_map.requires_grad

    def test_map_is_the_mean_of_those_of_the_scales(self):
        model = make_model((33, 65)).eval()
        images = make_images(1, 3, 21, 10)
        first, second = (scale(images, 8) for scale in model.scales)
        torch.testing.assert_close(model(images).anomaly_map, (first + second) / 2)

    def test_score_of_an_image_is_the_mean_of_its_largest_windows(self):
        predictions = make_model(score_fraction=0.5).eval()(make_images(2, 3, 12, 20))
        assert torch.equal(predictions.pred_score, image_score(predictions.anomaly_map, 0.5))
        assert (predictions.pred_score < predictions.anomaly_map.amax(dim=(1, 2, 3))).all()

    def test_a_batch_in_chunks_has_the_predictions_of_its_images(self, monkeypatch):
        model, sizes = make_model((33,), max_tile=18).eval(), []
        (scale,) = model.scales
        images = make_images(5, 3, 11, 14)
        expected = [model(image.unsqueeze(0)) for image in images]
        describe = scale.describe
        monkeypatch.setattr(scale, "describe", lambda tile, stride: sizes.append(len(tile)) or describe(tile, stride))
        predictions = model(images)
        assert sizes == [2, 2, 1]
        for index, alone in enumerate(expected):
            torch.testing.assert_close(predictions.anomaly_map[index], alone.anomaly_map[0])
            torch.testing.assert_close(predictions.pred_score[index], alone.pred_score[0])

    def test_tiles_of_anomalib_have_the_predictions_of_the_whole(self):
        module = UninformedStudents("paper", patch_sizes=(33,), teacher=None, descriptor_dim=4).eval()
        images = torch.rand(1, 3, 50, 33)
        expected = module.model(images).anomaly_map
        TilerConfigurationCallback(enable=True, tile_size=24, stride=12).setup(None, module)
        assert module.model.tile_side == 24
        assert len(list(module.model.tiles(module.model.scales[0], images))) == 6
        torch.testing.assert_close(module.model(images).anomaly_map, expected)


class TestTraining:
    def test_teacher_and_students_see_the_same_light(self, monkeypatch):
        model = make_model((33,), training_mode="dense", light_jitter=1.0)
        images, seen = make_images(2, 3, 8, 8), []
        loss = model.scales[0].loss
        monkeypatch.setattr(model.scales[0], "loss", lambda *tiles: seen.append(tiles) or loss(*tiles))
        torch.manual_seed(3)
        model(images)
        torch.manual_seed(3)
        seed = int(torch.randint(2**62, ()))
        lit = jitter_light(images, 1.0, torch.Generator().manual_seed(seed))
        ((tiles, stride, painted, hard_fraction),) = seen
        torch.testing.assert_close(tiles[..., 16:-16, 16:-16], lit)
        assert (stride, painted, hard_fraction) == (1, None, 1.0)

    def test_painted_images_have_more_hard_pixels(self, monkeypatch):
        model = make_model((33,), synthetic_defects=0.5, hard_fraction=0.1)
        fractions = []
        loss = model.scales[0].loss
        monkeypatch.setattr(model.scales[0], "loss", lambda *tiles: fractions.append(tiles[-1]) or loss(*tiles))
        for seed in range(3):
            torch.manual_seed(seed)
            model(make_images(4, 3, 40, 40))
        assert fractions == [pytest.approx(0.1 + 0.025 * round((each - 0.1) / 0.025)) for each in fractions]
        assert max(fractions) > 0.1

    def test_dense_loss_is_the_sum_of_equation_7_over_students_and_scales(self):
        model = make_model(training_mode="dense")
        images = make_images(2, 3, 9, 12)
        expected = 0
        for scale in model.scales:
            target = dense_descriptors(scale.teacher, images)
            target = (target - scale.descriptor_mean) / scale.descriptor_std
            for student in scale.students:
                expected += (dense_descriptors(student, images) - target).square().sum(dim=1).mean()
        torch.testing.assert_close(model(images).double(), expected.double(), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        ("patch_size", "size", "samples"), [(17, (6, 8), 3 * 4), (33, (8, 16), 2 * 16), (65, (16, 8), 64)]
    )
    def test_phase_loss_averaged_over_all_samples_is_the_dense_loss(self, patch_size, size, samples, monkeypatch):
        monkeypatch.setattr(augment, "PHASE_SIDE", 2)
        model = make_model((patch_size,), n_students=1)
        images = make_images(1, 3, *size)
        gradients_of, losses = {}, {}
        for mode, seeds in (("dense", [0]), ("phase", one_seed_per_sample(model, images, samples))):
            model.zero_grad()
            losses[mode] = 0
            for seed in seeds:
                loss = seeded_loss(model, mode, images, seed) / len(seeds)
                loss.backward()
                losses[mode] += float(loss.detach())
            gradients_of[mode] = gradients(model)
        assert losses["phase"] == pytest.approx(losses["dense"], rel=1e-6)
        torch.testing.assert_close(gradients_of["phase"], gradients_of["dense"], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("mode", ["phase", "dense"])
    def test_teacher_is_frozen(self, mode):
        model = make_model(training_mode=mode).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        model(make_images(2, 3, 10, 10)).backward()
        optimizer.step()
        after = model.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name, _ in model.named_parameters() if ".students." in name}
        for scale in model.scales:
            assert all(not weight.requires_grad and weight.grad is None for weight in scale.teacher.parameters())

    def test_all_students_see_the_same_patches(self):
        """Two equal students have equal losses, so both see the part that the teacher sees."""
        model = make_model((33,), training_mode="phase")
        (scale,) = model.scales
        scale.students[1].load_state_dict(scale.students[0].state_dict())
        model(make_images(1, 3, 14, 14)).backward()
        for first, second in zip(*(student.parameters() for student in scale.students), strict=True):
            assert torch.equal(first.grad, second.grad)


def one_seed_per_sample(model, images, samples):
    """Seeds that draw each sample of the patches once."""
    (scale,) = model.scales
    seeds = {}
    for seed in range(1000):
        crop = sample_phase(scale.teacher, images, torch.Generator().manual_seed(seed))
        seeds.setdefault(tuple(crop[0, 0, :3, :3].flatten().tolist()), seed)
    assert len(seeds) == samples
    return list(seeds.values())


def seeded_loss(model, training_mode, images, seed):
    """Loss of a training step of one scale, whose sample a seed draws."""
    (scale,) = model.scales
    generator = torch.Generator().manual_seed(seed)
    tiles, _, _ = augment.training_tiles(scale.teacher, images, training_mode, 0.0, generator)
    return scale.loss(tiles, scale.teacher.stride if training_mode == "phase" else 1)


class TestState:
    def test_statistics_and_weights_of_every_scale_are_in_the_state_dict(self):
        state = make_model((17, 65)).state_dict()
        for scale in ("p17", "p65"):
            assert {f"ensembles.{scale}.{name}" for name in STATISTICS} <= state.keys()
            for network in ("teacher", "students.0", "students.1"):
                assert f"ensembles.{scale}.{network}.convolutions.0.weight" in state

    @pytest.mark.parametrize("network", [{"patch_sizes": (33,)}, LEAN], ids=["paper", "lean"])
    def test_safetensors_hold_the_state_dict(self, network, tmp_path):
        model, other = (make_model(**network).float().eval() for _ in range(2))
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        images = make_images(1, 3, 12, 15).float()
        assert not torch.equal(model(images).anomaly_map, other(images).anomaly_map)
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert torch.equal(model(images).anomaly_map, other(images).anomaly_map)

    @pytest.mark.parametrize("network", [{"patch_sizes": (33,)}, LEAN], ids=["paper", "lean"])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
    def test_half_precision_predicts_and_trains(self, network, dtype, tolerance):
        model = make_model(**network, synthetic_defects=1.0).float().eval()
        images = make_images(2, 3, 40, 40)
        expected = model(images.float()).anomaly_map
        actual = model.to(dtype)(images.to(dtype)).anomaly_map
        assert (actual - expected).abs().max() < tolerance * expected.abs().max()
        model.train()(images.to(dtype)).backward()
        assert all(gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize("output_stride", [1, 4, 8])
def test_exported_program_equals_eager(output_stride):
    model = make_model(output_stride=output_stride).eval()
    program = torch.export.export(
        model, (make_images(2, 3, 20, 25),), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    for batch_size in (1, 3):
        images = make_images(batch_size, 3, 20, 25)
        exported, eager = program.module()(images), model(images)
        torch.testing.assert_close(exported.anomaly_map, eager.anomaly_map)
        torch.testing.assert_close(exported.pred_score, eager.pred_score)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"patch_sizes": (33, 19)},
            r"'paper' has no network for patch size 19: choose from \(17, 33, 65\)",
        ),
        ({"patch_sizes": ()}, r"patch_sizes must name at least one patch size, each once, got \(\)"),
        ({"patch_sizes": (33, 17, 33)}, r"patch_sizes must name .* each once, got \(33, 17, 33\)"),
        ({"n_students": 0}, "n_students must be at least 1, got 0"),
        ({"output_stride": 3}, r"output stride must be one of \(1, 2, 4, 8\), got 3"),
        ({"training_mode": "sparse"}, r"training_mode must be one of \('phase', 'dense'\), got 'sparse'"),
        ({"architecture": "heavy"}, r"architecture must be one of \('paper', 'lean'\), got 'heavy'"),
        ({"score_fraction": 1}, r"score_fraction must lie in \[0, 1\), got 1"),
        (
            {"architecture": "lean", "patch_sizes": (83,), "descriptor_dim": 80},
            "need a descriptor_dim above 80, got 80",
        ),
        ({"max_tile": 15}, "max_tile must be at least 16 pixels, got 15"),
        ({"descriptor_dim": 0}, "descriptor dimension must be at least 1, got 0"),
        ({"light_jitter": -0.1}, "light_jitter must be at least 0 and finite, got -0.1"),
        ({"light_jitter": float("inf")}, "light_jitter must be at least 0 and finite, got inf"),
        ({"synthetic_defects": 1.1}, r"synthetic_defects must lie in \[0, 1\], got 1.1"),
        ({"shared_layers": -1}, r"shared_layers must lie in \[0, 4\), got -1"),
        ({"shared_layers": 4}, r"shared_layers must lie in \[0, 4\), got 4"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        UninformedStudentsModel(**{**EQUATIONS, "patch_sizes": (17,), **arguments})
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


class TestScalesAreIndependent:
    """From the same seed, a scale is what it would be in a model of its own."""

    SIZES = (17, 33, 65)

    def test_initial_weights(self):
        torch.manual_seed(5)
        together = UninformedStudentsModel(patch_sizes=self.SIZES, n_students=2, descriptor_dim=4, architecture="paper")
        after = torch.rand(())
        for size in self.SIZES:
            torch.manual_seed(5)
            alone = UninformedStudentsModel(patch_sizes=(size,), n_students=2, descriptor_dim=4, architecture="paper")
            assert torch.rand(()) == after
            for name, weight in alone.state_dict().items():
                assert torch.equal(together.state_dict()[name], weight), name
        first, second = (network.convolutions[0].weight for network in alone.scales[0].students)
        assert not torch.equal(first, second)

    def test_two_models_without_a_seed_between_them_differ(self):
        first, second = (UninformedStudentsModel(patch_sizes=(83,)).state_dict() for _ in range(2))
        name = "ensembles.p83.students.0.convolutions.0.weight"
        assert not torch.equal(first[name], second[name])

    @pytest.mark.parametrize("training_mode", ["phase", "dense"])
    def test_losses_and_random_numbers_of_training_steps(self, training_mode, monkeypatch):
        monkeypatch.setattr(augment, "PHASE_SIDE", 2)
        together = make_model(self.SIZES, training_mode=training_mode)
        images = make_images(2, 3, 40, 44)
        torch.manual_seed(6)
        losses = [together(images).detach() for _ in range(3)]
        after = torch.rand(())
        assert training_mode == "dense" or losses[0] != losses[1]

        sums = torch.zeros(3)
        for size in self.SIZES:
            alone = make_model((size,), training_mode=training_mode)
            alone.ensembles[f"p{size}"].load_state_dict(together.ensembles[f"p{size}"].state_dict())
            torch.manual_seed(6)
            sums += torch.stack([alone(images).detach() for _ in range(3)])
            assert torch.rand(()) == after
        torch.testing.assert_close(torch.stack(losses), sums)
