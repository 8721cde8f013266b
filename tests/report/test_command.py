"""The command ``anomalib-students report``."""

import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_students import cli


@pytest.fixture
def options(checkpoint, data_root, tmp_path):
    return [
        "report",
        f"--checkpoint={checkpoint}",
        f"--output={tmp_path / 'new' / 'report.html'}",
        "--device=cpu",
        "--data=MVTec",
        f"--data.root={data_root}",
        "--data.category=dots",
        "--data.num_workers=0",
    ]


def test_a_user_writes_a_report(options, checkpoint, tmp_path):
    command = Path(sys.executable).parent / "anomalib-students"
    done = subprocess.run([command, *options], check=True, capture_output=True, text=True, cwd=tmp_path)
    output = tmp_path / "new" / "report.html"
    assert done.stdout.splitlines()[-1] == f"The report is in {output}"
    html = output.read_text()
    assert html.count("<article") == 9
    assert str(checkpoint) in html
    # Nothing else is left behind.
    assert list(tmp_path.iterdir()) == [output.parent]
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint=gone.ckpt"], "There is no checkpoint gone.ckpt"),
        (["--data.category=gone"], "There are no images in"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(options, more, message, tmp_path):
    with pytest.raises(SystemExit) as error:
        cli.main([*options, *more])
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*.html"))
