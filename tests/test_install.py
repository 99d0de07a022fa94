"""What a stranger installs: pyproject.toml, environment.yml, the Makefile and the data agree."""

import subprocess
import sys
import warnings
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

import maedfer_lab
from maedfer_lab.checkpoints.reading import read_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_environment_yml_makefile_and_citation_say_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, from_pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert from_pip == {"pip": [f"-e .[{','.join(EXTRAS)}]"]}
    makefile, floor = (ROOT / "Makefile").read_text(), PROJECT["requires-python"][2:]
    assert f"EXTRAS := {','.join(EXTRAS)}\n" in makefile and f"Python {floor} or newer" in makefile
    assert f"sys.version_info < ({floor.replace('.', ', ')})" in makefile
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert all(citation[key] == PROJECT[key] for key in ("version", "license"))
    assert [work["doi"] for work in citation["references"]] == ["10.1145/3581783.3612365"]
    assert version(PROJECT["name"]) == PROJECT["version"]
    assert files("maedfer_lab").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["dependencies", *EXTRAS])
def test_requirements_have_a_lower_bound_and_nothing_else(name):
    for line in PROJECT["dependencies"] if name == "dependencies" else EXTRAS[name]:
        bounds = [part.operator for part in Requirement(line).specifier]
        assert bounds == [">="], f"{line} needs a lower bound, and only that"


def test_every_data_file_of_the_package_is_shipped():
    shipped = {
        path
        for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files_here = {path for path in (ROOT / "maedfer_lab").rglob("*") if path.is_file()}
    data = {path for path in files_here if path.suffix not in (".py", ".pyc")}
    assert data and data <= shipped, f"no pattern of package-data ships {data - shipped}"
    folders = {path.parent for path in files_here - data if path.suffix == ".py"}
    assert all((folder / "__init__.py").exists() for folder in folders), folders


def test_every_command_is_explained_and_needs_no_other_first():
    makefile = (ROOT / "Makefile").read_text()
    for command in ("reproduce", "test", "lab", "app", "figures", "lint"):
        assert f"\n{command}: $(STAMP)\n" in makefile and f'\n\t@echo "make {command} ' in makefile
    done = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True)
    for option in ("news_url=None", "extension_manager=readonly", "jupyterlab.NeverCheckForUpdate"):
        assert option in done.stdout, "it asks nobody for news, updates or extensions"


def test_the_shop_window_opens_and_names_nothing_that_is_not_there():
    names = [name for name in dir(maedfer_lab) if not name.startswith("_")]
    assert {"pretrain", "load_checkpoint", "reconstruct_clip", "demo"} <= set(names)
    assert all(getattr(maedfer_lab, name) is not None for name in [*names, "__version__"])
    with pytest.raises(AttributeError, match="nothing"):
        _ = maedfer_lab.nothing


def test_an_old_torch_warns_before_it_reads_a_pickle(tmp_path, monkeypatch):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(torch, "__version__", "2.10.0+cpu")
        read_file(tmp_path / "foreign.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.warns(UserWarning, match=r"foreign.pth is a pickle.*install PyTorch 2.10"):
        read_file(tmp_path / "foreign.pth")
