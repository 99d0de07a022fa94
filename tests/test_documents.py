"""What README, docs, model cards and notebooks name is there: files, sections, verbs, flags."""

import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path

import nbformat
import pytest

from maedfer_lab import cli
from maedfer_lab.config import FinetuneConfig, PretrainConfig, profile
from maedfer_lab.config.presets import PRESETS, finetune_demo, finetune_recipe
from maedfer_lab.paper.ledger import ledger

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [
    README, ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb"),
    *ROOT.glob("maedfer_lab/weights/*/README.md"),
]  # fmt: skip
RECIPES = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}


def text_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells)


def sections(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def unknown_flags(verb: str, rest: str) -> set[str]:
    module, _, function = cli.VERBS[verb][0].partition(":")
    known = {*inspect.signature(getattr(importlib.import_module(module), function)).parameters}
    known |= {"help"} | {"fields"} & known
    if verb in RECIPES:
        known |= {field.name for field in fields(RECIPES[verb])}
    used = {flag.partition(".")[0] for flag in re.findall(r"--([a-z][\w.-]*)", rest)}
    return {flag for flag in used if flag.replace("-", "_").removeprefix("no_") not in known}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_commands_exist(path):
    text = text_of(path)
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        file, _, section = "".join(link).partition("#")
        if "://" not in file:
            target = path.parent / file if file else path
            assert target.exists(), link
            assert not section or section in sections(text_of(target)), link
    if path.name == "CHANGELOG.md":
        return  # names what was removed, too
    assert all((ROOT / name).exists() for name in re.findall(r"tests/\w+\.py", text))
    runs = {make().name for make in PRESETS.values()}
    runs |= {finetune_recipe("dfew", 1).name, finetune_demo("folder", 1).name, "finetune"}
    assert {*re.findall(r"runs/([a-z-]+)-\.\.\.", text)} <= runs
    for verb, rest in re.findall(r"(?:`|^|-m )maedfer(?:_lab)? ([a-z]\w*)([^`\n#]*)",
                                 text.replace("\\\n", " "), re.M):  # fmt: skip
        assert verb in cli.VERBS and not unknown_flags(verb, rest), (verb, rest)


def test_commands_of_the_ledger_exist():
    for command in " && ".join({claim.command for claim in ledger() if claim.command}).split("&&"):
        verb, _, rest = command.strip().removeprefix("maedfer ").partition(" ")
        assert not unknown_flags(verb, rest), command


def test_the_readme_gives_the_minutes_of_the_quick_profile_and_is_short():
    rows = re.findall(r"\(notebooks/(\d\d)_\w+\.ipynb\).* ([\d.]+) \|$", README.read_text(), re.M)
    assert {number: float(minutes) for number, minutes in rows} == profile("quick").minutes
    assert len(README.read_text().splitlines()) <= 200
