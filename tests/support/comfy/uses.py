"""What a source file uses of ComfyUI's, and whether the ComfyUI of this process has it.

Follows what leads to the host: imports, what is annotated as a class of the host's, and what is assigned from those.
Names of modules are looked up in the modules, names of objects in real ones, and every call is bound to the signature
found.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .bootstrap import ensure_host


@dataclass(frozen=True)
class Known:
    """Something of the host's: its name, the thing itself, and whether an annotation says that there are several."""

    name: str
    thing: Any
    several: bool = False


@dataclass(frozen=True)
class Use:
    """A place in our sources that needs something of the host's; `problem` is None where the host has it."""

    place: str
    name: str
    problem: str | None = None


def annotated_fields(tree: ast.Module, samples: list[Any]) -> dict[str, Known]:
    """Attributes of our own classes that hold an object of the host's, by their name alone."""
    reader = Reader("", samples, {})
    reader.visit(tree)
    found = {}
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for member in owner.body:
            if isinstance(member, ast.AnnAssign):
                found[member.target.id] = reader.annotated(member.annotation)
            elif isinstance(member, ast.FunctionDef) and "property" in map(ast.unparse, member.decorator_list):
                found[member.name] = reader.annotated(member.returns)
    return {name: known for name, known in found.items() if known}


def check_source(tree: ast.Module, place: str, samples: list[Any], fields: dict[str, Known]) -> list[Use]:
    """Every use in one file. samples: objects of its classes; fields: what attributes of our own classes hold."""
    reader = Reader(place, samples, fields)
    reader.visit(tree)
    return reader.uses


