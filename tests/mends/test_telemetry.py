"""OpenVINO reports nothing to a host that the user has not said yes to."""

import openvino_telemetry
import pytest
from openvino_telemetry.utils.sender import TelemetrySender

from anomalib_students.mends import apply_mends

apply_mends()


@pytest.fixture
def sent(monkeypatch):
    """What goes to the process that sends."""
    messages = []
    monkeypatch.setattr(TelemetrySender, "send", lambda _, __, message: messages.append(message))
    return messages


def report(answer, home, monkeypatch):
    """Send an event as OpenVINO does, after the user's answer to the question of consent."""
    monkeypatch.setenv("HOME", str(home))
    if answer is not None:
        (home / "intel").mkdir()
        (home / "intel" / "openvino_telemetry").write_text(answer)
    telemetry = openvino_telemetry.Telemetry("test", "1", "id", "ga4", enable_opt_in_dialog=False)
    telemetry.init("test", "1", "id", "ga4", enable_opt_in_dialog=False)
    telemetry.send_event("ov", "import", "general_import")
    # It is the only one of the process.
    telemetry.consent = False


@pytest.mark.parametrize("answer", [None, "0"])
def test_openvino_reports_nothing_unasked(answer, sent, tmp_path, monkeypatch):
    report(answer, tmp_path, monkeypatch)
    assert sent == []
    assert not (tmp_path / "intel" / "openvino_ga_cid").exists()


def test_openvino_reports_if_it_is_told_to(sent, tmp_path, monkeypatch):
    report("1", tmp_path, monkeypatch)
    assert len(sent) == 1
