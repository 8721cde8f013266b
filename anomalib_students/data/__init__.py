"""Data: MVTec AD under the name that users type, sample parts, and classes of images, one of which is normal."""

from anomalib_students.data.mvtec import MVTec
from anomalib_students.data.one_class import OneClassImageFolder
from anomalib_students.data.one_class_torchvision import OneClassCIFAR10, OneClassMNIST
from anomalib_students.data.sample_parts import SampleParts
from anomalib_students.mends import apply_mends

__all__ = ["MVTec", "OneClassCIFAR10", "OneClassImageFolder", "OneClassMNIST", "SampleParts"]

apply_mends()
