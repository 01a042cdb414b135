"""Imports go downward only: every file of distmlp is parsed, and each import is held against the table below.

A module is known by the first part of its name below `distmlp`, be it a file or a package: `distmlp/data/order.py`
belongs to `data`.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Layer:
    """A row of the table. The modules of an `apart` layer may not import each other."""

    name: str
    modules: frozenset[str]
    apart: bool = False


def layer(name: str, modules: str, *, apart: bool = False) -> Layer:
    return Layer(name, frozenset(modules.split()), apart)


# The lowest first: a module may import from the rows above its own, and from its own where that is not apart.
LAYERS = (
    layer(
        "ground",
        "__init__ errors schema config compose runtime devices hostlist process_group strategy_rules deepspeed_rules "
        "log run_folder run_lock run_state launch sweep shards",
    ),
    layer("parts", "model data tasks planner cluster optimizer scheduler", apart=True),
    layer("training", "module strategy checkpoint resilience tracking callbacks", apart=True),
    layer("uses", "bench doctor compress explain export foreign generate privacy report summary", apart=True),
    layer("build", "build"),
    layer("apps", "cli __main__ apps"),
)
# Modules that count as one with another.
SAME_AS = {"muon": "optimizer"}

# Packages that only some modules may import, anywhere in the file.
LIGHTNING = frozenset({"lightning", "pytorch_lightning", "lightning_fabric"})
MAY_IMPORT_LIGHTNING = frozenset({"data"}).union(*(row.modules for row in LAYERS[2:]))
MAY_INSTANTIATE = frozenset({"build"})

# Packages that no module imports at its top level, so that nobody pays for what they do not use.
HEAVY = frozenset(
    """deepspeed wandb onnx captum opacus matplotlib plotext pyarrow sklearn pytorch_optimizer tensorboard tokenizers
    transformers""".split()
)

# What answers `distmlp --help` and reports a mistake: neither these nor what they import at top level may load these.
LIGHT = ("cli", "config", "compose", "errors", "sweep")
SLOW = LIGHTNING | {"torch"}


@dataclass(frozen=True)
class Import:
    """One imported name, written out in full, and where it stands."""

    name: str
    line: int
    top_level: bool

    @property
    def package(self) -> str:
        return self.name.split(".")[0]


def is_type_checking(node: ast.AST) -> bool:
    """Whether the node is `if TYPE_CHECKING:`, whose body never runs."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(node: ast.AST, package: str, top_level: bool = True) -> Iterator[Import]:
    """All imports below `node`. `package` is the dotted package of the file, which relative imports start from."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, top_level)
    elif isinstance(node, ast.ImportFrom):
        base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            yield Import(f"{origin}.{alias.name}", node.lineno, top_level)
    if is_type_checking(node):
        assert isinstance(node, ast.If)
        children: list[tuple[ast.AST, bool]] = [(child, False) for child in node.body]
        children += [(child, top_level) for child in node.orelse]
    else:
        inside = top_level and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        children = [(child, inside) for child in ast.iter_child_nodes(node)]
    for child, at_top in children:
        yield from imports(child, package, at_top)


def read_imports(root: Path) -> dict[str, list[Import]]:
    """The imports of every file below `root`, the folder of distmlp, by path relative to it ("model/mlp.py")."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        package = ".".join(["distmlp", *relative.parts[:-1]])
        found[relative.as_posix()] = list(imports(ast.parse(path.read_text(encoding="utf-8")), package))
    return found


def module_of(dotted: str) -> str:
    """The module of the table that a dotted name below `distmlp` belongs to."""
    part = dotted.split(".")[1] if "." in dotted else "__init__"
    return SAME_AS.get(part, part)


def level_of(module: str) -> int | None:
    """The row of a module, or None for one that the table does not know."""
    return next((level for level, row in enumerate(LAYERS) if module in row.modules), None)


def name_of(path: str) -> str:
    """The dotted name of a file: "model/mlp.py" is "distmlp.model.mlp", "model/__init__.py" is "distmlp.model"."""
    return ".".join(["distmlp", *path.removesuffix(".py").split("/")]).removesuffix(".__init__")


def layer_rule(module: str, imported: Import) -> str | None:
    """The layer rule that an import of one of our own modules breaks, or None."""
    other = module_of(imported.name)
    mine, theirs = level_of(module), level_of(other)
    if mine is None or other == module:
        return None
    if theirs is None:
        # A name of the package, such as __version__; a module that the table lacks is reported at its own file.
        return None
    if theirs > mine:
        return f"{LAYERS[mine].name} ({module}) may not import {LAYERS[theirs].name} ({other}), which is above it"
    if theirs == mine and LAYERS[mine].apart:
        return f"the modules of {LAYERS[mine].name} may not import each other ({module} imports {other})"
    return None


def package_rule(module: str, imported: Import) -> str | None:
    """The rule about packages of others that an import breaks, or None."""
    if imported.package in LIGHTNING and module not in MAY_IMPORT_LIGHTNING:
        return "Lightning belongs to the training layer and above; below it only data may import it"
    if f"{imported.name}.".startswith("hydra.utils.") and module not in MAY_INSTANTIATE:
        return "only build may import hydra.utils"
    if imported.package in HEAVY and imported.top_level:
        return f"{imported.package} is heavy or optional: import it inside the function that needs it"
    return None


def broken_rules(found: dict[str, list[Import]]) -> Iterator[str]:
    """One line for each file the table does not know and each import that breaks a rule."""
    for path, imported in found.items():
        module = module_of(name_of(path))
        if level_of(module) is None:
            yield f"distmlp/{path}: `{module}` is in no layer; add it to LAYERS in tests/unit/test_layers.py"
        for one in imported:
            ours = one.package == "distmlp"
            rule = layer_rule(module, one) if ours else package_rule(module, one)
            if rule:
                yield f"distmlp/{path}:{one.line}: import of {one.name}: {rule}"


