"""Draw the anomaly maps of some test images side by side, as in README.

    python benchmarks/heat_maps.py --checkpoint results/.../model.ckpt --output maps.png \
        --images data/pill/test/crack/000.png data/pill/test/color/001.png

Each map has a colour scale of its own, from its least to its greatest score.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from jsonargparse import auto_cli
from PIL import Image, ImageDraw


def heat_maps(checkpoint: Path, images: list[Path], output: Path, show_images: bool = False) -> None:
    """Draw a panel of anomaly maps.

    Args:
        checkpoint: Checkpoint of a trained model.
        images: Images to predict.
        output: PNG file to write.
        show_images: Draw the images above their maps. Mind the licence of the images.
    """
    model = UninformedStudents.load_from_checkpoint(checkpoint)
    engine = Engine(enable_progress_bar=False)
    maps = [engine.predict(model, data_path=image)[0].anomaly_map.squeeze().cpu().numpy() for image in images]
    side, gap, title = 256, 8, 18
    rows = 2 if show_images else 1
    panel = Image.new("RGB", (len(images) * (side + gap) - gap, title + rows * (side + gap) - gap), "white")
    draw = ImageDraw.Draw(panel)
    for index, (image, values) in enumerate(zip(images, maps, strict=True)):
        left = index * (side + gap)
        draw.text((left, 2), f"{image.parent.name} {image.stem}", fill="black")
        colours = mpl.colormaps["inferno"]((values - values.min()) / np.ptp(values))
        heat_map = Image.fromarray((255 * colours[..., :3]).astype(np.uint8)).resize((side, side))
        panel.paste(heat_map, (left, title + (rows - 1) * (side + gap)))
        if show_images:
            panel.paste(Image.open(image).convert("RGB").resize((side, side)), (left, title))
    panel.save(output)


if __name__ == "__main__":
    auto_cli(heat_maps, as_positional=False)
