"""One Python expression in a process of its own, with limits on time, memory and files.

The limits are against accidents: a model that counts to infinity, or fills the memory. They are no jail. The
expression can read what the user can read, which is why it is asked for.
"""

import asyncio
import sys
import tempfile

from tui.errors import ToolError

CPU_SECONDS = 5
WALL_SECONDS = 10
MEMORY_BYTES = 512 * 2**20
_MAX_OUTPUT_BYTES = 20_000

_CHILD = f"""
import sys
try:
    import resource
    for name, limit in (("CPU", {CPU_SECONDS}), ("AS", {MEMORY_BYTES}), ("FSIZE", 0), ("NOFILE", 16), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
except ImportError:
    pass
import math
try:
    value = eval(compile(sys.stdin.read().strip(), "<expression>", "eval"), {{"math": math}})
    print(repr(value)[:{_MAX_OUTPUT_BYTES}])
except MemoryError:
    print("error: it takes more than {MEMORY_BYTES // 2**20} MiB")
except BaseException as error:
    print(f"error: {{type(error).__name__}}: {{error}}"[:2000])
"""


async def evaluate(expression: str) -> str:
    """What the expression is, or the error that it ends with. Raises ToolError when it takes too long."""
    with tempfile.TemporaryDirectory(prefix="k2lite-python-") as folder:
        # -I and an empty environment: neither the user's packages nor his variables are there.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _CHILD,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            cwd=folder, env={"PYTHONHASHSEED": "0"}, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(WALL_SECONDS):
                output, _ = await process.communicate(expression.encode("utf-8", "replace"))
        except TimeoutError as error:
            raise ToolError(f"it took longer than {WALL_SECONDS} seconds") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise ToolError(f"it was ended (status {process.returncode}), most likely after {CPU_SECONDS} s of computing")
    return output[:_MAX_OUTPUT_BYTES].decode("utf-8", "replace").rstrip("\n")