def loaded_files(name: str, found: dict[str, list[Import]]) -> Iterator[str]:
    """The files that an import of the dotted `name` runs: its packages and itself, as far as they exist."""
    parts = name.split(".")[1:]
    for length in range(len(parts) + 1):
        stem = "/".join(parts[:length])
        for path in (f"{stem}/__init__.py".removeprefix("/"), f"{stem}.py"):
            if path in found:
                yield path


def slow_imports(found: dict[str, list[Import]]) -> Iterator[str]:
    """One line for each light module that loads a slow package at top level, with the files that lead there."""
    for start in LIGHT:
        waiting: list[tuple[str, ...]] = [(path,) for path in loaded_files(f"distmlp.{start}", found)]
        seen = {chain[-1] for chain in waiting}
        while waiting:
            chain = waiting.pop()
            for one in found[chain[-1]]:
                if not one.top_level:
                    continue
                if one.package in SLOW:
                    way = " -> ".join(f"distmlp/{path}" for path in chain)
                    yield f"{way}:{one.line}: import of {one.name}: {start} must load neither torch nor Lightning"
                if one.package == "distmlp":
                    new = [path for path in loaded_files(one.name, found) if path not in seen]
                    seen.update(new)
                    waiting += [(*chain, path) for path in new]


def check(root: Path) -> list[str]:
    """Everything wrong with the imports of the tree at `root`."""
    found = read_imports(root)
    return [*broken_rules(found), *slow_imports(found)]


def test_distmlp_imports_only_downward(repository: Path) -> None:
    wrong = check(repository / "distmlp")
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_light_modules_exist(repository: Path) -> None:
    """A renamed file would otherwise leave its rule without an object."""
    assert [name for name in LIGHT if not (repository / "distmlp" / f"{name}.py").is_file()] == []


@pytest.fixture
def check_tree(tmp_path: Path) -> Callable[[dict[str, str]], list[str]]:
    """Check a package made of the given files."""

    def check_files(files: dict[str, str]) -> list[str]:
        for name, text in files.items():
            path = tmp_path / "distmlp" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return check(tmp_path / "distmlp")

    return check_files


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "model/mlp.py",
            "\nimport distmlp.module",
            "distmlp/model/mlp.py:2: import of distmlp.module: parts (model) may",
        ),
        (
            "model/mlp.py",
            "def f():\n  from ..module import M",
            "mlp.py:2: import of distmlp.module.M: parts (model) may",
        ),
        ("model/mlp.py", "from distmlp import data", "the modules of parts may not import each other"),
        ("callbacks/save.py", "from distmlp.checkpoint import save", "training may not import each other"),
        ("report/html.py", "from ..bench import x", "uses may not import each other"),
        ("export.py", "from .build import x", "uses (export) may not import build (build)"),
        ("build.py", "from .apps.train import x", "build (build) may not import apps (apps)"),
        ("log.py", "from distmlp.model import x", "ground (log) may not import parts (model)"),
        ("log.py", "if TYPE_CHECKING:\n  from distmlp.model import x", "log.py:2: import of distmlp.model.x: ground"),
        ("optimizer/adam.py", "def f(): import lightning.pytorch", "only data may import it"),
        ("apps/train.py", "from hydra.utils import instantiate", "only build may import hydra.utils"),
        ("apps/train.py", "from hydra import utils", "only build may import hydra.utils"),
        ("report/curves.py", "try:\n  import plotext\nexcept ImportError: ...", "plotext is heavy or optional"),
        ("tracking/wandb.py", "class A:\n  import wandb", "wandb is heavy or optional"),
        ("errors.py", "import torch.nn", "errors must load neither torch nor Lightning"),
        ("novelty/__init__.py", "", "distmlp/novelty/__init__.py: `novelty` is in no layer"),
    ],
)
def test_a_wrong_import_is_named(
    check_tree: Callable[[dict[str, str]], list[str]], path: str, text: str, message: str
) -> None:
    [wrong] = check_tree({path: text})
    assert message in wrong


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model/mlp.py", "import torch\nfrom distmlp.errors import ConfigError\nfrom . import layers"),
        ("data/module.py", "import lightning.pytorch as pl"),
        ("muon.py", "from distmlp.optimizer.groups import split"),
        ("callbacks/save.py", "from distmlp import data, __version__\nfrom .every import Every"),
        ("tracking/wandb.py", "def start():\n  import wandb"),
        ("report/curves.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import matplotlib"),
        ("build.py", "from hydra.utils import instantiate\nfrom . import report, module"),
        ("cli.py", "def main():\n  from .apps import train\n  import torch"),
    ],
)
def test_a_right_import_passes(check_tree: Callable[[dict[str, str]], list[str]], path: str, text: str) -> None:
    assert check_tree({path: text}) == []


@pytest.mark.parametrize(
    ("files", "chain"),
    [
        (
            {"cli.py": "from distmlp.log import x", "log.py": "from . import runtime", "runtime.py": "import torch"},
            "distmlp/cli.py -> distmlp/log.py -> distmlp/runtime.py:1: import of torch: cli must",
        ),
        (
            {"cli.py": "import distmlp.apps.train", "apps/__init__.py": "import lightning"},
            "apps/__init__.py:1: import of",
        ),
    ],
)
def test_a_light_module_does_not_load_torch_through_another(
    check_tree: Callable[[dict[str, str]], list[str]], files: dict[str, str], chain: str
) -> None:
    [wrong] = check_tree(files)
    assert chain in wrong
