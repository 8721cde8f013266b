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
# # A teacher from own photographs
#
# The bundled teachers have seen photographs of everyday objects. If your images look unlike these, such as X-rays or thermal images,
# a teacher can be trained on your own, without labels and without another network: from triplets of patches (eqs. 2 to 4).
#
# The photographs are stood in for by the sample parts here, and everything is cut short: 100 steps, where
# the bundled teachers have thousands. So this shows how it is done, and not how good it gets.

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
from pathlib import Path

from anomalib.data import SampleParts
from anomalib.engine import Engine
from anomalib.models import UninformedStudents

from anomalib_students.networks.weights import read_metadata
from anomalib_students.teacher.pretrain import pretrain

parts = SampleParts()
parts.prepare_data()
photographs = parts.root / parts.category / "train"

# %% [markdown]
# ## Pretrain
#
# The command line has the same options: `anomalib-students pretrain --images ... --lambda_k 0 --lambda_m 1`.

# %%
# %%capture
pretrain(
    images=photographs,
    output=Path("my_teacher.safetensors"),
    patch_size=33,
    batch_size=8,
    lambda_k=0,
    lambda_m=1,
    lambda_c=0.01,
    lr=1e-3,
    max_steps=100,
    checkpoint_every=100,
)

# %% [markdown]
# The file says how it was made. `held_out_triplets` is the fraction of triplets of other images that the teacher orders rightly.

# %%
read_metadata(Path("my_teacher.safetensors"))

# %% [markdown]
# ## Train students
#
# The teacher must have the patch size and architecture of the students.

# %%
# %%capture
model = UninformedStudents(architecture="paper", patch_sizes=(33,), image_size=128, teacher="my_teacher.safetensors")
engine = Engine(max_steps=100, check_val_every_n_epoch=100, logger=False, enable_progress_bar=False)
engine.fit(model, datamodule=parts)
results = engine.test(model, datamodule=parts, verbose=False)

# %%
{name: round(value, 3) for name, value in results[0].items()}
