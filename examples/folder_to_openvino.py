# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a folder of photographs to OpenVINO
#
# Photographs of good parts are all that is needed. Here they are 60 of the embedded sample parts, copied into a folder as yours
# might be. The training is cut to 400 steps, so that this notebook ends in a minute or two; leave `max_steps` out for a real one.

# %% tags=["remove_input"]
import logging
import os
import tempfile
import warnings

from lightning import seed_everything

os.chdir(tempfile.mkdtemp())
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
_ = seed_everything(0)

# %%
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
from anomalib.data import Parts, SampleParts
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from PIL import Image

sample_parts = SampleParts()
sample_parts.prepare_data()
source = sample_parts.root / sample_parts.category
shutil.copytree(source / "train" / "good", "parts/good")
len(list(Path("parts/good").iterdir()))

# %% [markdown]
# ## Train
#
# The model holds out ten of the images to choose the threshold from.

# %%
# %%capture
model = UninformedStudents()
engine = Engine(max_steps=400, check_val_every_n_epoch=100, logger=False, enable_progress_bar=False)
engine.fit(model, datamodule=Parts("parts"))

# %%
print(model.post_processor.decision)

# %% [markdown]
# ## Export
#
# The exported model resizes and normalises images, scores them and decides. Nothing else has to be carried along.

# %%
# %%capture
model = UninformedStudents.load_from_checkpoint(engine.best_model_path)
exported = model.to_openvino("exported")

# %% [markdown]
# ## Decide
#
# On a good part that was not trained on, and on the most obvious of some defects:

# %%
inferencer = OpenVINOInferencer(exported, device="CPU")
images = [min((source / "test" / kind).iterdir()) for kind in ("good", "dent", "faulty_hole", "scratch", "stain")]
predictions = [inferencer.predict(image) for image in images]
for image, prediction in zip(images, predictions, strict=True):
    verdict = "anomalous" if prediction.pred_label.item() else "good"
    print(f"{image.parent.name:12} {verdict:10} {prediction.pred_score.item():.2f}")

# %%
figure, axes = plt.subplots(2, len(images), figsize=(11, 4.6), layout="constrained")
highest = max(prediction.anomaly_map.max() for prediction in predictions)
for (top, bottom), image, prediction in zip(axes.T, images, predictions, strict=True):
    top.imshow(Image.open(image))
    top.set_title(image.parent.name)
    bottom.imshow(prediction.anomaly_map[0, 0], cmap="inferno", vmin=0, vmax=highest)
for cell in axes.flat:
    cell.set_axis_off()
