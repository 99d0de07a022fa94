"""Imports run one way: what each floor of the house may import, and who may open which door."""

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "maedfer_lab"
ROOT = Path(__file__).parents[1]


def read_table(text: str) -> dict[str, tuple[str, ...]]:
    """Lines of `name: names`; (package) is the package itself, and indented lines go on."""
    pairs = (line.split(":") for line in text.replace("\n    ", " ").strip().splitlines())
    return {name.replace("(package)", ""): tuple(names.split()) for name, names in pairs}


# What a floor may import of ours. A name stands for the module, all below it and name_*.
FLOORS = read_table("""
(package):
config: config
files: config
metrics:
text:
weights:
drawn: drawn config
method: method config files
fast: method config
figures: figures files config
data: data drawn files text config
runs: config files
attention: attention method config files metrics
cost: cost method config files text
cost.formula: config
cost.plan: cost.plan cost.formula config text
checkpoints: checkpoints method runs weights files text config
training: training runs checkpoints weights data drawn cost metrics fast method files config text
viewers: viewers attention figures data checkpoints method fast files config notebooks weights
viewers.explain: viewers checkpoints config data drawn figures files method paper weights
paper: paper data.labels cost.formula metrics files config
inference: inference viewers training runs checkpoints weights data drawn figures metrics fast
    method files config text
notebooks: config files
bench: bench viewers training runs checkpoints data drawn cost.formula cost.memory cost figures
    fast method files config text
cli:
__main__: cli
""")

# Lines of Python that a package may have: today's. They are to shrink, and must not grow.
BUDGETS = {
    "attention": 579,
    "bench": 2087,
    "checkpoints": 2339,
    "config": 1109,
    "cost": 1267,
    "data": 6457,
    "drawn": 949,
    "figures": 1614,
    "inference": 1901,
    "method": 1668,
    "paper": 1513,
    "training": 4197,
    "viewers": 1841,
    "weights": 19,
    "files at the root": 1564,
}

# Floors that know nothing but these libraries (and the standard one).
ONLY = read_table("""
(package):
config:
method: torch einops numpy jaxtyping
metrics: numpy jaxtyping sklearn
paper: numpy
cost.formula:
cost.plan:
files: numpy jaxtyping PIL
figures: numpy jaxtyping PIL matplotlib seaborn IPython
cli: tyro
""")

# Libraries with a single door: the floors that may import them.
DOORS = read_table("""
decord: data.readers bench.plain
av: data.pyav data.writing
cv2: data drawn
skvideo:
fvcore: cost.tables
matplotlib: figures
sklearn: metrics
tensorboard: training.loop
seaborn: figures
IPython: figures viewers
nbclient: notebooks
voila: viewers.app
timm: checkpoints.registry training.optim data.transforms data.rand_augment bench.plain
simplejpeg: data.shard_format
huggingface_hub: checkpoints.saving
fsspec: data.shard_format
ipywidgets: viewers inference.page
anywidget: viewers
traitlets: viewers
""")


def covers(floor: str, module: str) -> bool:
    return module == floor or (bool(floor) and module.startswith((f"{floor}.", f"{floor}_")))


def floor_of(module: str, floors: dict[str, tuple[str, ...]]) -> str | None:
    return max((floor for floor in floors if covers(floor, module)), key=len, default=None)


def read_modules(package: Path) -> dict[str, Path]:
    """Name within the package ("" is the package itself) -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Yield (name, is it ours) for every import in the file, wherever it stands."""
    here = f"{PACKAGE}.{module}".rstrip(".")
    parent = here if path.name == "__init__.py" else here.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), parent)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top != PACKAGE:
                yield top, False
            else:
                yield rest if rest in modules else rest.rpartition(".")[0], True


def reads_environment(path: Path) -> bool:
    """Does the file name os.environ or os.getenv, in any spelling?"""
    named = {"environ", "environb", "getenv", "getenvb"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in named)
        or (isinstance(node, ast.alias) and node.name in named)
        for node in ast.walk(ast.parse(path.read_text()))
    )


