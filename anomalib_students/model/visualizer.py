"""Pictures of predictions, with images as our data modules read them."""

from pathlib import Path

from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Trainer
from PIL import Image
from torchvision.transforms.v2.functional import to_image

from anomalib_students.image_files import read_rgb


class PictureWriter(ImageVisualizer):
    """anomalib's visualizer, which shows grey images of 16 bits and turned ones as the model has seen them."""

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: AnomalibModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a picture of each image of a batch into the folder ``images`` of the results."""
        if self.output_dir is None:
            self.output_dir = Path(trainer.default_root_dir) / "images"
        datamodule = getattr(trainer, "datamodule", None)
        name, category = (getattr(datamodule, attribute, None) for attribute in ("name", "category"))
        for item in batch:
            path = item.image_path
            shown = item
            if path:
                # From a path, anomalib would read the image itself.
                image = to_image(read_rgb(path).resize(self.field_size))
                shown = item.update(in_place=False, image=image, image_path=None)
            picture = self.visualize(shown)
            if isinstance(picture, Image.Image):
                picture.save(generate_output_filename(path or "", self.output_dir, name, category))
