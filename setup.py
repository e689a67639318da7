"""Packs the folders that stand beside the package into it, so that an installed wheel finds them.

Everything else about the build is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PACKED = ("conf/**/*.yaml", "experiments/*.yaml", "sweeps/*.yaml", "results/reported.yaml")


def packed_files() -> list[str]:
    found = (path for pattern in PACKED for path in ROOT.glob(pattern))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


class BuildWithFolders(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # an editable install finds the folders in the checkout
            return
        for name in packed_files():
            target = Path(self.build_lib, "gateloop", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))

    def get_source_files(self) -> list[str]:  # what a source distribution takes along
        return [*super().get_source_files(), *packed_files()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        packed = [str(Path(self.build_lib, "gateloop", name)) for name in packed_files()]
        return [*super().get_outputs(include_bytecode), *packed]


setup(cmdclass={"build_py": BuildWithFolders})
