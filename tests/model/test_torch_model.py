from inspect import signature

import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from anomalib_students import UninformedStudents
from anomalib_students.model import ensemble as ensemble_module
from anomalib_students.model import phase
from anomalib_students.model.anomaly_map import image_score, predictive_uncertainty, regression_error, upsample
from anomalib_students.model.describers import zoom
from anomalib_students.model.ensemble import StudentTeacherEnsemble
from anomalib_students.model.loss import regression_loss, squared_distances
from anomalib_students.model.phase import sample_phase
from anomalib_students.model.synthetic_defects import SyntheticDefects
from anomalib_students.model.torch_model import UninformedStudentsModel
from anomalib_students.networks.dense import Patches, dense_descriptors, dense_patches
from anomalib_students.networks.patch_network import PatchNetwork

pytestmark = pytest.mark.usefixtures("narrow_networks")

EQUATIONS = {
    "architecture": "paper",
    "hard_fraction": 1.0,
    "light_jitter": 0.0,
    "synthetic_defects": 0.0,
    "score_window": 1,
    "shared_layers": 0,
}
"""What the paper's equations say, which the defaults differ from."""
STATISTICS = ("descriptor_mean", "descriptor_std", "error_mean", "error_std", "uncertainty_mean", "uncertainty_std")


def make_model(patch_sizes=(17, 33, 65), n_students=2, **arguments):
    """A small model in double precision, whose networks and statistics all matter to its output."""
    model = UninformedStudentsModel(patch_sizes, n_students, **{**EQUATIONS, "descriptor_dim": 4, **arguments}).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for ensemble in model.ensembles.values():
        for name in STATISTICS:
            buffer = getattr(ensemble, name)
            buffer.copy_(torch.rand(buffer.shape) + (0.5 if name.endswith("_std") else 0))
    return model


