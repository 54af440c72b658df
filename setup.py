"""Build hooks: a wheel puts the program's packages below ``mirage_app``; an editable install leaves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOMS = ("flows", "tasks", "deployments", "bench")  # as in mirage_app


class BuildWheel(build_py):
    """Builds the packages, and moves the program's below ``mirage_app``."""

    editable_mode: bool

    def run(self) -> None:
        """Run the build; an editable one is done then."""
        super().run()
        if self.editable_mode:
            return
        for name in ROOMS:
            target = Path(self.build_lib) / "mirage_app" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(Path(self.build_lib) / name, target)

    def get_outputs(self, *args: Any, **rest: Any) -> list[str]:
        """Return the files where they lie in the end."""
        root = Path(self.build_lib)
        return [self._moved(Path(name).relative_to(root)) for name in super().get_outputs(*args, **rest)]

    def _moved(self, name: Path) -> str:
        below = Path("mirage_app") if name.parts[0] in ROOMS and not self.editable_mode else Path()
        return str(Path(self.build_lib) / below / name)


class TopLevel(egg_info):
    """Writes what a wheel installs at the top level."""

    def run(self) -> None:
        """Write the metadata."""
        super().run()
        Path(self.egg_info, "top_level.txt").write_text("mirage_app\nmirage_core\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWheel, "egg_info": TopLevel})
