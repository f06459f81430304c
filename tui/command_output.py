"""What other k2lite commands print, for screens that show it: they run in processes of their own."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k2lite.demo.prepare import DEMO_RECIPE, demo_source
from k2lite.environment import child_environment
from k2lite.safe_text import one_line
from tui.engine_slot import ModelChoice
from tui.errors import SettingsError

Record = dict[str, Any]

_PATIENCE_S = 120.0
_MAX_OUTPUT_BYTES = 64 * 2**20
_COMMAND = (sys.executable, "-P", "-m", "k2lite.cli.main")


async def run_json(arguments: Sequence[str]) -> Record:
    """The one JSON object that `k2lite ARGUMENTS --json` prints. Raises SettingsError with the command's own words."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        *arguments,
        "--json",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_PATIENCE_S):
            output, complaints = await process.communicate()
    except TimeoutError as error:
        raise SettingsError(f"k2lite {arguments[0]} has not answered for {_PATIENCE_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    record = await asyncio.to_thread(_parsed, output)
    if record is None:
        lines = complaints.decode("utf-8", "replace").strip().splitlines()
        said = one_line(lines[-1]) if lines else f"nothing, and ended with status {process.returncode}"
        raise SettingsError(f"k2lite {arguments[0]} says: {said.removeprefix('k2lite: ')}")
    return record


def plan_arguments(choice: ModelChoice) -> list[str]:
    """`k2lite plan` for a model; the demo model is planned from its checkpoint."""
    model = ["plan", str(demo_source()), "--type", DEMO_RECIPE] if choice.path is None else ["plan", str(choice.path)]
    context = choice.options.context_tokens
    return model + (["--ctx", str(context)] if context is not None else [])


def same_machine(plan: Record) -> list[str]:
    """Options that describe the machine of an earlier plan, so that the next one need not measure it again."""
    try:
        machine = plan["machine"]
        drive = machine["drive_bytes_per_s"]
        options = [
            "--ram-bw",
            f"{machine['ram_bytes_per_s'] / 1e9:.3f}G/s",
            "--flops",
            f"{machine['flops'] / 1e9:.1f}G/s",
        ]
        return [*options, "--drive", f"{drive / 1e9:.3f}G/s"] if drive else options
    except (KeyError, TypeError):
        return []


async def weight_type(path: Path) -> str:
    """The type that most bytes of a model file have. Raises SettingsError."""
    record = await run_json(["inspect", str(path)])
    totals = record.get("totals") or {}
    return max(totals, key=lambda name: totals[name].get("bytes", 0), default="?")


def _parsed(output: bytes) -> Record | None:
    if len(output) > _MAX_OUTPUT_BYTES:
        return None
    lines = output.decode("utf-8", "replace").strip().splitlines()
    try:
        record = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
