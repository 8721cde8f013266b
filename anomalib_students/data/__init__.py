"""Data: MVTec AD under the name that users type, and a rendered category that needs no download."""

from anomalib_students.data.mvtec import MVTec
from anomalib_students.data.sample_parts import SampleParts

__all__ = ["MVTec", "SampleParts"]
