"""The CUDA driver's functions that native code calls between two layers of a card, by their addresses."""

import ctypes

from quant.kernels.card_work import CardCalls

_NAMES = ("libcuda.so.1", "nvcuda.dll")
_FUNCTIONS = ("cuGraphLaunch", "cuMemcpyAsync", "cuEventRecord", "cuEventSynchronize")


def driver_calls() -> CardCalls | None:
    """None where the driver, or one of the functions, is not there: Python then asks torch for each."""
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            launch, copy, record, wait = (_address(getattr(library, function)) for function in _FUNCTIONS)
        except (OSError, AttributeError):
            continue
        return CardCalls(launch, copy, record, wait, kept=library)
    return None


def _address(function: object) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address is not None
    return address