def make_images(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def describe_alone(ensemble, describe):
    """Descriptors of the students and normalised ones of the teacher, each network for itself from its first layer."""
    target = (describe(ensemble.teacher).float() - ensemble.descriptor_mean) / ensemble.descriptor_std
    return torch.stack([describe(student) for student in ensemble.students]), target


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def assert_same_loss_and_gradients(model, images, monkeypatch, mode, pixels):
    """Compare a training step in one part with one in parts of ``pixels`` pixels."""
    results = []
    for limit in (10**9, pixels):
        monkeypatch.setitem(ensemble_module.TRAINING_PIXELS, mode, limit)
        model.zero_grad()
        torch.manual_seed(3)
        loss = model(images)
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    # The loss is in single precision.
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
    assert all(gradient.abs().sum() > 0 for gradient in results[0][1].values())


class TestEvaluation:
    @pytest.mark.parametrize("output_stride", [1, 4])
    @pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 20), (33, 18)])
    def test_map_has_the_size_of_the_images_and_its_maximum_is_the_score(self, height, width, output_stride):
        predictions = make_model(output_stride=output_stride).eval()(make_images(2, 3, height, width))
        assert predictions.anomaly_map.shape == (2, 1, height, width)
        assert predictions.pred_score.shape == (2,)
        assert torch.equal(predictions.pred_score, predictions.anomaly_map.flatten(1).amax(dim=1))
        assert predictions.pred_label is None
        assert predictions.pred_mask is None

    @pytest.mark.parametrize("output_stride", [1, 2, 4, 8])
    def test_map_is_the_mean_over_scales_of_the_summed_normalised_scores(self, output_stride):
        model = make_model(n_students=3, output_stride=output_stride).eval()
        images = make_images(2, 3, 19, 26)
        expected = torch.zeros(2, 1, 19, 26, dtype=torch.float64)
        for ensemble in model.ensembles.values():
            students = [dense_descriptors(student, images, output_stride) for student in ensemble.students]
            # The model normalises the teacher's descriptors in single precision.
            target = dense_descriptors(ensemble.teacher, images, output_stride).float()
            target = (target - ensemble.descriptor_mean) / ensemble.descriptor_std
            error = regression_error(torch.stack(students), target)
            uncertainty = predictive_uncertainty(torch.stack(students))
            score = (error - ensemble.error_mean) / ensemble.error_std
            score = score + (uncertainty - ensemble.uncertainty_mean) / ensemble.uncertainty_std
            expected += upsample(score.unsqueeze(1), output_stride, (19, 26)) / 3
        actual = model(images).anomaly_map
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, check_dtype=False)

    @pytest.mark.parametrize("output_stride", [1, 4])
    def test_the_error_to_be_expected_of_the_teachers_descriptor_is_subtracted(self, output_stride):
        model = make_model((33,), output_stride=output_stride).eval()
        images = make_images(2, 3, 19, 26)
        before = model(images).anomaly_map
        (ensemble,) = model.scales
        nn.init.normal_(ensemble.error_weight)
        target = dense_descriptors(ensemble.teacher, images, output_stride).float()
        target = (target - ensemble.descriptor_mean) / ensemble.descriptor_std
        expected = (target * ensemble.error_weight.view(-1, 1, 1)).sum(dim=1, keepdim=True) / ensemble.error_std
        # The teacher's descriptors are normalised in single precision.
        difference = upsample(expected, output_stride, (19, 26))
        torch.testing.assert_close(before - model(images).anomaly_map, difference, rtol=1e-5, atol=1e-4)

    def test_light_networks_have_the_map_of_their_own_descriptors(self):
        model = make_model((33, 65), architecture="light").eval()
        images = make_images(1, 3, 21, 10)
        maps = [ensemble(images, model.describer) for ensemble in model.scales]
        assert {network.architecture for ensemble in model.scales for network in ensemble.students} == {"light"}
        torch.testing.assert_close(model(images).anomaly_map, (maps[0] + maps[1]) / 2)

    @pytest.mark.parametrize("output_stride", [1, 4, 8])
    @pytest.mark.parametrize("shared_layers", [1, 2, 3])
    def test_shared_layers_do_not_change_the_scores(self, output_stride, shared_layers):
        """Computed once, by the teacher, they give what each network computes alone."""
        model = make_model((17,), architecture="light", output_stride=output_stride, shared_layers=shared_layers).eval()
        (ensemble,) = model.scales
        ensemble.set_teacher(ensemble.teacher)
        images = make_images(2, 3, 30, 41)
        students, target = describe_alone(ensemble, lambda network: dense_descriptors(network, images, output_stride))
        actual = ensemble.describe(dense_patches(ensemble.teacher, images, output_stride))
        torch.testing.assert_close(actual, (students, target))

    def test_score_of_an_image_is_the_largest_mean_of_a_window(self):
        predictions = make_model(score_window=5).eval()(make_images(2, 3, 12, 20))
        assert torch.equal(predictions.pred_score, image_score(predictions.anomaly_map, 5))
        assert (predictions.pred_score < predictions.anomaly_map.amax(dim=(1, 2, 3))).all()

    def test_one_student_has_no_part_of_uncertainty(self):
        model = make_model(n_students=1).eval()
        images = make_images(1, 3, 12, 12)
        before = model(images).anomaly_map
        for ensemble in model.ensembles.values():
            ensemble.uncertainty_mean.fill_(123)
            ensemble.uncertainty_std.zero_()
        assert torch.equal(model(images).anomaly_map, before)

    def test_two_students_have_a_part_of_uncertainty(self):
        model = make_model(n_students=2, patch_sizes=(33,), output_stride=1).eval()
        images = make_images(1, 3, 12, 12)
        before = model(images).anomaly_map
        ensemble = model.ensembles["p33"]
        shift = 5 / ensemble.uncertainty_std
        ensemble.uncertainty_mean += 5
        torch.testing.assert_close(model(images).anomaly_map, before - shift)

    def test_a_batch_in_parts_has_the_predictions_of_its_images(self, monkeypatch):
        model = make_model(max_tile=18).eval()
        images = make_images(5, 3, 11, 14)
        expected = [model(image.unsqueeze(0)) for image in images]

        sizes = []
        describe = StudentTeacherEnsemble.describe
        monkeypatch.setattr(
            StudentTeacherEnsemble,
            "describe",
            lambda ensemble, part: sizes.append(len(part.features)) or describe(ensemble, part),
        )
        predictions = model(images)
        assert sizes == 3 * [2, 2, 1]
        maps = torch.cat([prediction.anomaly_map for prediction in expected])
        scores = torch.cat([prediction.pred_score for prediction in expected])
        torch.testing.assert_close(predictions.anomaly_map, maps)
        torch.testing.assert_close(predictions.pred_score, scores)

    @pytest.mark.parametrize("output_stride", [1, 2, 4, 8])
    @pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (35, 7), (50, 33)])
    def test_an_image_in_tiles_has_the_predictions_of_the_whole(self, height, width, output_stride, monkeypatch):
        model = make_model(output_stride=output_stride).eval()
        images = make_images(2, 3, height, width)
        expected = model(images)
        model.max_tile = 16
        sides = []
        describe = StudentTeacherEnsemble.describe
        monkeypatch.setattr(
            StudentTeacherEnsemble,
            "describe",
            lambda ensemble, part: (
                sides.append(max(output_stride * (side.stop - side.start) for side in (part.rows, part.columns)))
                or describe(ensemble, part)
            ),
        )
        predictions = model(images)
        assert max(sides) <= 16
        torch.testing.assert_close(predictions.anomaly_map, expected.anomaly_map)
        torch.testing.assert_close(predictions.pred_score, expected.pred_score)

    def test_tiles_of_anomalib_have_the_predictions_of_the_whole(self):
        module = UninformedStudents(patch_sizes=(33,), n_students=2, teacher=None, descriptor_dim=4).eval()
        images = torch.rand(1, 3, 50, 33)
        expected = module.model(images).anomaly_map
        TilerConfigurationCallback(enable=True, tile_size=24, stride=12).setup(None, module)
        assert module.model.describer.max_tile == 24
        torch.testing.assert_close(module.model(images).anomaly_map, expected)

    def test_no_activations_are_kept_for_a_gradient(self):
        predictions = make_model((17,)).eval()(make_images(1, 3, 8, 8))
        assert not predictions.anomaly_map.requires_grad
        assert not predictions.pred_score.requires_grad

    def test_a_batch_has_the_predictions_of_its_images(self):
        model = make_model().eval()
        images = make_images(3, 3, 10, 9)
        together = model(images).anomaly_map
        for index, image in enumerate(images):
            torch.testing.assert_close(together[index], model(image.unsqueeze(0)).anomaly_map[0])


