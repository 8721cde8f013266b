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
# # What students see
#
# A teacher describes each pixel by 208 numbers, and three students learn to guess them on good parts. This notebook looks at one
# scratched part through the eyes of all four. The equations are on the page "How it works".

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
import matplotlib.pyplot as plt
import torch
from anomalib.data import SampleParts
from anomalib.engine import Engine
from anomalib.models import UninformedStudents
from sklearn.decomposition import PCA

from anomalib_students.model.anomaly_map import regression_error
from anomalib_students.networks.dense import pad_border

# %% [markdown]
# The default model has one student; three can also disagree. 300 steps are enough to look at, and done in a minute or two.

# %%
# %%capture
model = UninformedStudents(n_students=3)
parts = SampleParts()
engine = Engine(max_steps=300, check_val_every_n_epoch=100, logger=False, enable_progress_bar=False)
engine.fit(model, datamodule=parts)
model.eval()

# %% [markdown]
# ## Descriptors
#
# All networks describe every fourth pixel, and the teacher's descriptors are normalised (eq. 7).

# %%
scale = model.model.scales[0]
test = parts.test_data
scratched = [test[index] for index, path in enumerate(test.samples.image_path) if "scratch" in path]
batch = test.collate_fn([max(scratched, key=lambda item: item.gt_mask.sum())])
with torch.no_grad():
    images = model.pre_processor(batch.image)
    students, teacher, unusual = scale.describe(pad_border(images, scale.patch_size), output_stride=4)
students.shape, teacher.shape  # (M, B, d, h, w) and (B, d, h, w)

# %% [markdown]
# 208 numbers a pixel can't be shown. Their three principal components can, as red, green and blue; the same for the teacher and
# the students. The students have learnt flanges, and paint the scratch as if it were one.


# %%
def flat(descriptors):
    return descriptors[0].flatten(1).T.numpy()


components = PCA(3).fit(flat(teacher))


def colours(descriptors):
    values = components.transform(flat(descriptors)) / components.explained_variance_**0.5
    return (values.reshape(*teacher.shape[-2:], 3) / 5 + 0.5).clip(0, 1)


names = ["image", "teacher", "student 1", "student 2", "student 3"]
pictures = [batch.image[0].permute(1, 2, 0), colours(teacher), *(colours(student) for student in students)]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
for cell, name, picture in zip(axes, names, pictures, strict=True):
    cell.imshow(picture)
    cell.set_title(name)
    cell.set_axis_off()

# %% [markdown]
# ## Error, uncertainty, score
#
# How far is the mean of the students from the teacher (e, eqs. 8 and 9), and how far are they from each other (v, eq. 10)? The error
# is in the patches of all pixels around the scratch. The teacher's fine features see only the 19 pixels in the middle of each patch:
# where they are more unusual nearby, e is reduced, and directions in which students hardly err on good parts count more. Both are
# expressed in deviations from what good parts have, and added (eq. 11).

# %%
with torch.no_grad():
    error, uncertainty = scale.measure(images, output_stride=4)
    score = scale.score(error, uncertainty)
figure, axes = plt.subplots(1, 6, figsize=(13, 2.6), layout="constrained")
axes[0].imshow(batch.gt_mask[0], cmap="gray")
for cell, values in zip(
    axes[1:], (regression_error(students, teacher), unusual, error, uncertainty, score), strict=True
):
    figure.colorbar(cell.imshow(values[0], cmap="inferno"), ax=cell, shrink=0.7)
for cell, name in zip(
    axes, ("ground truth", "e", "unusual middle", "e, weighted\nand focused", "v", "score"), strict=True
):
    cell.set_title(name)
    cell.set_axis_off()
