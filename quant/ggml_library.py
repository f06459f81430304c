"""ggml as it comes with llama-cpp-python: found, loaded and checked, without importing llama_cpp.

Encoders for every block type and multiply kernels live in two shared libraries of that package. They are called
through ctypes, which releases the interpreter lock during a call. ggml ends the process when it is called wrongly,
so everything that it would only assert is checked here or by the callers first.
"""

import ctypes
import functools
import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from quant.errors import LibraryError
from quant.types import BLOCK_TYPES, BlockType

PACKAGE = "llama_cpp"
INSTALL_HINT = "install llama-cpp-python 0.3.36 or newer"
OLDEST_VERSION = (0, 25)  # of ggml: fewer types and other structures before
MAX_DIMS = 4
OBJECT_BYTES = 32  # ggml keeps this much beside every tensor and graph of a context


class InitParams(ctypes.Structure):
    """`ggml_init_params`: memory for tensor headers; with `no_alloc` the tensors get no data of their own."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Tensor(ctypes.Structure):
    """`ggml_tensor`. `ne` counts elements and `nb` strides in bytes, fastest dimension first."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMS),
        ("nb", ctypes.c_size_t * MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class GraphPlan(ctypes.Structure):
    """`ggml_cplan`: how a graph is computed. The caller provides `work_data` of `work_size` bytes."""

    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work_data", ctypes.c_void_p),
        ("n_threads", ctypes.c_int),
        ("threadpool", ctypes.c_void_p),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("use_ref", ctypes.c_bool),
    )


class Traits(ctypes.Structure):
    """`ggml_type_traits`: the layout of a type and how it becomes float32."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


class CpuTraits(ctypes.Structure):
    """`ggml_type_traits_cpu`: `vec_dot` multiplies a row of this type with one of type `vec_dot_type`."""

    _fields_ = (
        ("from_float", ctypes.c_void_p),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("n_rows", ctypes.c_int64),
    )


CONVERT_ROWS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

_POINTER, _INT, _INT64, _SIZE, _BOOL = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_size_t,
    ctypes.c_bool,
)
_TENSOR = ctypes.POINTER(Tensor)
_BASE_FUNCTIONS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("ggml_version", ctypes.c_char_p, ()),
    ("ggml_type_name", ctypes.c_char_p, (_INT,)),
    ("ggml_get_type_traits", ctypes.POINTER(Traits), (_INT,)),
    ("ggml_row_size", _SIZE, (_INT, _INT64)),
    ("ggml_quantize_requires_imatrix", _BOOL, (_INT,)),
    ("ggml_quantize_chunk", _SIZE, (_INT, _POINTER, _POINTER, _INT64, _INT64, _INT64, _POINTER)),
    ("ggml_validate_row_data", _BOOL, (_INT, _POINTER, _SIZE)),
    ("ggml_init", _POINTER, (InitParams,)),
    ("ggml_free", None, (_POINTER,)),
    ("ggml_tensor_overhead", _SIZE, ()),
    ("ggml_graph_overhead_custom", _SIZE, (_SIZE, _BOOL)),
    ("ggml_new_graph_custom", _POINTER, (_POINTER, _SIZE, _BOOL)),
    ("ggml_new_tensor_3d", _TENSOR, (_POINTER, _INT, _INT64, _INT64, _INT64)),
    ("ggml_get_data", _POINTER, (_TENSOR,)),
    ("ggml_mul_mat", _TENSOR, (_POINTER, _TENSOR, _TENSOR)),
    ("ggml_swiglu_split", _TENSOR, (_POINTER, _TENSOR, _TENSOR)),
    ("ggml_build_forward_expand", None, (_POINTER, _TENSOR)),
)
_CPU_FUNCTIONS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("ggml_cpu_init", None, ()),
    ("ggml_get_type_traits_cpu", ctypes.POINTER(CpuTraits), (_INT,)),
    ("ggml_graph_plan", GraphPlan, (_POINTER, _INT, _POINTER)),
    ("ggml_graph_compute", _INT, (_POINTER, ctypes.POINTER(GraphPlan))),
)


class GgmlLibrary:
    """The functions of ggml that k2lite uses, by their C names: `library.call("ggml_mul_mat")(...)`."""

    def __init__(self, base: ctypes.CDLL, cpu: ctypes.CDLL) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        for library, functions in ((base, _BASE_FUNCTIONS), (cpu, _CPU_FUNCTIONS)):
            for name, result, arguments in functions:
                try:
                    function = getattr(library, name)
                except AttributeError as error:
                    raise LibraryError(f"{library._name} has no function {name}: {INSTALL_HINT}") from error
                function.restype, function.argtypes = result, arguments
                self._functions[name] = function
        self.call("ggml_cpu_init")()
        self.version: str = self.call("ggml_version")().decode()

    def call(self, name: str) -> Callable[..., Any]:
        """The C function `name`, typed. KeyError for one that is not in the tables above."""
        return self._functions[name]

    def traits(self, block: BlockType) -> Any:
        """`Traits` of a type."""
        return self.call("ggml_get_type_traits")(block.ggml_id).contents

    def cpu_traits(self, ggml_id: int) -> Any:
        """`CpuTraits` of a type number."""
        return self.call("ggml_get_type_traits_cpu")(ggml_id).contents

    def requires_importance(self, block: BlockType) -> bool:
        """Whether the encoder of this type cannot work without an importance for each column."""
        return bool(self.call("ggml_quantize_requires_imatrix")(block.ggml_id))


@functools.cache
def load_ggml() -> GgmlLibrary:
    """The process's one ggml. Raises LibraryError when it is missing or not laid out as k2lite expects.

    It stays loaded for the life of the process, as shared libraries do; hence the cache. If llama_cpp is imported
    as well, both use the same copy.
    """
    folder = _library_folder()
    base = _open(_library_file(folder, "ggml-base"))
    library = GgmlLibrary(base, _open(_library_file(folder, "ggml-cpu")))
    check_version(library.version)
    check_block_types(library, BLOCK_TYPES)
    _check_layout(library)
    return library


def _library_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise LibraryError(f"the package {PACKAGE}, which brings the ggml library, is missing: {INSTALL_HINT}")
    return Path(spec.submodule_search_locations[0]) / "lib"


def _library_file(folder: Path, stem: str) -> Path:
    """The file that the other libraries of the package load too, so that there is one copy in the process.

    That is the one with the major version in its name, where there is one.
    """
    pattern = re.compile(rf"(lib)?{stem}(\.\d+)?\.(so|dylib|dll)(\.\d+)?")
    names = [path.name for path in folder.glob(f"*{stem}*") if pattern.fullmatch(path.name)]
    if not names:
        raise LibraryError(f"no {stem} library in {folder}: {INSTALL_HINT}")
    return folder / max(names, key=len)


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded ({error}): {INSTALL_HINT}") from error


def check_version(version: str) -> None:
    """Raise LibraryError for a ggml older than the one whose structures are written down here."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise LibraryError(f"ggml {version} is older than {oldest}: {INSTALL_HINT}")


