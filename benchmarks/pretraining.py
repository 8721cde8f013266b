"""Measure whether the networks or the patches limit the speed of a teacher's pretraining.

For each patch size it prints the patches a second of only the drawing, of the source network, and of a whole training
step on patches that are already drawn, and how many times faster the drawing is than the step. ``--triplets`` adds
metric learning, of which a step draws and describes three patches for each.

    python benchmarks/pretraining.py --images path/to/photographs --source_checkpoint resnet18.safetensors
"""

from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from lightning.fabric import Fabric
from measuring import machine, seconds
from rich.console import Console
from rich.table import Table

from anomalib_students.networks.patch_network import LAYERS
from anomalib_students.teacher.data import ImageStore, PatchSampler, find_images, load_images
from anomalib_students.teacher.pretrain import PretrainSettings, TeacherPretraining
from anomalib_students.teacher.sources import DistillationSource


def pretraining(
    images: Path,
    source: str = "resnet18",
    source_checkpoint: Path | None = None,
    source_layer: str = "layer3",
    source_size: int = 64,
    batch_size: int = 64,
    triplets: bool = False,
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed",
    accelerator: str = "auto",
    max_images: int = 500,
    runs: int = 10,
) -> None:
    """Print patches a second of the drawing, of the source and of a training step.

    Args:
        images: Folder of images.
        source: Name of a timm model.
        source_checkpoint: Weights of that model.
        source_layer: Layer of that model.
        source_size: Side in pixels at which that model sees a patch.
        batch_size: Patches in a step.
        triplets: Whether to learn from triplets too.
        precision: Arithmetic of the networks.
        accelerator: Lightning accelerator.
        max_images: Images to draw from.
        runs: Steps to time of each kind.
    """
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    device = fabric.device
    store = ImageStore.from_images(load_images(find_images(images)[:max_images], side=256)).to(device)
    network = fabric.to_device(DistillationSource(source, source_checkpoint, source_layer, source_size))

    table = Table(title=f"Patches a second on {machine(device)}, {precision}")
    for heading in ("p", "drawing", "source", "step", "drawing / step"):
        table.add_column(heading, justify="right")
    for patch_size in LAYERS:
        sampler = PatchSampler(store, patch_size, batch_size, seed=0, triplets=triplets)
        settings = PretrainSettings(
            images=images,
            output=Path("teacher.safetensors"),
            patch_size=patch_size,
            lambda_m=float(triplets),
        )
        module = TeacherPretraining(network, store, store, settings).to(device)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
        patches = sampler.draw(0)

        def describe(patches: torch.Tensor = patches) -> torch.Tensor:
            with fabric.autocast():
                return network(patches[0])

        def step(
            patches: torch.Tensor = patches,
            module: TeacherPretraining = module,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            with fabric.autocast():
                loss, _ = module.loss(patches)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        numbers = iter(range(runs + 1))
        drawing = seconds(lambda sampler=sampler, numbers=numbers: sampler.draw(next(numbers)), device, runs)
        of_source, of_step = seconds(describe, device, runs), seconds(step, device, runs)
        rates = (batch_size / drawing, batch_size / of_source, batch_size / of_step)
        table.add_row(str(patch_size), *(f"{rate:,.0f}" for rate in rates), f"{of_step / drawing:.1f}")
    Console().print(table)


if __name__ == "__main__":
    auto_cli(pretraining, as_positional=False)
