"""What a mutation tester may change in a source file: one small edit at a time, found on the syntax tree.

Each mutation replaces a stretch of the text, so that the rest of the file stays as it is, line by line. Left alone is
what no test should notice: strings, docstrings, annotations, decorators, `__all__`, assertions, the arguments of an
exception, and what is only told to the user (see TOLD).
"""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
}
DEFAULTS = {"bool": "False", "int": "0", "float": "0.0", "str": "''", "list": "[]", "dict": "{}", "tuple": "()"}

TOLD = frozenset({"echo", "print", "warn", "warning", "info", "debug", "log", "_log", "_report"})
"""Calls that only tell the user or the log something."""

KEPT_KEYWORDS = frozenset({"strict", "encoding", "indent", "prefix", "stacklevel", "ensure_ascii"})
"""Arguments that guard against ourselves or say how a text is laid out: without them nothing is computed otherwise."""

TEXT_LIKE = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple, ast.Dict)


@dataclass(frozen=True)
class Mutant:
    """One edit of one file: characters start to end become `text`. line: where, from 1. where: the function it is in.
    before, after: the edited code, for people."""

    path: str
    kind: str
    start: int
    end: int
    text: str
    line: int
    where: str
    source_line: str
    before: str
    after: str
    copy: int = 0  # counts equal edits of equal lines in one function

    @property
    def id(self) -> str:
        """Depends neither on the path nor on the line's number: a reason is kept where code is moved."""
        parts = (self.where, self.source_line, self.kind, self.before, self.after, str(self.copy))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]

    def applied(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


class _Finder(ast.NodeVisitor):
    """Walks the tree and keeps every edit that makes another program."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.returns: list[str] = []
        self.found: list[Mutant] = []

    # ── places ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def offset(self, line: int, column: int) -> int:
        """In characters; the tree counts columns in bytes."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, (ast.expr, ast.stmt, ast.keyword))
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def add(self, kind: str, node: ast.AST, start: int, end: int, text: str, *, whole: ast.AST | None = None) -> None:
        """whole: the expression that is shown to people, the edited stretch itself otherwise."""
        shown_start, shown_end = self.span(whole) if whole is not None else (start, end)
        before = self.source[shown_start:shown_end]
        after = self.source[shown_start:start] + text + self.source[end:shown_end]
        line = self.source.count("\n", 0, start) + 1
        where = ".".join(self.scope) or "<module>"
        mutant = Mutant(
            self.path, kind, start, end, text, line, where, self.lines[line - 1].strip(), _short(before), _short(after)
        )
        same = sum(1 for m in self.found if (m.where, m.source_line, m.kind, m.before, m.after) == (
            mutant.where, mutant.source_line, mutant.kind, mutant.before, mutant.after))  # fmt: skip
        self.found.append(Mutant(**{**vars(mutant), "copy": same}))

    def replace_operator(self, kind: str, node: ast.AST, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """The operator stands between its operands, with brackets around it at most."""
        start, end = self.span(left)[1], self.span(right)[0]
        pattern = r"\s+".join(map(re.escape, old.split()))
        pattern = rf"\b{pattern}\b" if old[0].isalpha() else pattern
        match = re.search(pattern, self.source[start:end])
        if match is not None and "#" not in self.source[start : start + match.start()]:
            self.add(kind, node, start + match.start(), start + match.end(), new, whole=node)

    # ── what is left alone ──────────────────────────────────────────────────────────────────────────────────────────

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return
        if all(isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets):
            self.drop(node)
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.drop(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for child in node.body:
            self.visit(child)
        self.scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        self.scope.append(node.name)
        self.returns.append(ast.unparse(node.returns) if node.returns is not None else "")
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for child in node.body:
            self.visit(child)
        self.returns.pop()
        self.scope.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    # ── statements ──────────────────────────────────────────────────────────────────────────────────────────────────

    def drop(self, node: ast.stmt) -> None:
        start, end = self.span(node)
        self.add("dropped statement", node, start, end, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring, or an ellipsis
        if isinstance(node.value, ast.Call) and _name_of(node.value.func) in TOLD:
            return
        if not isinstance(node.value, (ast.Yield, ast.YieldFrom)):
            self.drop(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.drop(node)
        self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self.drop(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.drop(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        kind = self.returns[-1] if self.returns else ""
        default = DEFAULTS.get(re.split(r"[\[ |]", kind)[0], "None")
        start, end = self.span(node.value)
        if default != self.source[start:end]:
            self.add("returned default", node, start, end, default, whole=node)
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node.test, ast.Compare) and "__name__" in ast.unparse(node.test):
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self.negate(node.test)
            self.visit(node.test)
        for child in (*node.body, *node.orelse):
            self.visit(child)

    # ── expressions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return  # visit_UnaryOp does it
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return  # visit_Compare does it
        start, end = self.span(test)
        self.add("negated condition", test, start, end, f"not ({self.source[start:end]})")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start, end = self.span(node.operand)
        if isinstance(node.op, (ast.Not, ast.USub)) and not isinstance(node.operand, ast.Constant):
            self.add("dropped operator", node, self.span(node)[0], end, self.source[start:end])
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            old, options = COMPARISONS[type(op)]
            for new in options:
                self.replace_operator("comparison", node, left, right, old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.replace_operator("boolean", node, left, right, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(isinstance(n, TEXT_LIKE) or _is_text(n) for n in (node.left, node.right))
        if type(node.op) in ARITHMETIC and not is_text:
            self.replace_operator("arithmetic", node, node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _name_of(node.func) in TOLD:
            return
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in KEPT_KEYWORDS:
                start, end = self.span(keyword)
                comma = re.match(r"\s*,\s*", self.source[end:])
                self.add("dropped argument", node, start, end + (comma.end() if comma else 0), "", whole=node)
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in KEPT_KEYWORDS:
                self.visit(keyword.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        start, end = self.span(node)
        match node.value:
            case bool():
                self.add("constant", node, start, end, str(not node.value))
            case int():
                self.add("constant", node, start, end, str(node.value + 1))
            case float():
                self.add("constant", node, start, end, repr(node.value * 2 if node.value else 1.0))


def _name_of(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _short(code: str) -> str:
    return " ".join(code.split())


def find(path: str, source: str) -> list[Mutant]:
    """Every edit of the file, in order of place; see `is_real`."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda m: (m.start, m.kind, m.text))


def is_real(mutant: Mutant, source: str) -> bool:
    """Whether it is another program, and one that compiles."""
    changed = mutant.applied(source)
    try:
        compile(changed, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