class TestTraining:
    def test_hard_loss_is_that_of_the_hardest_pixels(self):
        model = make_model((33,), n_students=1, training_mode="dense", hard_fraction=0.25)
        images = make_images(1, 3, 8, 8)
        students, target = model.scales[0].describe(dense_patches(model.scales[0].teacher, images))
        distances = (students[0] - target).square().sum(dim=1).flatten()
        torch.testing.assert_close(model(images).double(), distances.topk(16).values.mean().double())

    @pytest.mark.parametrize("mode", ["phase", "dense"])
    def test_shared_layers_are_the_teachers_and_stay_so(self, mode):
        model = make_model((33,), shared_layers=2, training_mode=mode)
        ensemble = model.scales[0]
        ensemble.set_teacher(ensemble.teacher)
        before = [convolution.weight.clone() for convolution in ensemble.teacher.convolutions]
        images = make_images(1, 3, 8, 8)
        model(images).backward()
        optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=0.1)
        optimizer.step()
        for student in ensemble.networks:
            for index, convolution in enumerate(student.convolutions):
                assert torch.equal(convolution.weight, before[index]) == (index < 2)

    def test_shared_layers_do_not_change_the_loss(self):
        model = make_model((33,), shared_layers=2)
        ensemble = model.scales[0]
        ensemble.set_teacher(ensemble.teacher)
        images = make_images(2, 3, 20, 20)
        generator = torch.Generator().manual_seed(0)
        part = sample_phase(ensemble.teacher, images, torch.Generator().manual_seed(0))
        expected = regression_loss(squared_distances(*describe_alone(ensemble, lambda network: network(part))))
        torch.testing.assert_close(ensemble.training_loss(images, "phase", generator), expected)

    def test_light_jitter_changes_what_teacher_and_students_see_alike(self, monkeypatch):
        model = make_model((33,), training_mode="dense", light_jitter=1.0)
        images = make_images(2, 3, 8, 8)
        seen = []

        def describe(network, images, output_stride=None, first=0, stop=None):
            # The layers that all share, of which there are none here, see the images too.
            return images if stop == 0 else seen.append(images) or images[:, :1] + 0

        monkeypatch.setattr(ensemble_module, "dense_patches", lambda teacher, images: Patches(images))
        monkeypatch.setattr(PatchNetwork, "forward", describe)
        model.scales[0].descriptor_mean.zero_()
        model(images)
        assert len(seen) == 3
        assert all(torch.equal(image, seen[0]) for image in seen)
        assert (seen[0] - images).abs().mean() > 0.01

    @pytest.mark.parametrize("shared_layers", [0, 2])
    @pytest.mark.parametrize("mode", ["phase", "dense", "patch"])
    def test_only_students_see_synthetic_defects(self, mode, shared_layers):
        ensemble = make_model((33,), shared_layers=shared_layers).scales[0]
        ensemble.set_teacher(ensemble.teacher)
        images = make_images(2, 3, 40, 40)
        generator = torch.Generator().manual_seed(0)
        clean = {
            "phase": lambda: sample_phase(ensemble.teacher, images, generator),
            "dense": lambda: images,
            "patch": lambda: zoom(images, 33),
        }[mode]()
        painted = SyntheticDefects(1.0)(clean, generator)
        describe = dense_descriptors if mode == "dense" else lambda network, images: network(images)
        target = (describe(ensemble.teacher, clean) - ensemble.descriptor_mean) / ensemble.descriptor_std
        students = torch.stack([describe(each, painted) for each in ensemble.students])
        expected = regression_loss(squared_distances(students, target))
        actual = ensemble.training_loss(
            images, mode, torch.Generator().manual_seed(0), defects=SyntheticDefects(1.0), hard_fraction=1.0
        )
        torch.testing.assert_close(actual, expected)
        assert abs(actual - ensemble.training_loss(images, mode, torch.Generator().manual_seed(0))) > 1e-3

    @pytest.mark.parametrize("pixels", [10**9, 33 * 33, 1])
    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_hard_pixels_are_chosen_over_the_batch(self, share, pixels, monkeypatch):
        """Whole or in chunks, with a third of the images of high contrast, and some of them painted."""
        ensemble = make_model((33,), n_students=2).scales[0]
        images = make_images(6, 3, 40, 40) * torch.tensor([0.1, 3, 0.1, 0.1, 3, 0.1]).view(-1, 1, 1, 1)
        generator = torch.Generator().manual_seed(0)
        clean = sample_phase(ensemble.teacher, images, generator)
        painted = SyntheticDefects(share)(clean, generator)
        is_painted = (painted != clean).flatten(1).any(dim=1)
        assert share == 0 or is_painted.unique().numel() == 2
        target = (ensemble.teacher(clean) - ensemble.descriptor_mean) / ensemble.descriptor_std
        students = torch.stack([student(painted) for student in ensemble.students])
        distances = (students - target).square().sum(dim=2).flatten(1)
        n_hard = round(0.1 * (1 + float(is_painted.float().mean())) * distances.shape[1])
        expected = distances.sort(descending=True).values[:, :n_hard].mean(dim=1).sum()
        monkeypatch.setitem(ensemble_module.TRAINING_PIXELS, "phase", pixels)
        loss = ensemble.training_loss(
            images, "phase", torch.Generator().manual_seed(0), hard_fraction=0.1, defects=SyntheticDefects(share)
        )
        torch.testing.assert_close(loss, expected, check_dtype=False)

    def test_dense_loss_is_the_sum_of_equation_7_over_students_and_scales(self):
        model = make_model(training_mode="dense")
        images = make_images(2, 3, 9, 12)
        expected = 0
        for ensemble in model.ensembles.values():
            target = dense_descriptors(ensemble.teacher, images)
            target = (target - ensemble.descriptor_mean) / ensemble.descriptor_std
            for student in ensemble.students:
                expected += (dense_descriptors(student, images) - target).square().sum(dim=1).mean()
        torch.testing.assert_close(model(images).double(), expected.double(), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        ("patch_size", "size", "parts"), [(17, (6, 8), 3 * 4), (33, (8, 16), 2 * 16), (65, (16, 8), 64)]
    )
    def test_phase_loss_averaged_over_all_parts_is_the_dense_loss(self, patch_size, size, parts, monkeypatch):
        monkeypatch.setattr(phase, "PHASE_SIDE", 2)
        model = make_model((patch_size,), n_students=1)
        images = make_images(1, 3, *size)
        gradients_of, losses = {}, {}
        for mode, seeds in (("dense", [0]), ("phase", one_seed_per_part(model, images, parts))):
            model.zero_grad()
            losses[mode] = 0
            for seed in seeds:
                loss = model.scales[0].training_loss(images, mode, torch.Generator().manual_seed(seed)) / len(seeds)
                loss.backward()
                losses[mode] += float(loss.detach())
            gradients_of[mode] = gradients(model)
        assert losses["phase"] == pytest.approx(losses["dense"], rel=1e-6)
        torch.testing.assert_close(gradients_of["phase"], gradients_of["dense"], rtol=1e-5, atol=1e-5)

    # The crop that holds a phase is at most as large as the padded images.
    @pytest.mark.parametrize(("mode", "pixels"), [("phase", (15 + 32) * (12 + 32)), ("dense", 15 * 12)])
    def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(self, mode, pixels, monkeypatch):
        model = make_model((33,), training_mode=mode)
        sizes = []
        distances = StudentTeacherEnsemble._distances
        monkeypatch.setattr(
            StudentTeacherEnsemble,
            "_distances",
            lambda ensemble, part, *more: sizes.append(len(part)) or distances(ensemble, part, *more),
        )
        assert_same_loss_and_gradients(model, make_images(5, 3, 15, 12), monkeypatch, mode, pixels=2 * pixels)
        # The whole; then three parts, and again in the backward pass.
        assert sizes[:4] == [5, 2, 2, 1]
        assert sorted(sizes[4:]) == [1, 2, 2]

    def test_without_checkpointing_a_batch_is_not_split(self, monkeypatch):
        model = make_model((33,), training_mode="dense", grad_checkpointing=False)
        monkeypatch.setattr(ensemble_module, "checkpoint", None)
        assert_same_loss_and_gradients(model, make_images(3, 3, 15, 12), monkeypatch, "dense", pixels=1)

    @pytest.mark.parametrize("mode", ["phase", "dense"])
    def test_images_larger_than_a_part_are_worked_off_one_by_one(self, mode, monkeypatch):
        model = make_model(training_mode=mode)
        assert_same_loss_and_gradients(model, make_images(2, 3, 15, 12), monkeypatch, mode, pixels=1)

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
        for ensemble in model.ensembles.values():
            assert all(not weight.requires_grad and weight.grad is None for weight in ensemble.teacher.parameters())

    def test_all_students_see_the_same_patches(self):
        """Two equal students have equal losses, so both see the part that the teacher sees."""
        model = make_model((33,), training_mode="phase")
        ensemble = model.ensembles["p33"]
        ensemble.students[1].load_state_dict(ensemble.students[0].state_dict())
        model(make_images(1, 3, 14, 14)).backward()
        for first, second in zip(*(student.parameters() for student in ensemble.students), strict=True):
            assert torch.equal(first.grad, second.grad)

    def test_students_start_from_different_weights(self):
        model = UninformedStudentsModel((17,), n_students=2, descriptor_dim=4, architecture="paper")
        first, second = model.ensembles["p17"].students
        assert not torch.equal(first.convolutions[0].weight, second.convolutions[0].weight)


