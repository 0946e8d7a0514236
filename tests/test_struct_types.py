"""What is decoded is looked at by an import: two threads that look at it at once crash the interpreter."""

from __future__ import annotations

import ast
import gc
import importlib
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

import mistill
from mistill.kinds.manifest import RunManifest

BY_ANOTHER_NAME = {
    ("mistill.api.decoding", "kind"),
    ("mistill.kinds.manifest", "cls"),
    ("mistill.runs.hub_card", "kind"),
    ("mistill.struct_types", "kind"),
}
"""Arguments of functions: what `tolerant_decoder` is given, at the top of modules; and each `RunManifest`."""


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(mistill.__path__, "mistill."):
        if "integrations" in found.name or found.name.endswith("__main__"):
            continue  # they need what is not installed everywhere, and decode nothing
        try:
            yield importlib.import_module(found.name)
        except ImportError:  # an extra that is not there
            continue


def decoded_in_functions(tree: ast.Module) -> Iterator[ast.expr]:
    """The types, as they are written."""
    for function in (
        each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ):
        for call in (each for each in ast.walk(function) if isinstance(each, ast.Call)):
            name = ast.unparse(call.func)
            if not name.startswith("msgspec."):
                continue
            if name.endswith(".decode"):
                yield from (keyword.value for keyword in call.keywords if keyword.arg == "type")
            elif name == "msgspec.convert":
                yield call.args[1]
            elif name.endswith(".Decoder") and call.args:
                yield call.args[0]


def structs_in(kind: Any) -> set[type]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {kind}
    return {struct for part in get_args(kind) for struct in structs_in(part)}


def is_looked_at(struct: type) -> bool:
    return any(type(each).__name__ == "StructInfo" for each in gc.get_referents(struct))


def test_whether_a_type_was_looked_at_can_be_seen() -> None:
    class New(msgspec.Struct):
        field: int

    assert not is_looked_at(New)
    msgspec.json.Decoder(New)
    assert is_looked_at(New)


def not_looked_at() -> list[str]:
    """Of all modules, in a process that has decoded nothing yet."""
    missing: list[str] = []
    for module in modules():
        tree = ast.parse(Path(module.__file__).read_text("utf-8"))
        for written in decoded_in_functions(tree):
            text = ast.unparse(written)
            if (module.__name__, text) in BY_ANOTHER_NAME:
                continue
            kind = eval(text, vars(module))
            missing += [
                f"{module.__name__}: {each.__name__}" for each in structs_in(kind) if not is_looked_at(each)
            ]
    return missing + [f"{each}" for each in RunManifest.__subclasses__() if not is_looked_at(each)]


def test_what_functions_decode_was_looked_at_by_an_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from tests.test_struct_types import not_looked_at; print(not_looked_at())"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stdout == "[]\n", "give these to mistill.struct_types.look_at, at the end of their modules"


CRASH = textwrap.dedent("""
    import sys, threading
    import msgspec
    from mistill.api.prices import Prices
    sys.setswitchinterval(1e-6)
    price = b'{"input": 1.0, "output": 2.0}'
    data = b'{"models": {' + b",".join(b'"m%d": %s' % (n, price) for n in range(50)) + b'}}'
    start = threading.Barrier(8)

    def decode():
        start.wait()
        try:
            msgspec.json.decode(data, type=Prices)
        except msgspec.ValidationError:
            pass

    threads = [threading.Thread(target=decode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
""")


def test_threads_that_decode_at_once_for_the_first_time_do_not_crash() -> None:
    subprocess.run([sys.executable, "-c", CRASH], check=True, timeout=60)
