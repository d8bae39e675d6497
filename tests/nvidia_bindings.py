"""The interfaces of NVIDIA's real Python bindings, of several versions, without a GPU.

`make install` puts each version into a folder of its own, for all have the same import name. The
wheels of TensorRT's bindings are 1 MB each. Their libraries take gigabytes and come from NVIDIA's
own index, but an import needs only the names of some functions in them: a stub, compiled here, has
those. What an object of TensorRT does can be seen on a GPU only.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(sys.prefix, "share", "nvidia-bindings")  # as in the Makefile
TENSORRT = ("8.6.1", "10.16.1.11", "11.4.0.106")
RTX = "1.7.1"  # its libraries are a dependency of development: it parses and builds without a GPU
CUDA = "12.9.10"  # the extra `gpu` takes it; the installed one is a later one

Overload = list[tuple[str, bool]]  # the parameters: name, and whether it may be left out

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
_FUNCTIONS = (  # of those libraries, by `nm -D --undefined-only tensorrt.so`
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)
_READ = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
found = {"version": getattr(module, "__version__", "")}
found |= {"enumerations": {}, "docs": {}, "numbers": {}}
for name, value in vars(module).items():
    if hasattr(value, "__members__"):
        numbers = {member: int(number) for member, number in value.__members__.items()}
        found["enumerations"][name] = numbers
    elif isinstance(value, type):
        members = {member: getattr(value, member) for member in dir(value)}
        found["docs"][name] = {member: got.__doc__ or "" for member, got in members.items()}
    elif callable(value):
        found["docs"][name] = value.__doc__ or ""
    elif type(value) is int:
        found["numbers"][name] = value
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a module has; `classes` has the overloads of each member, none for a property."""

    version: str
    classes: dict[str, dict[str, list[Overload]]]
    enumerations: dict[str, dict[str, int]]
    functions: dict[str, str]  # a function's first line of documentation
    numbers: dict[str, int]


@cache
def tensorrt_interface(version: str) -> Interface:
    """Return the interface of one of `TENSORRT`, or of `RTX`."""
    found = json.loads(run_with_tensorrt(version, _READ))
    assert found["version"].startswith(version)
    return _interface(found)


@cache
def cuda_interface(module: str, version: str) -> Interface:
    """Return the interface of a module of cuda-bindings: of `CUDA`, or of the one "installed"."""
    folders = [] if version == "installed" else [_folder(version)]
    return _interface(json.loads(_run(_READ, module, folders, {})))


def run_with_tensorrt(version: str, script: str) -> str:
    """Run a script whose argument is the name of a version's module; return what it prints."""
    if version == RTX:
        pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
        return _run(script, "tensorrt_rtx_bindings", [], {})
    libraries = {"LD_LIBRARY_PATH": str(_stub_libraries())}
    return _run(script, "tensorrt_bindings", [_folder(version)], libraries)


def differences(fake: type, real: dict[str, list[Overload]]) -> set[str]:
    """Return what a fake class has and the real one has not: names, and methods' parameters."""
    found = set()
    for name, member in vars(fake).items():
        if name.startswith("_"):
            continue
        if name not in real:
            found.add(name)
        elif inspect.isfunction(member):
            parameters = list(inspect.signature(member).parameters)[1:]
            if not any(takes(overload, parameters) for overload in real[name]):
                found.add(f"{name}({', '.join(parameters)})")
    return found


def takes(overload: Overload, parameters: list[str]) -> bool:
    """Return whether a call may give just these parameters, by position."""
    given, rest = overload[: len(parameters)], overload[len(parameters) :]
    return [name for name, _ in given] == parameters and all(optional for _, optional in rest)


def _interface(found: dict[str, Any]) -> Interface:
    classes, functions = {}, {}
    for name, docs in found["docs"].items():
        if isinstance(docs, dict):
            classes[name] = {member: _overloads(member, doc) for member, doc in docs.items()}
        else:
            functions[name] = docs.strip().partition("\n")[0]
    return Interface(
        version=found["version"],
        classes=classes,
        enumerations=found["enumerations"],
        functions=functions,
        numbers=found["numbers"],
    )


def _overloads(name: str, doc: str) -> list[Overload]:
    """Return a method's parameters without `self`, from the signatures that pybind11 writes."""
    pattern = rf"^(?:\d+\. )?{re.escape(name)}\(self: [\w.:]+(?:, )?(.*)\) -> .*$"
    return [_parameters(inside) for inside in re.findall(pattern, doc, re.MULTILINE)]


def _parameters(inside: str) -> Overload:
    """Return the parameters of "index: int, names: list[str, int] = <default>"."""
    nested = re.compile(r"\[[^\[\]]*\]|<[^<>]*>|\([^()]*\)")
    while nested.search(inside):
        inside = nested.sub("", inside)
    parts = [part for part in inside.split(", ") if part]
    return [(part.partition(":")[0], "=" in part) for part in parts]


def _run(script: str, module: str, folders: list[Path], environment: dict[str, str]) -> str:
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", script, module],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _folder(version: str) -> Path:
    folder = FOLDER / version
    if not folder.is_dir():
        _missing(f"no {folder}: run `make install`")
    return folder


@cache
def _stub_libraries() -> Path:
    """Return a folder with libraries of all names that the bindings are linked to."""
    if shutil.which("cc") is None:
        _missing("no C compiler for the stub of TensorRT's libraries")
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    stub = folder / "stub.so"
    code = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS)
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(stub)]
    subprocess.run(command, input=code, text=True, check=True)
    for version in TENSORRT:
        for library in _LIBRARIES:
            (folder / f"lib{library}.so.{version.partition('.')[0]}").symlink_to(stub)
    return folder


def _missing(what: str) -> None:
    pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)
