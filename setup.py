"""Builds quant/native with cmake and puts the library beside the Python code, in place or into the wheel.

All else about the package stands in pyproject.toml.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError

SOURCE = Path("quant/native")
LIBRARY = "libk2quant.so"


class BuildNative(build_ext):
    """One "extension": the folder of a cmake project. It has no Python in it, so neither has the file's name."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1]) / LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        if shutil.which("cmake") is None:
            raise ExecError("cmake is missing, which builds the encoders: on Debian, apt install cmake g++")
        build = Path(self.build_temp).resolve() / "k2quant"
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build.mkdir(parents=True, exist_ok=True)
        self._run("cmake", "-S", str(SOURCE.resolve()), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release")
        self._run("cmake", "--build", str(build), "--parallel", "2")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build / LIBRARY, target)

    def _run(self, *command: str) -> None:
        try:
            subprocess.run(command, check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ExecError(f"the encoders in {SOURCE} could not be built: {error}") from error


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3: the library knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("quant.native.k2quant", sources=[])],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
