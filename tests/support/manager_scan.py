"""Which nodes ComfyUI Manager would list for this pack: it reads Python files and runs none.

It takes for nodes (1) every class whose base is written ComfyNode or io.ComfyNode, named by the
literal node_id of its schema or else by the class, and (2) the keys of whatever looks like one of
the older mappings, in strings and tests too. In (2) this is a little more suspicious than it is.
"""

from __future__ import annotations

import ast
import re

PAIRS = re.compile(r"""["']([^"'\n]*)["']\s*:""")
MAPPINGS = (
    re.compile(r"_MAPPINGS\b[^=\n]*=\s*\\?\s*\{([^}]*)\}"),
    re.compile(r"_MAPPINGS\.update\(\s*\{([^}]*)\}"),
)
KEYS = (
    re.compile(r"""_MAPPINGS\[\s*["'](.*?)["']\s*\]"""),
    re.compile(r"""@register_node\(\s*["'](.+?)["']"""),
    re.compile(r"""["'](\w+)["']\s*:\s*\{\s*["']class["']\s*:"""),
)
METADATA = re.compile(r"^@(author|title|nickname|description):(.*)", re.M)


def scan(text: str) -> set[str]:
    """The nodes that a Python file seems to define."""
    found = {key.strip() for keys in KEYS for key in keys.findall(text)}
    for mapping in MAPPINGS:
        for content in mapping.findall(text):
            found |= {key.strip() for key in PAIRS.findall(content)}
    for item in ast.walk(ast.parse(text)):
        if isinstance(item, ast.ClassDef) and any(map(_is_node, item.bases)):
            found.add(_node_id(item) or item.name)
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            if any(name.endswith("_MAPPINGS") or name == "NODE_CONFIG" for name in names):
                found |= _keys(item.value)
    return found


def metadata(text: str) -> dict[str, str]:
    """What lines such as `@title: Name` say about the pack."""
    return {name: value.strip() for name, value in METADATA.findall(text)}


def _is_node(base: ast.expr) -> bool:
    return getattr(base, "id", None) == "ComfyNode" or getattr(base, "attr", None) == "ComfyNode"


def _node_id(node: ast.ClassDef) -> str | None:
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "define_schema":
            for call in ast.walk(method):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Schema"):
                    for given in call.keywords:
                        if given.arg == "node_id" and isinstance(given.value, ast.Constant):
                            return given.value.value
    return None


def _keys(value: ast.expr | None) -> set[str]:
    """The keys of a dict; as they are written where they are computed."""
    if isinstance(value, ast.Dict):
        keys = [key for key in value.keys if key is not None]
        return {key.value if isinstance(key, ast.Constant) else ast.unparse(key) for key in keys}
    return {ast.unparse(value)} if isinstance(value, ast.DictComp) else set()
