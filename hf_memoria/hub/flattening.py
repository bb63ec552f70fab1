"""Source files of the package as flat files that need the package no more.

Transformers runs the code of a checkpoint as files beside each other, and finds the ones that a file needs by the text
`from .name import`. So every module that is needed becomes a file `memoria_<folder>_<module>.py`, and every import of
the package becomes one of the file that defines the name: a folder's `__init__` is looked through.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = "hf_memoria"
ROOT = Path(__file__).resolve().parents[1]


def flatten(entries: list[str]) -> dict[str, str]:
    """Return the sources of some modules and of all that they need, by flat name.

    Args:
        entries: dotted names of modules of the package.

    Raises:
        ValueError: if a module imports the package in another form than `from hf_memoria... import name`.
    """
    waiting, sources = list(entries), {}
    while waiting:
        module = waiting.pop()
        if flat_name(module) not in sources:
            sources[flat_name(module)], needed = _flat_source(module)
            waiting += needed
    return sources


def flatten_own(module: str, path: Path) -> tuple[str, list[str]]:
    """Return the source of a module from outside of the package, and the modules of the package that it needs.

    Its imports of the package stay, with the flat files beside them for machines that do not have it.

    Args:
        module: dotted name.
        path: its file.

    Raises:
        ValueError: if it imports what lies beside it, or the package in another form than
            `from hf_memoria... import name`.
    """
    source = path.read_text(encoding="utf-8")
    beside = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.level]
    if beside:
        raise ValueError(
            f"{module} must be one module to be exported; line {beside[0].lineno} imports what lies beside it."
        )
    lines, needed = source.splitlines(), []
    for node in _imports_in_reverse(source, module):
        found = _by_defining_module(node)
        needed += list(found)
        indent = " " * node.col_offset
        stated = ", ".join(a.name if a.asname is None else f"{a.name} as {a.asname}" for a in node.names)
        flat = [line for home, names in sorted(found.items()) for line in _import_lines(flat_name(home), names)]
        lines[node.lineno - 1 : node.end_lineno] = [
            f"{indent}try:",
            f"{indent}    from {node.module} import {stated}",
            f"{indent}except ModuleNotFoundError:",
            *(f"{indent}    {line}" for line in flat),
        ]
    return "\n".join(lines) + "\n", needed


def flat_name(module: str) -> str:
    """Return the name of a module's flat file, without its ending."""
    return module.replace(PACKAGE, "memoria", 1).replace(".", "_")


def path_of(module: str) -> Path:
    """Return the file of a module or of a folder's `__init__`."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _flat_source(module: str) -> tuple[str, list[str]]:
    """Return a module's source with its imports made relative, and the modules that it needs."""
    source = path_of(module).read_text(encoding="utf-8")
    lines, needed = source.splitlines(), []
    for node in _imports_in_reverse(source, module):
        found = _by_defining_module(node)
        needed += list(found)
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [
            indent + line for home, names in sorted(found.items()) for line in _import_lines(flat_name(home), names)
        ]
    return "\n".join(lines) + "\n", needed


def _imports_in_reverse(source: str, module: str) -> list[ast.ImportFrom]:
    imports = [node for node in ast.walk(ast.parse(source)) if _is_own(node, module)]
    found = [node for node in imports if isinstance(node, ast.ImportFrom)]
    return sorted(found, key=lambda node: node.lineno, reverse=True)


def _import_lines(flat: str, names: list[str]) -> list[str]:
    of_it = [name for name in names if not name.startswith("* ")]
    lines = [f"from .{flat} import {', '.join(of_it)}"] if of_it else []
    for name in names:
        if name.startswith("* "):  # the module itself; Transformers sees the first line only
            lines += [f"from .{flat} import __name__ as _{flat}", f"from . import {flat} as {name[2:]}"]
    return lines


def _is_own(node: ast.AST, module: str) -> bool:
    if isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == PACKAGE for alias in node.names):
        raise ValueError(f"{module} must import the package as `from {PACKAGE}... import name`, to be exported.")
    return isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == PACKAGE


def _by_defining_module(node: ast.ImportFrom) -> dict[str, list[str]]:
    """Return the names that an import takes, by module; a module itself as `* name`."""
    found: dict[str, list[str]] = defaultdict(list)
    for alias in node.names:
        if path_of(f"{node.module}.{alias.name}").is_file():
            found[f"{node.module}.{alias.name}"].append(f"* {alias.asname or alias.name}")
            continue
        home = _home_of(str(node.module), alias.name)
        found[home].append(alias.name if alias.asname is None else f"{alias.name} as {alias.asname}")
    return found


def _home_of(module: str, name: str) -> str:
    """Return the module that defines a name which `module` offers."""
    path = path_of(module)
    if path.name != "__init__.py":
        return module
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _home_of(str(node.module), name)
    return module
