"""The ggml library is found without llama_cpp, checked, and there once."""

import subprocess
import sys
from pathlib import Path

import pytest

from quant import ggml_library
from quant.errors import LibraryError
from quant.ggml_library import check_block_types, check_version, load_ggml
from quant.types import BLOCK_TYPES, BlockType, block_type


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_loading_does_not_import_llama_cpp() -> None:
    code = "import sys; from quant.ggml_library import load_ggml; load_ggml(); print('llama_cpp' in sys.modules)"
    assert run_python(code) == "False"


def test_the_library_is_loaded_once() -> None:
    assert load_ggml() is load_ggml()


@pytest.mark.parametrize("order", ["load_ggml(); import llama_cpp", "import llama_cpp; load_ggml()"])
def test_llama_cpp_shares_the_copy(order: str) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps on this system")
    code = f"""
from quant.ggml_library import load_ggml
{order}
print(len({{line.split()[-1] for line in open('/proc/self/maps') if 'libggml-base' in line}}))"""
    assert run_python(code) == "1"


def test_every_type_of_the_table_is_laid_out_as_in_ggml() -> None:
    check_block_types(load_ggml(), BLOCK_TYPES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (BlockType("Q4_K", 12, 256, 146), "but 256 in 144 in ggml"),
        (BlockType("Q4_K", 12, 128, 144), "but 256 in 144 in ggml"),
        (BlockType("Q4_K", 13, 256, 176), "q5_K"),
    ],
)
def test_a_type_that_differs_is_named(wrong: BlockType, said: str) -> None:
    with pytest.raises(LibraryError, match=said) as caught:
        check_block_types(load_ggml(), [wrong])
    assert wrong.name in str(caught.value)


@pytest.mark.parametrize("version", ["0.9.4", "0.24", "unknown"])
def test_an_older_library_is_refused(version: str) -> None:
    with pytest.raises(LibraryError, match=f"ggml {version} is older than 0.25"):
        check_version(version)


def test_only_grid_types_require_an_importance() -> None:
    library = load_ggml()
    requiring = {block.name for block in BLOCK_TYPES if library.requires_importance(block)}
    assert requiring == {"IQ2_XXS", "IQ2_XS", "IQ1_S"}


def test_traits_belong_to_their_type() -> None:
    library = load_ggml()
    assert library.traits(block_type("Q6_K")).block_bytes == 210
    assert library.cpu_traits(block_type("Q6_K").ggml_id).vec_dot_type == 15  # activations in Q8_K
    assert library.cpu_traits(block_type("Q5_0").ggml_id).vec_dot_type == 8  # activations in Q8_0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_library, "PACKAGE", "no_such_package_k2lite")
    with pytest.raises(LibraryError, match=r"no_such_package_k2lite.*install llama-cpp-python"):
        load_ggml.__wrapped__()


def test_a_package_without_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_library, "PACKAGE", "quant")
    with pytest.raises(LibraryError, match="no ggml-base library in"):
        load_ggml.__wrapped__()


def test_a_damaged_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libggml-base.so").write_bytes(b"not a library")
    monkeypatch.setattr(ggml_library, "_library_folder", lambda: tmp_path)
    with pytest.raises(LibraryError, match="cannot be loaded"):
        load_ggml.__wrapped__()


def test_the_file_with_the_major_version_is_taken(tmp_path: Path) -> None:
    for name in ("libggml-base.so", "libggml-base.so.0", "libggml-base.so.0.25.3", "libggml-base.so.txt"):
        (tmp_path / name).touch()
    assert ggml_library._library_file(tmp_path, "ggml-base").name == "libggml-base.so.0"


def test_another_tensor_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = load_ggml()
    monkeypatch.setattr(ggml_library, "OBJECT_BYTES", 40)
    with pytest.raises(LibraryError, match="does not lay out tensors as k2lite expects"):
        ggml_library._check_layout(library)
