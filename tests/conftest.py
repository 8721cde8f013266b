"""What several test files share: random numbers, narrow networks, pictures, and a source network's checkpoint."""

import os
from pathlib import Path
from threading import Thread

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Before torch is imported: test processes side by side share the cores, and so do the commands that they start.
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

import numpy as np
import openvino
import pytest
import timm
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from safetensors.torch import save_file

from anomalib_students.networks import patch_network

settings.register_profile(
    "few",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    # Fixtures are the same for all examples.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("few")


def pytest_collection_modifyitems(items):
    """Begin with the tests that start Ray, which last long."""
    items.sort(key=lambda item: not starts_ray(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one process, which shares what they set up, and those that start Ray all in one."""
    from xdist.scheduler import LoadFileScheduling

    class RayTogether(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "ray" if starts_ray(nodeid) else super()._split_scope(nodeid)

        def remove_node(self, node):
            """Hand out what a process that has crashed has left.

            By default, xdist 3.8 hands out the files that are done, which no process ever reports, so that the run
            would hang; and the test that has crashed, which would crash the next process.
            """
            assigned = self.assigned_work.pop(node)
            left = [(scope, nodeid) for scope, unit in assigned.items() for nodeid, done in unit.items() if not done]
            for scope, nodeid in left[1:]:
                self.workqueue.setdefault(scope, {})[nodeid] = False
            for other in self.assigned_work:
                self._reschedule(other)
            return left[0][1] if left else None

    return RayTogether(config, log)


def starts_ray(nodeid):
    return "ray_jobs/" in nodeid or "test_ray_" in nodeid


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _signal_stacks():
    """Load OpenVINO's plugin in threads that end, or a signal of a later test may crash: see docs/known_faults.md.

    Where oneDNN may use no more than AVX2, OpenVINO too is to choose what it would choose on such a processor.
    """
    init = openvino.Core.__init__
    settings = {"INFERENCE_PRECISION_HINT": "f32"} if "ONEDNN_MAX_CPU_ISA" in os.environ else {}

    def load_elsewhere(core, *args):
        init(core, *args)
        thread = Thread(target=core.get_property, args=("CPU", "FULL_DEVICE_NAME"))
        thread.start()
        thread.join()
        core.set_property("CPU", settings)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(openvino.Core, "__init__", load_elsewhere)
        yield


@pytest.fixture(scope="session")
def narrow_layers():
    """The layers of the paper's networks with a sixteenth of their channels."""
    return {
        patch_size: tuple(layer._replace(channels=layer.channels and layer.channels // 16) for layer in layers)
        for patch_size, layers in patch_network.LAYERS.items()
    }


@pytest.fixture
def narrow_networks(narrow_layers, monkeypatch):
    """Patch networks of the same geometry as the paper's that are cheap to run."""
    monkeypatch.setattr(patch_network, "LAYERS", narrow_layers)


@pytest.fixture(scope="session")
def resnet18_checkpoint(tmp_path_factory):
    """Random weights of a ResNet-18 up to its third layer."""
    with torch.random.fork_rng():
        torch.manual_seed(18)
        model = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
        # Running statistics of fresh weights are 0 and 1: with others, evaluation mode can be told from training.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.8, 1.2)
    path = tmp_path_factory.mktemp("source") / "resnet18.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Folder of six small pictures, no two alike."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(random.integers(256, size=(6, 8, 3), dtype=np.uint8))
        coarse.resize((80, 60)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """Folder with a tiny MNIST in torchvision's files: 20 training and 6 test images of each of three digits.

    The digit k is a bright bar from row 4 + 3 k on, somewhere to the left or right.
    """
    root = tmp_path_factory.mktemp("mnist")
    (root / "MNIST" / "raw").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 6)):
        labels = random.permutation(np.repeat([0, 1, 7], count)).astype(np.uint8)
        images = random.integers(30, size=(len(labels), 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            left = random.integers(4, 10)
            image[4 + 3 * label : 7 + 3 * label, left : left + 14] = 255
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x800 + values.ndim, *values.shape], dtype=">i4").tobytes()
            (root / "MNIST" / "raw" / f"{split}-{kind}-ubyte").write_bytes(header + values.tobytes())
    return root


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real data sets, where there is one."""
    folder = os.environ.get("ANOMALIB_STUDENTS_DATA")
    if not folder:
        pytest.skip("the environment variable ANOMALIB_STUDENTS_DATA names no folder of real data sets")
    return Path(folder)
