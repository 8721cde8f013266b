"""Inspect images one after the other: decoding, network and what is made of it overlap."""

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from math import exp
from pathlib import Path
from threading import Event, Thread

import numpy as np
from PIL import Image

from .model import LineModel, Prediction, Size
from .regions import Region, find_regions
from .sources import Item, decode

__all__ = ["Result", "inspect", "percentile"]

WAIT = 0.2
"""Seconds after which a request to stop is noticed, if no image comes."""


@dataclass(frozen=True)
class Result:
    """What was found on an image.

    Attributes:
        name: Path of the image, or its number in what was given.
        time: When it was inspected.
        score: Score in ``[0, 1]``; above 0.5 it is anomalous. None if the image could not be read.
        is_anomalous: Decision of the model.
        percentile: Percentage of good images that score lower; None if the model does not say.
        regions: Anomalous regions in pixels of the image, the largest first.
        milliseconds: Time for decoding, network and regions.
        error: Why the image could not be inspected; None if it was.
    """

    name: str
    time: datetime
    score: float | None = None
    is_anomalous: bool = False
    percentile: float | None = None
    regions: tuple[Region, ...] = ()
    milliseconds: float = 0.0
    error: str | None = None


Save = Callable[[Result, np.ndarray, Prediction], None]


def inspect(
    model: LineModel | str | Path,
    images: Iterable[Item | str | Path | np.ndarray],
    save: Save | None = None,
    stop: Event | None = None,
) -> Iterator[Result]:
    """Inspect images, in their order.

    Args:
        model: A model, or the file of one that anomalib has exported to OpenVINO or ONNX.
        images: Paths, or RGB arrays of shape ``(H, W, 3)`` and type uint8; may be endless, as a camera's.
        save: Called in a worker with each result, its image and what the model returned, to save pictures.
        stop: Ends the inspection after the images at hand when it is set.

    Yields:
        A result for each image, as soon as it and all before it are there. An image that cannot be read or scored has
        an error.

    Raises:
        ValueError: If the model is none.
        OSError: If ``save`` cannot write.

    Example:
        >>> for result in inspect("model.xml", ["part.png"]):  # doctest: +SKIP
        ...     print(result.name, result.score, result.regions)
    """
    model = model if isinstance(model, LineModel) else LineModel(model)
    stop = Event() if stop is None else stop
    # One more than the model computes at a time, which decodes.
    n_workers = 1 + model.n_requests
    pending: queue.Queue = queue.Queue(2 * n_workers)

    def put(value: object) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                pending.put(value, timeout=WAIT)
                return

    def feed() -> None:
        try:
            for number, image in enumerate(images):
                put(executor.submit(_inspect, model, _as_item(number, image), save))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  # raised where the results are taken
            put(error)

    with ThreadPoolExecutor(n_workers, thread_name_prefix="inspect") as executor:
        # A camera may never give another frame: nothing waits for this thread.
        Thread(target=feed, daemon=True).start()
        try:
            while True:
                try:
                    future = pending.get(timeout=WAIT)
                except queue.Empty:
                    if stop.is_set():
                        return
                    continue
                if future is None:
                    return
                if isinstance(future, BaseException):
                    raise future
                yield future.result()
        finally:
            stop.set()


def percentile(score: float, margin: float) -> float:
    """Percentage of good images that score lower, by Gumbel's distribution of the scores of held-out ones.

    Args:
        score: Score in ``[0, 1]``, with the mode of good images at 0.25 and the threshold at 0.5.
        margin: Distance of the threshold from the mode, in scales of the distribution.
    """
    centred = 2 * score - 1
    distance = centred / max(1 - abs(centred), 1e-9)
    return 100 * exp(-exp(min(-margin * (1 + distance), 700.0)))


def _fitted(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize an image for a model that takes one size only."""
    if size is None or image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _inspect(model: LineModel, item: Item, save: Save | None) -> Result:
    start = time.perf_counter()
    now = datetime.now().astimezone()
    try:
        image = decode(item)
        prediction = model.predict(_fitted(image, model.fixed_size))
    except (OSError, RuntimeError, ValueError) as error:
        return Result(item.name, now, error=" ".join(str(error).split()))
    regions = []
    if prediction.mask is not None and prediction.anomaly_map is not None:
        regions = find_regions(prediction.mask, prediction.anomaly_map, image.shape[:2])
    result = Result(
        item.name,
        now,
        prediction.score,
        prediction.is_anomalous,
        percentile(prediction.score, model.good["margin"]) if model.good else None,
        tuple(regions),
        1000 * (time.perf_counter() - start),
    )
    if save is not None:
        save(result, image, prediction)
    return result


def _as_item(number: int, image: Item | str | Path | np.ndarray) -> Item:
    if isinstance(image, np.ndarray):
        return Item(str(number), image)
    return image if isinstance(image, Item) else Item(str(image))
