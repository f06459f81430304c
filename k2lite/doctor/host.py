"""Processor, memory and how the system hands it out."""

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from k2lite.bench.machine import cpu_model
from k2lite.doctor.driver import driver_version
from k2lite.doctor.finding import Finding
from k2lite.sizes import format_bytes
from offload.probe_host import host_memory, probe_ram, usable_cores
from quant.errors import LibraryError
from quant.native_library import load_native

_LEAST_MEMORY = 4 << 30
_LEAST_LOCKED = 1 << 30
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_NODES = Path("/sys/devices/system/node")
_FAST_SETS = ("avx512vnni", "avx512")

def host_findings(measure: bool) -> Iterator[Finding]:
    """All that is to say about the host; with `measure` also how fast its memory is."""
    yield _system()
    yield _processor()
    yield from _native()
    yield from _memory()
    if measure:
        yield Finding("RAM speed", "ok", f"{probe_ram(usable_cores()) / 1e9:.1f} GB/s read by {usable_cores()} threads")
    yield _huge_pages()
    yield _locked()

def _system() -> Finding:
    value = f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"
    if sys.platform != "linux":
        return Finding("system", "hint", value, "k2lite is made and tested on Linux: expect slower reads elsewhere")
    return Finding("system", "ok", value)

def _processor() -> Finding:
    physical, allowed = psutil.cpu_count(logical=False) or 1, len(psutil.Process().cpu_affinity())
    nodes = len(list(_NODES.glob("node[0-9]*"))) or 1
    parts = f"{physical} cores in {nodes} memory node{'s' if nodes > 1 else ''}, {allowed} logical CPUs may be used"
    value = f"{cpu_model()}, {parts}"
    if allowed < physical:
        return Finding("processor", "hint", value, "an affinity mask or a cpuset keeps cores away: see taskset -p $$")
    return Finding("processor", "ok", value)

def _native() -> Iterator[Finding]:
    try:
        library = load_native()
    except LibraryError as error:
        yield Finding("native code", "fails", "missing", f"{error}")
        return
    sets = library.isas()
    yield Finding("native code", "ok", f"built, encoding {library.encoding}")
    if sets[0] in _FAST_SETS:
        yield Finding("instruction set", "ok", ", ".join(sets))
    else:
        advice = "without AVX-512 prompts are read several times slower; decoding is bound by memory all the same"
        yield Finding("instruction set", "hint", ", ".join(sets), advice)

def _memory() -> Iterator[Finding]:
    memory = host_memory()
    value = f"{format_bytes(memory.total_bytes)}, {format_bytes(memory.available_bytes)} free"
    if memory.total_bytes < _LEAST_MEMORY:
        advice = "enough for the demo model; real ones need 16 GiB and more (k2lite plan says how much)"
        yield Finding("RAM", "hint", value, advice)
    else:
        yield Finding("RAM", "ok", value)
    if memory.limit_bytes is not None:
        installed = psutil.virtual_memory().total
        yield Finding(
            "memory limit",
            "hint" if memory.limit_bytes < installed else "ok",
            f"{format_bytes(memory.limit_bytes)} by a control group, of {format_bytes(installed)}",
            "raise it where the container or unit is described (MemoryMax, --memory)"
            if memory.limit_bytes < installed
            else "",
        )
    if psutil.swap_memory().used > memory.total_bytes // 16:
        advice = "something was pushed out of memory: a model must not be; end other programs or lower --ram-budget"
        yield Finding("swap", "hint", f"{format_bytes(psutil.swap_memory().used)} in use", advice)

def _huge_pages() -> Finding:
    try:
        modes = _HUGE_PAGES.read_text().split()
    except OSError:
        return Finding("huge pages", "hint", "unknown", "a kernel with transparent huge pages loads models faster")
    mode = next((mode.strip("[]") for mode in modes if mode.startswith("[")), "unknown")
    if mode in ("always", "madvise"):
        return Finding("huge pages", "ok", mode)
    return Finding("huge pages", "hint", mode, f"as root: echo madvise > {_HUGE_PAGES}")

def _locked() -> Finding:
    """Only cards need pinned buffers, which some drivers count as locked."""
    locked = host_memory().locked_bytes
    if locked is None:
        return Finding("locked memory", "ok", "no limit")
    if locked >= _LEAST_LOCKED or driver_version() is None:
        return Finding("locked memory", "ok", f"up to {format_bytes(locked)}")
    advice = "too little for buffers that cards copy from: ulimit -l unlimited, or a line in limits.conf"
    return Finding("locked memory", "hint", f"up to {format_bytes(locked)}", advice)

