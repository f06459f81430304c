"""libk2quant, the project's own vector code (quant/native), loaded and checked. Imports neither torch nor numpy.

It is called through ctypes, which releases the interpreter lock during a call. The library keeps no state; every call
says which instruction set it shall use. All sets give the same bytes.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quant.errors import LibraryError

LIBRARY = Path(__file__).resolve().parent / "native" / "libk2quant.so"
INTERFACE = 5  # K2QUANT_INTERFACE of k2quant.h
BUILD_HINT = "build it with `pip install .`, in a checkout `pip install -e .` (needs cmake and g++)"

# Instruction sets by name, best first, with their numbers in k2quant.h.
ISAS = {"avx512vnni": 3, "avx512": 2, "avx2": 1, "portable": 0}

# What a call returns.
OK, BAD_ARGUMENT, NOT_FINITE, NO_MEMORY = range(4)

_POINTER, _INT, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "k2quant_interface": (),
    "k2quant_encoding": (),
    "k2quant_isa_works": (_INT,),
    "k2quant_encode": (_INT, _INT, _POINTER, _INT64, _INT64, _POINTER, _POINTER),
    "k2quant_decode_fp8": (_INT, _POINTER, _POINTER, _INT64, _INT64, _POINTER),
    "k2quant_decode_int4": (_INT, _POINTER, _POINTER, _INT64, _INT64, _POINTER),
    "k2quant_serves": (_INT, _INT),
    "k2quant_multiply": (_INT, _INT, _POINTER, _INT64, _INT64, _POINTER, _INT64, _INT, _POINTER),
    "k2quant_gated": (_INT, _POINTER, _POINTER, _INT64),
    "k2quant_pool_open": (_INT, _INT, _INT, _INT, _POINTER),
    "k2quant_pool_close": (_INT, _POINTER),
    "k2quant_pool_threads": (_INT, _POINTER),
    "k2quant_linear": (_INT, _POINTER, _INT, _POINTER, _INT64, _INT64, _POINTER, _INT64, _POINTER),
    "k2quant_heads": (_INT, _POINTER, _INT, _POINTER, *[_INT64] * 3, _POINTER, *[_INT64] * 3, _POINTER),
    "k2quant_experts": (_INT, _POINTER, _POINTER, _INT64, _INT64, _POINTER, _INT64, *[_POINTER] * 4, _INT),
    "k2quant_read_roof": (_INT, _POINTER, _POINTER, _INT64, _POINTER),
    "k2quant_attend": (_INT, *[_POINTER] * 3, _INT64, _POINTER, _INT64, _INT64, _POINTER, _POINTER),
    "k2quant_attend_heads": (_INT, *[_POINTER] * 3, _INT64, _POINTER, _INT64, _INT64, *[_POINTER] * 3),
    "k2quant_pass": (
        *(_INT, _POINTER, _POINTER, _INT64, _INT64, _POINTER, _INT64, _POINTER, _INT64, _INT64),
        *(*[_POINTER] * 5, _INT64, _INT64, _POINTER, _POINTER),
    ),
    "k2quant_dispatch": (
        *(_INT, _POINTER, _POINTER, _INT64, _POINTER, _INT64, _POINTER, _POINTER, _INT64, _INT),
        *[_POINTER] * 3,
    ),
    "k2quant_decode_rows": (_INT, _INT, _POINTER, _INT64, _INT64, _POINTER, _INT64, _POINTER),
    "k2quant_rms_norm": (_INT, *[_POINTER] * 3, _INT64, _INT64, ctypes.c_float, _POINTER),
    "k2quant_route": (_INT, *[_POINTER] * 3, _INT64, *[_POINTER] * 3),
}


class NativeLibrary:
    """The functions of libk2quant, with the instruction set that they are called with.

    `isa` is the best that this machine has, unless `use` chose another.
    """

    def __init__(self, path: Path) -> None:
        """Load the library at `path`. Raises LibraryError when it is missing, damaged or of another version."""
        if not path.is_file():
            raise LibraryError(f"{path} is missing: {BUILD_HINT}")
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryError(f"{path} cannot be loaded ({error}): {BUILD_HINT}") from error
        self._functions: dict[str, Callable[..., int]] = {}
        for name, arguments in _FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise LibraryError(f"{path} has no function {name}, it is of another version: {BUILD_HINT}") from error
            function.restype, function.argtypes = _INT, arguments
            self._functions[name] = function
            if name == "k2quant_interface" and (found := function()) != INTERFACE:
                raise LibraryError(f"{path} has interface {found}, but {INTERFACE} is needed: {BUILD_HINT}")
        self.isa = self.isas()[0]

    def isas(self) -> list[str]:
        """The instruction sets that this machine can run, best first."""
        return [name for name, number in ISAS.items() if self._functions["k2quant_isa_works"](number)]

    def use(self, isa: str) -> None:
        """Call with this instruction set from now on. Raises LibraryError when there is none of the name, or when
        this machine cannot run it."""
        if isa not in ISAS:
            raise LibraryError(f"unknown instruction set {isa!r}: known are {', '.join(ISAS)}")
        if isa not in self.isas():
            raise LibraryError(f"this machine cannot run {isa} instructions: choose one of {', '.join(self.isas())}")
        self.isa = isa

    @property
    def encoding(self) -> int:
        """Version of the encoders: the same for libraries that give the same bytes."""
        return self._functions["k2quant_encoding"]()

    def multiplies(self, ggml_id: int) -> bool:
        """Whether it has kernels for rows of the type with this number."""
        return bool(self._functions["k2quant_serves"](ISAS[self.isa], ggml_id))

    def call(self, name: str, *arguments: Any) -> bool:
        """The C function `name` with the instruction set and `arguments`: whether the numbers were finite.

        ValueError for arguments that the function refuses: the caller has to check them before. MemoryError when
        there is none.
        """
        status = self._functions[name](ISAS[self.isa], *arguments)
        if status == NO_MEMORY:
            raise MemoryError(f"no memory for {name}")
        if status not in (OK, NOT_FINITE):
            raise ValueError(f"{name} does not take {arguments}")
        return status == OK


@functools.cache
def load_native() -> NativeLibrary:
    """The process's one library. Raises LibraryError when it was not built, or from other sources."""
    return NativeLibrary(LIBRARY)


def built_native() -> NativeLibrary | None:
    """`load_native()`, or None where it was not built: for work that can also be done, slower, without it."""
    return load_native() if LIBRARY.is_file() else None
