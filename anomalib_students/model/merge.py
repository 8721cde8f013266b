"""Join models of single scales into one multi-scale model (eq. 12)."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import cast

from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor

from .lightning_model import UninformedStudents

MAY_DIFFER = {"patch_sizes", "optimizer", "lr", "lr_schedule"}  # Settings in which the models may differ.


def merge_scales(models: Sequence[UninformedStudents]) -> UninformedStudents:
    """Join the scales of several models, whose scores are comparable already (eq. 11).

    The result equals a model that was trained with these patch sizes together, from the same seed. Only its threshold
    and the range of its scores are still to be measured, by ``Engine().validate(model, datamodule=datamodule)``.

    Args:
        models: Trained models, with one or several patch sizes each.

    Returns:
        Model with all their patch sizes, in ascending order, in evaluation mode.

    Raises:
        ValueError: If two share a patch size, or they differ in a setting of the merged model.
    """
    ensembles = {size: model.model.ensembles[f"p{size}"] for model in models for size in model.model.patch_sizes}
    if len(ensembles) < sum(len(model.model.patch_sizes) for model in models):
        raise ValueError(f"Each patch size can be merged once, got {[model.model.patch_sizes for model in models]}.")
    first = models[0]
    for name in sorted(asdict(first.settings).keys() - MAY_DIFFER):
        values = [getattr(model.settings, name) for model in models]
        if len(set(values)) > 1:
            raise ValueError(f"The models to be merged must have the same {name}, got {values}.")
    post_processor: PostProcessor | bool = False
    if isinstance(own := first.post_processor, PostProcessor):
        # Its settings, without its statistics of the scores of one scale.
        post_processor = type(own)()
        post_processor.load_checkpoint_config(own.checkpoint_config())
    merged = UninformedStudents(
        replace(first.settings, patch_sizes=tuple(sorted(ensembles))),
        teacher=None,
        pre_processor=cast("PreProcessor | None", first.pre_processor) or False,
        post_processor=post_processor,
        evaluator=first.evaluator is not None,
        visualizer=first.visualizer is not None,
    )
    for size, ensemble in ensembles.items():
        merged.model.ensembles[f"p{size}"].load_state_dict(ensemble.state_dict())
    return merged.eval()
