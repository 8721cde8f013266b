"""What cells there are, and with which settings of the paper their models are made."""

from pathlib import Path
from typing import get_args

import pytest
from torchvision.transforms.v2 import Resize

from reproduction.tables.cells import HEADINGS, Cell
from reproduction.tables.mvtec import create_model, mvtec_jobs
from reproduction.tables.one_class import class_names, one_class_jobs, variant_of
from reproduction.tables.one_class import create_model as create_one_class_model
from reproduction.tables.settings import MVTecMethod, MVTecSettings, OneClassSettings


class TestMVTec:
    def test_scales_are_trained_once_and_joined(self):
        jobs = mvtec_jobs(MVTecSettings(), ["pill"], ["ours", "k_means", "ours"], [65, 17], 65)
        assert [(job.name, job.needs) for job in jobs.values()] == [
            ("pill/ours-p17", ()),
            ("pill/ours-p65", ()),
            ("pill/ours-multi-scale-p17+65", ("pill/ours-p17", "pill/ours-p65")),
            ("pill/k_means-p65", ()),
        ]

    def test_all_methods_have_a_heading(self):
        assert set(get_args(MVTecMethod)) == set(HEADINGS)

    def test_models_have_the_papers_settings(self):
        settings = MVTecSettings()
        ours = create_model(settings, Cell("pill", "ours", "p33"))
        assert (ours.model.patch_sizes, len(ours.model.scales[0].students)) == ((33,), 3)
        assert (ours.model.output_stride, ours.hparams["training_mode"], ours.lr) == (1, "dense", 1e-4)
        baseline = create_model(settings, Cell("pill", "k_means", "p65"))
        assert [baseline.hparams[name] for name in ("method", "patch_size", "output_stride")] == ["k_means", 65, 1]
        assert baseline.n_samples == 50_000

    def test_students_and_descriptors_have_the_architecture(self):
        settings = MVTecSettings(architecture="light")
        for method in ("ours", "k_means"):
            model = create_model(settings, Cell("pill", method, "p33"))
            assert model.hparams["architecture"] == "light"

    @pytest.mark.parametrize(("category", "patch", "image"), [("wood", 128, 512), ("pill", 256, 256)])
    def test_textures_are_seen_in_patches_by_the_ssim_autoencoder(self, category, patch, image):
        model = create_model(MVTecSettings(), Cell(category, "ssim_autoencoder", "image"))
        assert model.hparams["patch_size"] == patch
        assert isinstance(model.pre_processor.transform, Resize)
        assert model.pre_processor.transform.size == [image, image]

    def test_the_dictionary_has_the_weights_and_the_stride_of_the_paper(self, resnet18_checkpoint):
        changed = {"source_checkpoint": str(resnet18_checkpoint), "source_layer": "layer3", "baseline_samples": 300}
        model = create_model(MVTecSettings(**changed), Cell("pill", "cnn_feature_dictionary", "p65"))
        assert [model.hparams[name] for name in ("patch_size", "output_stride", "n_samples")] == [65, 4, 300]


class TestOneClass:
    def test_a_teacher_is_pretrained_once_for_all_classes(self):
        weights = [(1.0, 0.0, 0.01), (1.0, 0.0, 0.01)]
        teachers, cells = one_class_jobs(OneClassSettings(data="mnist"), ["0", "1"], ["k_means", "ours"], weights)
        assert [job.name for job in teachers] == ["teachers/k1-m0-c0.01"]
        assert {job.name: job.needs for job in cells.values()} == {
            **{f"{row}/{method}-bundled": () for row in "01" for method in ("k_means", "ours")},
            **{f"{row}/ours-k1-m0-c0.01": ("teachers/k1-m0-c0.01",) for row in "01"},
        }
        assert one_class_jobs(OneClassSettings(data="mnist"), ["0"], ["k_means"], weights)[0] == []

    def test_weights_have_the_papers_names(self):
        assert variant_of((1, 0, 1)) == variant_of((1.0, 0.0, 1.0)) == "k1-m0-c1"

    def test_classes_have_names_and_numbers(self):
        assert class_names("cifar10", [0, "cat", "9"]) == ["airplane", "cat", "truck"]
        assert class_names("mnist", None) == [str(digit) for digit in range(10)]

    def test_models_have_the_settings_of_appendix_b(self):
        settings = OneClassSettings(data="mnist")
        ours = create_one_class_model(settings, "ours", "bundled")
        assert (ours.model.mode, len(ours.model.scales[0].students)) == ("patch", 5)
        nearest = create_one_class_model(settings, "nearest_neighbour", "bundled").model.distribution
        assert nearest.dictionary_size is None
        autoencoder = create_one_class_model(settings, "autoencoder", "bundled").model.distribution
        assert (autoencoder.epochs, autoencoder.lr, autoencoder.batch_size) == (100, 1e-2, 64)

    def test_students_and_descriptors_have_the_architecture(self):
        settings = OneClassSettings(data="mnist", architecture="medium")
        for method in ("ours", "nearest_neighbour"):
            assert create_one_class_model(settings, method, "bundled").hparams["architecture"] == "medium"


class TestSettings:
    def test_results_keep_what_decides_on_them(self):
        kept = MVTecSettings(methods=["ours"], name="a", resume=True, source_checkpoint=Path("resnet18.pt")).as_dict()
        assert kept == {
            "experiment": "mvtec",
            "root": "datasets/MVTecAD",
            "architecture": "paper",
            "n_students": 3,
            "output_stride": 1,
            "training_mode": "dense",
            "teacher": "bundled",
            "image_size": 256,
            "epochs": None,
            "lr": 1e-4,
            "lr_schedule": "constant",
            "precision": "32-true",
            "train_limit": None,
            "test_limit": None,
            "baseline_samples": None,
            "source_checkpoint": "resnet18.pt",
            "source_layer": None,
            "seed": 0,
        }
        of_classes = OneClassSettings(data="mnist", classes=[0], loss_weights=[(1, 0, 0)], teacher_images=Path("a"))
        assert of_classes.as_dict().keys() - kept.keys() == {
            "data",
            "cache_dir",
            "patch_size",
            "batch_size",
            "teacher_images",
            "teacher_steps",
            "teacher_lr",
        }

    def test_paths_mean_the_same_in_every_process(self):
        here = Path.cwd()
        settings = MVTecSettings(root=Path("data"), teacher={33: "a.safetensors", 65: "bundled"}).absolute()
        assert (settings.root, settings.source_checkpoint) == (here / "data", None)
        assert settings.teacher == {33: str(here / "a.safetensors"), 65: "bundled"}
        # To which torchvision downloads.
        assert OneClassSettings(data="mnist").absolute().root == Path("datasets")
        assert OneClassSettings(data="mnist", root=Path("mnist")).absolute().root == here / "mnist"
