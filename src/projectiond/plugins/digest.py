"""Digests of code and of SQL: equal for two texts that mean the same to Python, or to PostgreSQL.

Called by `reach`, which needs to know of a piece of code both what it says and which names it mentions, so one pass
over the syntax tree (`Reading`) gives both. What the interpreter does not act on is left out: comments, formatting,
docstrings, annotations that nobody reads. The tree is written out here and not by `ast.dump` or `ast.unparse`, whose
texts differ between versions of Python.
"""

import ast
import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Final

# Long enough that two of a projection's parts never meet, short enough to be read in a row of the database.
DIGITS: Final = 16

# Decorators that do not read the annotations of what they decorate, and keep it nowhere.
PLAIN_DECORATORS: Final = frozenset(
    {"staticmethod", "classmethod", "property", "override", "cache", "lru_cache", "cached_property", "contextmanager"}
)

# Whose argument is code, or a name that is made up at run time.
DYNAMIC: Final = frozenset({"globals", "locals", "vars", "exec", "eval", "compile", "__import__", "import_module"})
DYNAMIC_ATTRIBUTES: Final = frozenset({"__dict__", "__globals__", "import_module"})

# Fields that are not part of what the code does, or that only some versions of Python have.
_SILENT: Final = frozenset({"ctx", "kind", "type_comment", "type_ignores"})

