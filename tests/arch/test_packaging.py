"""What is on disk, what is shipped, what is checked and what is declared are the same things."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.arch.checkout import imported_modules, modules, pyproject, shipped_packages

REFERENCE_FRONT = Path("gateway/edge/grpc_reference.py")
"""The one shipped module that needs grpcio, an extra."""


def test_every_package_is_shipped() -> None:
    wheel = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == shipped_packages()


def test_every_package_has_its_place_in_the_import_contracts() -> None:
    assert sorted(pyproject()["tool"]["importlinter"]["root_packages"]) == shipped_packages()


def test_every_package_is_type_checked() -> None:
    assert set(shipped_packages()) <= set(pyproject()["tool"]["mypy"]["files"])


def test_every_import_of_a_shipped_module_is_a_declared_dependency() -> None:
    declared = _declared()
    providers = packages_distributions()
    undeclared = [
        f"{path} imports {name}"
        for path in modules(*shipped_packages())
        for name in sorted({name.partition(".")[0] for name in imported_modules(path)})
        if name not in sys.stdlib_module_names
        and name not in shipped_packages()
        and not declared & {canonicalize_name(d) for d in providers.get(name, [])}
    ]
    assert not undeclared, undeclared


def test_only_the_reference_front_needs_grpcio() -> None:
    needing = [path for path in modules(*shipped_packages()) if "grpc" in imported_modules(path)]
    assert needing == [REFERENCE_FRONT]


def _declared() -> set[str]:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    needed = (extras[name] for name in ("cpu", "gpu", "tracing", "features", "grpcio"))
    requirements = [*project["dependencies"], *(line for extra in needed for line in extra)]
    return {canonicalize_name(Requirement(line).name) for line in requirements}
