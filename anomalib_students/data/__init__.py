"""Data: a folder of parts, MVTec AD under the name that users type, and the sample parts."""

from anomalib_students.data.mvtec import MVTec
from anomalib_students.data.parts import Parts
from anomalib_students.data.sample_parts import SampleParts

__all__ = ["MVTec", "Parts", "SampleParts"]
