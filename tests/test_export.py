"""Exported models give PyTorch's numbers, for any number of clips or of visible tokens; where the
page's runtime comes from, and what is said where it cannot be had.

The page itself is tested in a browser: tests/browser/test_explain.py.
"""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from maedfer_lab import cli
from maedfer_lab.checkpoints import export
from maedfer_lab.config import tiny
from maedfer_lab.method.models import build_classifier
from maedfer_lab.viewers import explain

# Outside of pytest, whose checks of shapes would pin the sizes that are to stay free.
EXPORT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import onnx, torch
from maedfer_lab.checkpoints.export import Exported, _example, _run, export_model
from maedfer_lab.config import TargetConfig, tiny
from maedfer_lab.method.models import build_autoencoder, build_classifier
lgi, vit = tiny().model, tiny("vit").model
models = {
    "rep": build_classifier(lgi, 7), "pt": build_autoencoder(lgi, TargetConfig()),
    "vit": build_classifier(vit, 3, pooling="regions"),
    "legacy": build_autoencoder(replace(lgi, legacy_visible_order=True), TargetConfig()),
}
found = {}
for name, model in models.items():
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.eval()
    for suffix in (".onnx", ".pt2") if name in ("rep", "pt") else (".onnx",):
        path = Path(sys.argv[1]) / f"{name}{suffix}"
        difference, allowed, size = export_model(model, path)
        assert difference <= allowed == 1e-4 and size == path.stat().st_size
        with torch.no_grad():
            for few in (True, False):
                inputs = _example(model, few)
                want = model(*inputs) if len(inputs) == 1 else None
                if want is None:
                    mask = torch.ones(1, model.grid.n, dtype=torch.bool)
                    mask[0, inputs[1].long()] = False
                    want = model(inputs[0], mask).prediction
                got = _run(suffix, path.read_bytes(), inputs)[0]
                assert got.shape == want.shape and torch.allclose(got, want, atol=1e-4), name
    content = onnx.load(path.with_suffix(".onnx"))
    found[name] = sorted({node.op_type for node in content.graph.node})
half = Path(sys.argv[1]) / "half.onnx"
assert 0 < export_model(models["pt"], half, float16=True)[0] < 2e-2
found["sizes"] = [(half.parent / "pt.onnx").stat().st_size, half.stat().st_size]
print(json.dumps(found))
"""


def test_outputs_are_those_of_pytorch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXPORT, str(tmp_path)],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, f"are the libraries of the extra `export` there?\n{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])
    whole, half = found.pop("sizes")
    assert whole - half > 100_000  # the rest is the graph
    assert not any("GatherND" in nodes for nodes in found.values())


@pytest.mark.parametrize(
    ("args", "message"),
    [("export demo --to model.txt", "end it in .onnx or .pt2"),
     ("export demo --to model.pt2 --float16", "leave it out for .pt2"),
     ("explain --out page.txt", "end it in .html, such as page.html")],
)  # fmt: skip
def test_what_is_not_offered_is_refused(args, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(args.split()) == 2
    assert message in capsys.readouterr().err and not list(Path.cwd().iterdir())


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_run", lambda suffix, content, inputs: [inputs[0].new_zeros(3, 7)])
    monkeypatch.setattr(export, "_onnx", lambda *arguments: b"")
    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: None)
    monkeypatch.setattr(export, "_example", lambda model, few: (torch.rand(3, 3, 8, 32, 32),))
    model = build_classifier(tiny().model, 7)
    with pytest.raises(ValueError, match="nothing was written"):
        export.export_model(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)


def package(path: Path, content: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in explain.RUNTIME_FILES:
            about = tarfile.TarInfo(f"package/dist/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def test_the_runtime_is_the_tested_one_or_none(monkeypatch, tmp_path):
    ours = package(tmp_path / "ort.tgz", b"code")
    with pytest.raises(ValueError, match=r"not that of onnxruntime-web (?s:.*)npm pack"):
        explain.runtime_files(ours)
    digest = "5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b"  # of b"code"
    monkeypatch.setattr(explain, "RUNTIME_FILES", dict.fromkeys(explain.RUNTIME_FILES, digest))
    paths = explain.runtime_files(ours)
    monkeypatch.setattr(explain, "_fetch", None)
    assert explain.runtime_files() == paths  # from the cache
    paths[0].write_bytes(b"changed")
    with pytest.raises(ValueError, match="is deleted; run this again"):
        explain.runtime_files()
    assert not paths[0].exists()


def test_without_npm_or_network_it_is_said_what_to_do(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no route to the registry >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(explain.shutil, "which", lambda name, path=None: str(npm))
    with pytest.raises(OSError, match=r"no route .* --runtime onnxruntime-web-1\.30\.0\.tgz"):
        explain.runtime_files()
    monkeypatch.setattr(explain.shutil, "which", lambda name, path=None: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'maedfer-lab\[page\]'"):
        explain.runtime_files()