def violations(package: Path) -> list[str]:
    """Every import that breaks a rule, as a sentence."""
    modules = read_modules(package)
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        floor = floor_of(module, FLOORS)
        if floor is None:
            found.append(f"{module} stands on no floor: add it to FLOORS in tests/test_layers.py")
            continue
        libraries = floor_of(module, ONLY)
        for name, is_ours in imports_of(module, path, modules):
            if is_ours:
                graph.setdefault(module, set()).add(name)
                if not any(covers(lower, name) for lower in FLOORS[floor]):
                    found.append(f"{module} imports {name or PACKAGE}, which {floor} may not")
                continue
            if not any(covers(door, module) for door in DOORS.get(name, (module,))):
                found.append(f"{module} imports {name}, whose door is {DOORS[name] or 'closed'}")
            if libraries is not None and name not in {*ONLY[libraries], *sys.stdlib_module_names}:
                found.append(f"{module} imports {name}; {libraries} knows only {ONLY[libraries]}")
        if not covers("config", module) and reads_environment(path):
            found.append(f"{module} reads the environment, which only config may")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"cycle: {' <- '.join(error.args[1])}")
    return found


def test_imports_run_one_way_and_through_the_doors() -> None:
    found = violations(ROOT / PACKAGE)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("method/grid.py", f"from {PACKAGE}.data import faces", "method.grid imports data.faces"),
        ("method/grid.py", f"def f():\n    import {PACKAGE}.data.faces", "imports data.faces"),
        ("data/faces.py", "import av", "data.faces imports av, whose door is"),
        ("data/pyav.py", "from ..method import grid", "data.pyav imports method.grid"),
        ("data/pyav.py", "from . import faces", "cycle: "),
        ("training/loop.py", "from os import environ", "training.loop reads the environment"),
        ("figures/loss.py", "import torch", "figures.loss imports torch"),
        ("drawer.py", "", "drawer stands on no floor"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str, message: str, tmp_path: Path) -> None:
    sound = {
        "config.py": "import os\nhome = os.environ",
        "method/grid.py": f"import torch\nfrom {PACKAGE} import config",
        "data/pyav.py": "import av",
        "data/faces.py": f"from {PACKAGE}.data.pyav import read",
    }

    for name, text in {**sound, module: f"{sound.get(module, '')}\n{source}"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (found,) = violations(tmp_path)
    assert message in found


def test_no_package_outgrows_its_budget() -> None:
    """Lines of Python: a package that wants more says what of it could be less, and why not."""
    lines = Counter[str]()
    for path in (ROOT / PACKAGE).rglob("*.py"):
        package, *inside = path.relative_to(ROOT / PACKAGE).parts
        lines[package if inside else "files at the root"] += len(path.read_text().splitlines())
    over = {name: number for name, number in lines.items() if number > BUDGETS[name]}
    assert not over, f"more lines than the budget: {over}; budgets: {BUDGETS}"


def test_every_file_is_used() -> None:
    """Imported, a verb's, a public name's or a notebook's; entry points and the registry aside."""
    modules = read_modules(ROOT / PACKAGE)
    used = {name for m, path in modules.items() for name, _ in imports_of(m, path, modules)}
    used |= {name.rpartition(".")[0] for name in used}
    used |= {"__main__", "notebooks", "viewers.app", "checkpoints.registry"}
    used |= {"bench.gpu_check", "bench.gpu_run"}
    named = [ROOT / PACKAGE / "cli.py", ROOT / PACKAGE / "__init__.py"]
    text = "".join(path.read_text() for path in [*named, *(ROOT / "notebooks").glob("*.ipynb")])
    words = set(re.findall(r"\w+", text))
    idle = {m for m in modules if m and m not in used and m.rpartition(".")[2] not in words}
    assert not {m for m in idle if not any(u.startswith(f"{m}.") for u in modules)}, idle


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("config cost.formula files metrics paper.ledger cli", "torch tyro sklearn scipy"),
        (
            "method checkpoints.loading cli paper.ledger",
            "matplotlib IPython ipykernel ipywidgets jupyter_client timm",
        ),
        ("figures", "torch"),
        ("data.folder", "av decord"),
        ("training.finetune training.pretrain", "setuptools matplotlib IPython"),
    ],
)
def test_importing_is_light(modules: str, unwanted: str) -> None:
    """In a fresh interpreter, so that what other tests imported does not count."""
    names = ", ".join(f"{PACKAGE}.{module}" for module in modules.split())
    code = f"import sys, {names}; sys.exit(', '.join(set(sys.modules) & set({unwanted.split()!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "", f"importing {modules} brings {done.stderr}"
