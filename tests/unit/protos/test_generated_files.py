"""What ``make protos`` writes is what is committed, and what it says about the classes is true."""

from __future__ import annotations

import ast
import functools
from types import ModuleType

import pytest

from protos import headrace, health, inference, reflection, reflection_v1alpha
from protos.loader import Language
from scripts.generate_protos import PROTOS, generate


@functools.cache
def _generated() -> dict[str, bytes]:
    pytest.importorskip("grpc_tools", reason="the compiler is a development tool")
    return generate()


MODULES = [inference, headrace, health, reflection, reflection_v1alpha]
NAMES = [module.__name__.removeprefix("protos.") for module in MODULES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["binpb", "pyi"])
def test_committed_files_are_up_to_date(name: str, ending: str) -> None:
    file = f"{name}.{ending}"
    assert (PROTOS / file).read_bytes() == _generated()[file], "run `make protos`"


def test_every_language_is_looked_at() -> None:
    assert {path.stem for path in PROTOS.glob("*.proto")} == set(NAMES)


def test_nothing_else_is_generated() -> None:
    committed = {path.name for path in PROTOS.iterdir() if path.suffix in {".binpb", ".pyi"}}
    assert committed == set(_generated())


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_the_types_name_what_the_module_has(module: ModuleType) -> None:
    name = module.__name__.removeprefix("protos.")
    typed = ast.parse((PROTOS / f"{name}.pyi").read_text())
    names = {node.name for node in typed.body if isinstance(node, ast.ClassDef)}
    names |= {
        node.target.id
        for node in typed.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert names
    assert {name for name in vars(module) if name[0].isupper()} - {"Language"} == names


def test_what_the_types_call_read_only_is_read_only() -> None:
    request = inference.ModelInferRequest()
    with pytest.raises(AttributeError):
        request.inputs = []  # type: ignore[misc, assignment]
    with pytest.raises(AttributeError):
        request.inputs.add().contents = inference.InferTensorContents()  # type: ignore[misc]


def test_a_language_says_which_it_is() -> None:
    assert repr(Language("inference")) == "Language('inference')"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        Language("inference").message("ModelStreamInferRequest")
