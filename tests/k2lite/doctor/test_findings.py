"""Findings about machines that this one is not."""

from pathlib import Path

import pytest

from k2lite.doctor import cards, drive, host, packages
from k2lite.doctor.driver import driver_version
from offload.probe_cards import CardFacts
from offload.probe_drive import DriveSpeed, ProbeError
from offload.probe_host import HostMemory

CARD = CardFacts(0, "RTX 4090", 24 << 30, 23 << 30, 950e9, 25e9)


def test_a_link_with_half_its_lanes_is_a_hint() -> None:
    assert cards._card(CARD, (16, 16, "16.0 GT/s PCIe")).state == "ok"
    found = cards._card(CARD, (8, 16, "16.0 GT/s PCIe"))
    assert found.state == "hint"
    assert "8 of 16 lanes of 16.0 GT/s" in found.value
    assert cards._card(CARD, None).state == "ok"


def test_a_slow_link_and_a_full_card_are_hints() -> None:
    slow = CardFacts(0, "RTX 4090", 24 << 30, 23 << 30, 950e9, 3e9)
    full = CardFacts(0, "RTX 4090", 24 << 30, 2 << 30, 950e9, 25e9)
    assert "16 lanes" in cards._card(slow, None).advice
    assert "nvidia-smi" in cards._card(full, None).advice


def test_lanes_are_read_from_the_system(tmp_path: Path) -> None:
    folder = tmp_path / "0000:01:00.0"
    folder.mkdir()
    for name, text in (("current_link_width", "8"), ("max_link_width", "16"), ("current_link_speed", "16.0 GT/s PCIe")):
        (folder / name).write_text(text + "\n")
    assert cards.link_of("0000:01:00.0", tmp_path) == (8, 16, "16.0 GT/s PCIe")
    assert cards.link_of("0000:02:00.0", tmp_path) is None


def test_the_driver_is_read_from_the_system(tmp_path: Path) -> None:
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC version: 12\n")
    assert driver_version(path) == "580.95.05"
    assert driver_version(tmp_path / "missing") is None


def test_a_driver_without_a_torch_that_can_use_it_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(cards, "driver_version", lambda: "580.95.05")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (_, found) = cards.card_findings(measure=False)
    assert (found.name, found.state) == ("cards", "hint")
    assert "without CUDA" in found.advice


def test_an_old_torch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.4.1+cu121")
    (found,) = cards.card_findings(measure=False)
    assert found.state == "fails"


@pytest.mark.parametrize(
    ("kind", "free", "state"),
    [("ext4", 900 << 30, "ok"), ("ext4", 1 << 30, "hint"), ("tmpfs", 900 << 30, "hint"), ("nfs4", 900 << 30, "hint")],
)
def test_the_drive_is_judged_by_kind_and_room(
    kind: str, free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        pass

    usage = Usage()
    usage.free = free  # type: ignore[attr-defined]
    monkeypatch.setattr(drive, "file_system_of", lambda place: kind)
    monkeypatch.setattr(drive.shutil, "disk_usage", lambda place: usage)
    (found,) = drive.drive_findings(tmp_path / "not yet" / "there", measure=False)
    assert found.state == state


def test_the_drive_is_judged_by_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for speed, direct, state in ((7e9, True, "ok"), (1e9, True, "hint"), (7e9, False, "hint")):
        monkeypatch.setattr(drive, "probe_drive", lambda place, s=speed, d=direct: DriveSpeed(s, d, 1 << 30, "ext4"))
        assert drive._speed(tmp_path).state == state

    def broken(place: Path) -> DriveSpeed:
        raise ProbeError("the drive is not there: say how fast it is")

    monkeypatch.setattr(drive, "probe_drive", broken)
    assert drive._speed(tmp_path).state == "hint"


def test_a_memory_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "host_memory", lambda: HostMemory(8 << 30, 7 << 30, 8 << 30, None))
    found = {finding.name: finding for finding in host._memory()}
    assert found["RAM"].value.startswith("8.00 GiB")
    assert found["memory limit"].state == "hint"


def test_a_missing_package_is_told_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    find = packages.importlib.util.find_spec
    absent = ("tokenizers", "bitsandbytes", "llama_cpp")
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    found = {finding.name: finding for finding in packages.package_findings()}
    assert found["tokenizers"].state == "fails"
    assert found["bitsandbytes"].state == found["llama-cpp-python"].state == "hint"
    assert found["gguf"].state == "ok"
