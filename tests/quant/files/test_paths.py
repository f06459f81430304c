"""Looking at a path never ends in anything but yes or no."""

from pathlib import Path

from quant.files.paths import is_file, is_folder

TOO_LONG = "a" * 300


def test_folders_and_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert (is_folder(tmp_path), is_file(tmp_path)) == (True, False)
    assert (is_folder(tmp_path / "file"), is_file(tmp_path / "file")) == (False, True)


def test_what_the_system_refuses_to_look_at_is_not_there(tmp_path: Path) -> None:
    assert not is_folder(tmp_path / TOO_LONG)
    assert not is_file(tmp_path / TOO_LONG)
