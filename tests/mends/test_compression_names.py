"""Names of the option ``compression_type``."""

import pytest
from anomalib.deploy import CompressionType
from jsonargparse import ArgumentParser

from anomalib_students.mends import apply_mends

apply_mends()


@pytest.fixture
def parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--compression_type", type=CompressionType | None)
    return parser


@pytest.mark.parametrize("name", ["int8_ptq", "INT8_PTQ"])
def test_both_are_taken(name, parser):
    settings = parser.parse_args(["--compression_type", name])
    assert settings.compression_type is CompressionType.INT8_PTQ
    assert parser.dump(settings) == "compression_type: INT8_PTQ\n"


def test_others_are_refused(parser):
    with pytest.raises(Exception, match="int3"):
        parser.parse_args(["--compression_type", "int3"])