_SQL_TOKENS: Final = re.compile(
    r"""
    (?P<kept> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<blank> (?: --[^\n]* | /\*.*?\*/ | \s+ )+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def digest_of(text: str) -> str:
    """Return the digest of a text as it stands."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:DIGITS]


def digest_of_sql(text: str) -> str:
    """Return the digest of SQL; comments, and how it is laid out, do not count except inside quotes."""
    return digest_of(_SQL_TOKENS.sub(_narrow, text).strip())


def _narrow(token: re.Match[str]) -> str:
    if token["kept"]:
        return token["kept"]
    around = token.string[token.start() - 1 : token.start()] + token.string[token.end() : token.end() + 1]
    return "" if set(around) & set("(),;") else " "


class Reading:
    """One piece of code: its digest, and what it mentions.

    Attributes:
        chains: Names that are read, with the attributes that follow: `pricing.RATES` is ("pricing", "RATES").
        attributes: Every attribute that is read or set, of whatever object.
        bound: Names that the piece itself gives a meaning to, its parameters among them.
        imports: Import statements inside it.
        is_dynamic: Whether it may reach what no name in it says.
    """

    def __init__(self, nodes: Iterable[ast.AST], is_own: Callable[[str], bool] = lambda _: False) -> None:
        """Read.

        Args:
            nodes: Statements.
            is_own: Whether a name is of the author's own code, so that an annotation with it means something.
        """
        self.chains: set[tuple[str, ...]] = set()
        self.attributes: set[str] = set()
        self.bound: set[str] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.is_dynamic = False
        self._is_own = is_own
        self._is_in_class = False
        self._tokens: list[str] = []
        for node in nodes:
            self._read(node)
        self.digest = digest_of("\n".join(self._tokens))

    def _read(self, node: object) -> None:
        if node is None:
            self._tokens.append("-")
        elif isinstance(node, list):
            self._read_all(node)
        elif isinstance(node, ast.AST):
            self._read_node(node)
        else:
            self._tokens.append(repr(node))

    def _read_node(self, node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._read_function(node)
            case ast.ClassDef():
                self._read_class(node)
            case ast.AnnAssign(value=ast.expr() as value) if not self._is_in_class:
                self._read(ast.Assign(targets=[node.target], value=value))
            case ast.AnnAssign(value=None) if not self._is_in_class:
                # Says nothing to the interpreter.
                self.bound.update(part.id for part in ast.walk(node.target) if isinstance(part, ast.Name))
            case ast.Name():
                self._tokens.append(f"Name {node.id}")
                self._note_name(node)
            case ast.Attribute():
                self._read_attribute(node)
            case ast.JoinedStr():
                self._read(_joined(node.values))
            case ast.Constant():
                self._tokens.append(f"{type(node.value).__name__} {node.value!r}")
            case _:
                self._note(node)
                self._read_fields(node)

    def _read_all(self, nodes: list[object]) -> None:
        self._tokens.append("[")
        for node in nodes:
            if not _is_idle(node):
                self._read(node)
        self._tokens.append("]")

    def _read_fields(self, node: ast.AST) -> None:
        self._tokens.append(type(node).__name__)
        for field in node._fields:
            value = getattr(node, field, None)
            # An empty field and one that this version does not know are the same.
            if field not in _SILENT and value not in (None, []):
                self._tokens.append(field)
                self._read(value)

    def _note_name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.chains.add((node.id,))
            self.is_dynamic = self.is_dynamic or node.id in DYNAMIC
        else:
            self.bound.add(node.id)

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.MatchStar(name=str(name)):
                self.bound.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchMapping(rest=str(name)):
                self.bound.add(name)
            case ast.Import() | ast.ImportFrom():
                self.imports.append(node)
            case ast.Call(func=ast.Name(id="getattr")):
                self._note_getattr(node)
            case ast.Global(names=names):
                self.chains.update((name,) for name in names)
            case _ if type(node).__name__ in {"TypeVar", "ParamSpec", "TypeVarTuple"}:
                self.bound.add(str(getattr(node, "name", "")))

    def _note_getattr(self, call: ast.Call) -> None:
        match call.args:
            case [_, ast.Constant(value=str(name)), *_]:
                self.attributes.add(name)
            case _:
                self.is_dynamic = True

    def _read_attribute(self, node: ast.Attribute) -> None:
        self.attributes.add(node.attr)
        self.is_dynamic = self.is_dynamic or node.attr in DYNAMIC_ATTRIBUTES
        self._tokens.append(f"Attribute {node.attr}")
        chain, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            self.attributes.add(root.attr)
            self._tokens.append(f"Attribute {root.attr}")
            chain.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name):
            self._tokens.append(f"Name {root.id}")
            self.chains.add((root.id, *reversed(chain)))
        else:
            self._read(root)

    def _read_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.bound.add(node.name)
        outer, self._is_in_class = self._is_in_class, False
        is_handler = any(is_handles(decorator) for decorator in node.decorator_list)
        is_plain = all(is_handles(d) or decorator_name(d) in PLAIN_DECORATORS for d in node.decorator_list)
        self._tokens += [type(node).__name__, node.name]
        # Which events a handler is for is said by the projection's options.
        self._read_all([decorator for decorator in node.decorator_list if not is_handles(decorator)])
        arguments = node.args
        for place, parameter in _parameters(arguments):
            self._tokens += [place, parameter.arg]
            self.bound.add(parameter.arg)
            annotation = _unquoted(parameter.annotation)
            if annotation is not None and (not is_plain or (is_handler and self._says_a_model(annotation))):
                self._read(annotation)
        self._read_all([*arguments.defaults])
        self._read_all([*arguments.kw_defaults])
        if not is_plain:
            self._read(_unquoted(node.returns))
        self._read_all([*node.body])
        self._is_in_class = outer

    def _says_a_model(self, annotation: ast.expr) -> bool:
        """Say whether data is validated by it: `Event[Model]`, or an alias of such a thing."""
        return isinstance(annotation, ast.Subscript) or any(
            isinstance(part, ast.Name) and self._is_own(part.id) for part in ast.walk(annotation)
        )

    def _read_class(self, node: ast.ClassDef) -> None:
        self.bound.add(node.name)
        outer, self._is_in_class = self._is_in_class, True
        self._tokens += ["ClassDef", node.name]
        for part in (node.decorator_list, node.bases, node.keywords, node.body):
            self._read_all([*part])
        self._is_in_class = outer


def is_handles(decorator: ast.expr) -> bool:
    """Say whether a decorator is `@handles(...)`."""
    return isinstance(decorator, ast.Call) and decorator_name(decorator) == "handles"


def decorator_name(decorator: ast.expr) -> str:
    """Return the last name of a decorator, without its arguments."""
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    match decorator:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_idle(node: object) -> bool:
    """Say whether a statement does nothing: a docstring, `...`, `pass`, the declaration of a local's type."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _parameters(arguments: ast.arguments) -> Iterable[tuple[str, ast.arg]]:
    yield from (("posonly", parameter) for parameter in arguments.posonlyargs)
    yield from (("arg", parameter) for parameter in arguments.args)
    if arguments.vararg is not None:
        yield "vararg", arguments.vararg
    yield from (("kwonly", parameter) for parameter in arguments.kwonlyargs)
    if arguments.kwarg is not None:
        yield "kwarg", arguments.kwarg


def _unquoted(annotation: ast.expr | None) -> ast.expr | None:
    """Give an annotation that is written as a string as what it says."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return annotation
    return annotation


def _joined(values: list[ast.expr]) -> list[object]:
    """Give the parts of an f-string with neighbouring texts put together, as only some versions of Python do."""
    parts: list[object] = ["f-string"]
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
        else:
            parts += [text, value]
            text = ""
    return [*parts, text]