def one_seed_per_part(model, images, parts):
    """Seeds that draw each part of the images once."""
    (ensemble,) = model.ensembles.values()
    seeds = {}
    for seed in range(1000):
        crop = sample_phase(ensemble.teacher, images, torch.Generator().manual_seed(seed))
        seeds.setdefault(tuple(crop[0, 0, :3, :3].flatten().tolist()), seed)
    assert len(seeds) == parts
    return list(seeds.values())


class TestPatchMode:
    """Each image is one patch: one descriptor, and one score."""

    def test_score_is_the_mean_over_scales_of_equation_11(self):
        model = make_model((17, 33), n_students=5, mode="patch").eval()
        images = make_images(4, 3, 33, 33)
        expected = 0
        for size, ensemble in zip((17, 33), model.scales, strict=True):
            patches = zoomed(images, size)
            students = torch.stack([student(patches)[:, :, 0, 0] for student in ensemble.students])
            target = (ensemble.teacher(patches) - ensemble.descriptor_mean) / ensemble.descriptor_std
            mean = students.mean(dim=0)
            e = (mean - target[:, :, 0, 0]).square().sum(dim=1)
            # Eq. 10 as it is printed.
            v = students.square().sum(dim=2).mean(dim=0) - mean.square().sum(dim=1)
            score = (e - ensemble.error_mean) / ensemble.error_std
            expected += (score + (v - ensemble.uncertainty_mean) / ensemble.uncertainty_std) / 2
        predictions = model(images)
        # The model normalises the teacher's descriptors in single precision.
        torch.testing.assert_close(predictions.pred_score, expected, rtol=1e-5, atol=1e-5, check_dtype=False)
        assert predictions.pred_score.shape == (4,)
        assert predictions.anomaly_map is predictions.pred_mask is predictions.pred_label is None
        assert not predictions.pred_score.requires_grad

    @pytest.mark.parametrize("size", [(33, 33), (28, 28), (50, 41)])
    def test_loss_is_equation_7_on_one_descriptor(self, size):
        model = make_model((33,), mode="patch")
        images = make_images(3, 3, *size)
        (ensemble,) = model.scales
        patches = zoomed(images, 33)
        target = (ensemble.teacher(patches) - ensemble.descriptor_mean) / ensemble.descriptor_std
        expected = sum((student(patches) - target).square().sum() / 3 for student in ensemble.students)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5, check_dtype=False)

    def test_images_of_other_sizes_are_zoomed(self):
        model = make_model((33,), mode="patch").eval()
        images = make_images(2, 3, 28, 40)
        torch.testing.assert_close(model(images).pred_score, model(zoomed(images, 33)).pred_score, rtol=1e-6, atol=1e-6)

    def test_what_concerns_pixels_alone_means_nothing(self):
        model = make_model((33,), mode="patch").eval()
        other = make_model((33,), mode="patch", output_stride=1, max_tile=16, training_mode="dense").eval()
        other.load_state_dict(model.state_dict())
        images = make_images(3, 3, 33, 33)
        torch.testing.assert_close(other(images).pred_score, model(images).pred_score)
        torch.testing.assert_close(other.train()(images), model.train()(images))

    def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(self, monkeypatch):
        model = make_model((33,), mode="patch")
        assert_same_loss_and_gradients(model, make_images(5, 3, 33, 33), monkeypatch, "patch", pixels=2 * 33 * 33)

    def test_exported_program_takes_images_of_any_size(self):
        model = make_model((17, 33), mode="patch").float().eval()
        batch, height, width = (torch.export.Dim(name, min=2, max=999) for name in ("batch", "height", "width"))
        shapes = {"images": {0: batch, 2: height, 3: width}}
        program = torch.export.export(model, (torch.rand(2, 3, 20, 25),), dynamic_shapes=shapes)
        for shape in ((3, 3, 20, 25), (2, 3, 33, 33), (4, 3, 50, 17)):
            images = torch.rand(shape)
            torch.testing.assert_close(
                program.module()(images).pred_score, model(images).pred_score, rtol=1e-4, atol=1e-4
            )