class Reader(ast.NodeVisitor):
    """Walks a file in its order and knows, of each name in each scope, what of the host's it stands for."""

    def __init__(self, place: str, samples: list[Any], fields: dict[str, Known]):
        self.place, self.samples, self.fields = place, samples, fields
        self.scopes: list[dict[str, Known | None]] = [{}]
        self.bases: list[Known | None] = [None]
        self.optional: set[str] = set()
        self.uses: list[Use] = []
        self.read: dict[ast.AST, Known | None] = {}

    def known(self, node: ast.AST | None) -> Known | None:
        """What of the host's an expression gives; None where that is nothing, or cannot be known."""
        if node not in self.read:
            look = getattr(self, f"_known_{type(node).__name__.lower()}", None)
            self.read[node] = look(node) if look else None
        return self.read[node]

    def annotated(self, node: ast.AST | None) -> Known | None:
        """What a variable of this annotation holds."""
        if isinstance(node, ast.BinOp):
            return self.annotated(node.left) or self.annotated(node.right)
        if isinstance(node, ast.Subscript):
            one = self.annotated(node.slice)
            return one and replace(one, several=True)
        known = self.known(node)
        if known is None or not inspect.isclass(known.thing):
            return None
        return next((Known(known.thing.__name__, one) for one in self.samples if isinstance(one, known.thing)), None)

    # ---- expressions ----

    def _known_name(self, node: ast.Name):
        return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), None)

    def _known_attribute(self, node: ast.Attribute):
        owner = self.known(node.value)
        if owner is None:
            return self.fields.get(node.attr)
        name = f"{owner.name}.{node.attr}"
        if owner.several or owner.thing is None or node.attr in self.optional:
            return None
        if not hasattr(owner.thing, node.attr):
            return self._note(node, name, "is missing")
        self._note(node, name)
        return Known(name, getattr(owner.thing, node.attr))

    def _known_subscript(self, node: ast.Subscript):
        owner = self.known(node.value)
        if owner is None:
            return None
        if owner.several:
            return None if isinstance(node.slice, ast.Slice) else replace(owner, several=False)
        try:
            index = ast.literal_eval(node.slice)
            return Known(f"{owner.name}[{index!r}]", owner.thing[index])
        except (ValueError, TypeError, LookupError):
            return None

    def _known_call(self, node: ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return self.bases[-1]
        function = self.known(node.func)
        if function is None or not callable(function.thing) or function.several:
            return None
        self._note(node, f"{function.name}()", _misfit(node, function.thing))
        # Of what calls give back, clones are used most, and they are of their original's kind.
        return self.known(node.func.value) if function.name.endswith(".clone") else None

    def _note(self, node: ast.AST, name: str, problem: str | None = None) -> None:
        self.uses.append(Use(f"{self.place}:{node.lineno}", name, problem))

    # ---- statements ----

    def visit_Import(self, node):
        for alias in node.names:
            if _is_host(alias.name):
                module = self._imported(node, alias.name)
                top = alias.name.split(".")[0]
                self.scopes[-1][alias.asname or top] = (
                    module if alias.asname else Known(top, importlib.import_module(top))
                )

    def visit_ImportFrom(self, node):
        if node.level or not _is_host(node.module):
            return
        module = self._imported(node, node.module)
        for alias in node.names if module else ():
            name = f"{module.name}.{alias.name}"
            if hasattr(module.thing, alias.name):
                self._note(node, name)
                self.scopes[-1][alias.asname or alias.name] = Known(name, getattr(module.thing, alias.name))
            else:
                self._note(node, name, "is missing")

    def _imported(self, node, name: str) -> Known | None:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            return self._note(node, name, f"cannot be imported: {error}")
        self._note(node, name)
        return Known(name, module)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            self.optional.add(node.args[1].value)
        self.known(node)
        self.generic_visit(node)

    def visit_Attribute(self, node):
        self.known(node)
        self.generic_visit(node)

    def visit_If(self, node):
        self.visit(node.test)
        if not any(self._is_absent(test) for test in ast.walk(node.test)):
            for statement in node.body:
                self.visit(statement)
        for statement in node.orelse:
            self.visit(statement)

    def _is_absent(self, test: ast.AST) -> bool:
        """Whether this asks for what the host does not have, so that what follows is for other hosts."""
        match test:
            case ast.Call(ast.Name("hasattr"), [owner, ast.Constant(name)]):
                known = self.known(owner)
                return known is not None and not hasattr(known.thing, name)
        return False

    def visit_IfExp(self, node):
        self.visit(node.test)
        # Behind an isinstance() of a class of our own, a name stands for more than the host's plain object.
        match node.test:
            case ast.Call(ast.Name("isinstance"), [ast.Name(guarded), kind]) if not self.known(kind):
                self.scopes.append({guarded: None})
            case _:
                self.scopes.append({})
        self.visit(node.body)
        self.scopes.pop()
        self.visit(node.orelse)

    def visit_ClassDef(self, node):
        bases = [self.annotated(base) for base in node.bases]
        self.bases.append(next((base for base in bases if base), None))
        self.generic_visit(node)
        self.bases.pop()

    def visit_FunctionDef(self, node):
        arguments = node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.scopes.append({p.arg: self.annotated(p.annotation) for p in parameters})
        self.generic_visit(node)
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node):
        self.visit(node.value)
        for target in node.targets:
            self._bind(target, self.known(node.value))

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        self._bind(node.target, self.annotated(node.annotation))

    def visit_For(self, node):
        self._loop(node)
        self.generic_visit(node)

    def visit_comprehension(self, node):
        self._loop(node)
        self.generic_visit(node)

    def _comprehension(self, node):
        # What is computed is written before what it is computed from.
        for generator in node.generators:
            self.visit(generator)
        self.generic_visit(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _loop(self, node) -> None:
        many = self.known(node.iter)
        self._bind(node.target, replace(many, several=False) if many and many.several else None)

    def _bind(self, target: ast.AST, known: Known | None) -> None:
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = known
        elif isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._bind(part, None)
        else:
            self.visit(target)


def _is_host(module: str) -> bool:
    """Whether a module is ComfyUI's own: this repository has a top-level `nodes`, too, but imports it relatively."""
    spec = importlib.util.find_spec(module.split(".")[0])
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return any(place and Path(place).is_relative_to(ensure_host()) for place in places)


def _misfit(node: ast.Call, function: Any) -> str | None:
    """Why a call does not fit a function of the host's; None where it does, or where the function does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    positional = [None for argument in node.args if not isinstance(argument, ast.Starred)]
    keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
    open_ended = len(positional) < len(node.args) or len(keywords) < len(node.keywords)
    try:
        (signature.bind_partial if open_ended else signature.bind)(*positional, **keywords)
    except TypeError as error:
        return f"takes {signature}, and we call it otherwise: {error}"
    return None