def check_block_types(library: GgmlLibrary, block_types: Iterable[BlockType]) -> None:
    """Compare our table of types with ggml's. Raises LibraryError that names what differs."""
    for block in block_types:
        name = library.call("ggml_type_name")(block.ggml_id).decode()
        if name.upper() != block.name.upper():
            raise LibraryError(
                f"type {block.ggml_id} is {block.name} here but {name} in ggml {library.version}: {INSTALL_HINT}"
            )
        traits = library.traits(block)
        theirs = (traits.block_weights, traits.block_bytes)
        if theirs != (block.block_weights, block.block_bytes):
            raise LibraryError(
                f"a block of {block} is {block.block_weights} weights in {block.block_bytes} bytes here, "
                f"but {theirs[0]} in {theirs[1]} in ggml {library.version}: {INSTALL_HINT}"
            )


def _check_layout(library: GgmlLibrary) -> None:
    """Look at a tensor and a plan that ggml made: the fields must be where `Tensor` and `GraphPlan` have them."""
    overhead = library.call("ggml_tensor_overhead")()
    graph_bytes = library.call("ggml_graph_overhead_custom")(1, False)
    context = library.call("ggml_init")(InitParams(overhead + graph_bytes + 1024, None, False))
    try:
        pointer = library.call("ggml_new_tensor_3d")(context, 0, 3, 5, 2)
        tensor = pointer.contents
        graph = library.call("ggml_new_graph_custom")(context, 1, False)
        plan = library.call("ggml_graph_plan")(graph, 1, None)
        agrees = (
            overhead == ctypes.sizeof(Tensor) + OBJECT_BYTES
            and (tensor.type, list(tensor.ne), list(tensor.nb)) == (0, [3, 5, 2, 1], [4, 12, 60, 120])
            and tensor.data == library.call("ggml_get_data")(pointer)
            and (plan.work_size, plan.work_data, plan.n_threads, plan.threadpool) == (0, None, 1, None)
            and (plan.abort_callback, plan.abort_callback_data, plan.use_ref) == (None, None, False)
        )
    finally:
        library.call("ggml_free")(context)
    if not agrees:
        raise LibraryError(f"ggml {library.version} does not lay out tensors as k2lite expects: {INSTALL_HINT}")