def zoomed(images, side):
    """Images of another size, by torch's own antialiased interpolation."""
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True)


class TestState:
    def test_statistics_and_weights_of_every_scale_are_in_the_state_dict(self):
        state = make_model((17, 65)).state_dict()
        for scale in ("p17", "p65"):
            assert {f"ensembles.{scale}.{name}" for name in STATISTICS} <= state.keys()
            for network in ("teacher", "students.0", "students.1"):
                assert f"ensembles.{scale}.{network}.convolutions.0.weight" in state

    def test_a_model_with_the_same_state_dict_makes_the_same_predictions(self):
        model, other = make_model().eval(), make_model().eval()
        images = make_images(1, 3, 12, 15)
        assert not torch.equal(model(images).anomaly_map, other(images).anomaly_map)
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(images).anomaly_map, other(images).anomaly_map)

    def test_safetensors_hold_the_state_dict(self, tmp_path):
        model = make_model((33,)).float().eval()
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other = make_model((33,)).float().eval()
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        images = make_images(1, 3, 12, 15).float()
        assert torch.equal(model(images).anomaly_map, other(images).anomaly_map)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
    def test_half_precision_predicts_and_trains(self, dtype, tolerance):
        model = make_model((33,), synthetic_defects=1.0).float().eval()
        images = make_images(2, 3, 40, 40)
        expected = model(images.float()).anomaly_map
        actual = model.to(dtype)(images.to(dtype)).anomaly_map
        assert (actual - expected).abs().max() < tolerance * expected.abs().max()
        model.train()(images.to(dtype)).backward()
        assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_exported_program_equals_eager():
    model = make_model((17, 33), output_stride=4).eval()
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
        ({"patch_sizes": (33, 19)}, r"No architecture for patch size 19: choose from \[17, 33, 65\]"),
        ({"patch_sizes": ()}, r"patch_sizes must name at least one patch size, each once; got \(\)"),
        ({"patch_sizes": (33, 17, 33)}, r"patch_sizes must name .* each once; got \(33, 17, 33\)"),
        ({"n_students": 0}, "n_students must be at least 1, got 0"),
        ({"output_stride": 3}, r"output stride must be one of \(1, 2, 4, 8\), got 3"),
        ({"training_mode": "sparse"}, r"training_mode must be one of \('phase', 'dense'\), got 'sparse'"),
        ({"architecture": "heavy"}, r"architecture must be one of \('paper', 'light', 'medium'\), got 'heavy'"),
        ({"max_tile": 15}, "max_tile must be at least 16 pixels, got 15"),
        ({"descriptor_dim": 0}, "descriptor dimension must be at least 1, got 0"),
        ({"mode": "image"}, r"mode must be one of \('pixel', 'patch'\), got 'image'"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        UninformedStudentsModel(**{**EQUATIONS, "patch_sizes": (17,), **arguments})
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_defaults_are_those_of_the_lightning_module():
    lightning, torch_model = (signature(model).parameters for model in (UninformedStudents, UninformedStudentsModel))
    shared = lightning.keys() & torch_model.keys()
    assert torch_model.keys() - shared == {"grad_checkpointing"}
    assert {name: torch_model[name].default for name in shared} == {name: lightning[name].default for name in shared}


class TestScalesAreIndependent:
    """From the same seed, a scale is what it would be in a model of its own."""

    SIZES = (17, 33, 65)

    def test_initial_weights(self):
        torch.manual_seed(5)
        together = UninformedStudentsModel(self.SIZES, n_students=2, descriptor_dim=4, architecture="paper")
        after = torch.rand(())
        for size in self.SIZES:
            torch.manual_seed(5)
            alone = UninformedStudentsModel((size,), n_students=2, descriptor_dim=4, architecture="paper")
            assert torch.rand(()) == after
            for name, weight in alone.state_dict().items():
                assert torch.equal(together.state_dict()[name], weight), name
        first, second = (network.convolutions[0].weight for network in alone.scales[0].students)
        assert not torch.equal(first, second)

    def test_two_models_without_a_seed_between_them_differ(self):
        first, second = (UninformedStudentsModel((33,), descriptor_dim=4).state_dict() for _ in range(2))
        name = "ensembles.p33.students.0.convolutions.0.weight"
        assert not torch.equal(first[name], second[name])

    @pytest.mark.parametrize("training_mode", ["phase", "dense"])
    def test_losses_and_random_numbers_of_training_steps(self, training_mode, monkeypatch):
        monkeypatch.setattr(phase, "PHASE_SIDE", 2)
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
