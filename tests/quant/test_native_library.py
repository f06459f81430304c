"""The native library is found, checked and called; what is wrong with it is said with what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from quant import native_library
from quant.errors import LibraryError
from quant.ggml_library import _library_file, _library_folder
from quant.native_library import ISAS, LIBRARY, NativeLibrary, built_native, load_native

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_loaded_once_and_without_torch_or_numpy() -> None:
    code = (
        "import sys; from quant.native_library import load_native; assert load_native() is load_native(); "
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_best_instruction_set_is_used_and_the_portable_one_is_always_there() -> None:
    library = NativeLibrary(LIBRARY)
    assert library.isas()[-1] == "portable"
    assert library.isa == library.isas()[0] == next(name for name in ISAS if name in library.isas())


def test_an_instruction_set_can_be_chosen(isa: str) -> None:
    assert load_native().isa == isa


def test_an_unknown_instruction_set_is_refused() -> None:
    library = NativeLibrary(LIBRARY)
    known = "known are avx512vnni, avx512, avx2, portable"
    with pytest.raises(LibraryError, match=f"unknown instruction set 'sse9': {known}"):
        library.use("sse9")


def test_an_instruction_set_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = NativeLibrary(LIBRARY)
    monkeypatch.setitem(library._functions, "k2quant_isa_works", lambda number: int(number == 0))
    with pytest.raises(LibraryError, match="this machine cannot run avx512 instructions: choose one of portable"):
        library.use("avx512")


def test_a_machine_without_wide_registers_gets_the_portable_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeLibrary, "isas", lambda self: ["portable"])
    assert NativeLibrary(LIBRARY).isa == "portable"


def test_the_library_itself_denies_what_is_unknown() -> None:
    assert load_native()._functions["k2quant_isa_works"](7) == 0


def test_a_library_that_was_not_built_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_library, "LIBRARY", tmp_path / "libk2quant.so")
    with pytest.raises(LibraryError, match=r"libk2quant\.so is missing: build it with `pip install \.`"):
        load_native.__wrapped__()
    assert built_native() is None


def test_a_damaged_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libk2quant.so"
    path.write_text("no library")
    with pytest.raises(LibraryError, match="cannot be loaded"):
        NativeLibrary(path)


def test_another_library_is_refused() -> None:
    with pytest.raises(LibraryError, match="has no function k2quant_interface"):
        NativeLibrary(_library_file(_library_folder(), "ggml-base"))


def test_a_library_with_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "INTERFACE", 99)
    with pytest.raises(LibraryError, match="has interface 5, but 99 is needed: build it"):
        NativeLibrary(LIBRARY)


@pytest.mark.parametrize(
    "arguments",
    [
        (12, None, 1, 256, None, None),
        (12, 4096, 1, 255, None, 4096),
        (12, 4096, -1, 256, None, 4096),
        (12, 4096, 1 << 60, 256, None, 4096),
        (13, 4096, 1, 0, None, 4096),
        (99, 4096, 1, 256, None, 4096),
    ],
)
def test_wrong_arguments_are_refused_before_any_memory_is_touched(arguments: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="k2quant_encode does not take"):
        load_native().call("k2quant_encode", *arguments)


def test_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = NativeLibrary(LIBRARY)
    monkeypatch.setitem(library._functions, "k2quant_encode", lambda *arguments: native_library.NO_MEMORY)
    with pytest.raises(MemoryError):
        library.call("k2quant_encode", 12, 4096, 1, 256, None, 4096)


def test_the_names_and_numbers_are_those_of_the_header() -> None:
    header = (ROOT / "quant" / "native" / "include" / "k2quant.h").read_text(encoding="utf-8")
    assert f"#define K2QUANT_INTERFACE {native_library.INTERFACE} " in header
    assert all(f"K2QUANT_{name.upper()} = {number}" in header for name, number in ISAS.items())
    for name in ("OK", "BAD_ARGUMENT", "NOT_FINITE", "NO_MEMORY"):
        assert f"K2QUANT_{name} = {getattr(native_library, name)}" in header


def test_a_changed_source_is_built_by_make() -> None:
    sources = sorted(path for path in (ROOT / "quant" / "native").rglob("*") if path.suffix in (".cpp", ".h"))
    assert len(sources) > 10
    for path in [ROOT / "setup.py", *sources]:
        name = str(path.relative_to(ROOT))
        plan = subprocess.run(
            ["make", "-n", "-W", name, ".venv/.ready"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "pip --disable-pip-version-check install" in plan.stdout, name
