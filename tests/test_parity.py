"""Our models against the official equations: archives, digests, and every variant by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_code import recipe_clips, recipe_inputs, recipe_mask, recipe_parameters, write_archive

from maedfer_lab import cli
from maedfer_lab.bench.plain import classify, reconstruct
from maedfer_lab.checkpoints.official import CLASSIFIED, arguments_of
from maedfer_lab.checkpoints.parity import (
    GRADIENT,
    answer,
    compare,
    compare_gradients,
    gradients_of,
    own_names,
    parity,
    parse_kind,
    total_norm,
)
from maedfer_lab.config import ModelConfig, base
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.masking import random_mask
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    build_autoencoder,
    build_classifier,
)
from maedfer_lab.method.targets import unnormalise_pixels
from maedfer_lab.weights import PARITY

GOLDEN = Path(__file__).parents[2] / "shared" / "reference" / "golden"
TINY = ModelConfig(frames=8, size_px=16, tubelet=(2, 4, 4), region=(2, 2, 4), width=16, depth=2,
                   num_heads=2, mlp_ratio=2.0, decoder_width=12, decoder_depth=2,
                   decoder_heads=2)  # fmt: skip


def classifier(tokens=None, num_classes=7, pooling: Any = "mean", **changes) -> Classifier:
    return build_classifier(replace(TINY, **changes), num_classes, tokens, pooling).eval()


def autoencoder(**changes) -> MaskedAutoencoder:
    legacy = changes.get("encoder", "lgi") == "lgi"
    return build_autoencoder(replace(TINY, legacy_visible_order=legacy, **changes)).eval()


VARIANTS = {
    "ft_region": {},
    "ft_org_share13": {"tokens": "tokens", "shared": "local_interact"},
    "ft_all_share": {"tokens": "all", "shared": "all"},
    "ft_cross_first": {"local": "cross", "tokens": "all"},
    "ft_self_third": {"interact": "self", "num_classes": 11},
    "ft_regions_everywhere": {"region": (2, 2, 2), "tokens": "tokens"},
    "ft_one_stage": {"inter": False, "interact": "none", "pooling": "first"},
    "ft_joint": {"encoder": "vit", "pooling": "first", "qkv_bias": False},
    "pt": {},
    "pt_regions_everywhere": {"region": (2, 2, 2)},
    "pt_cross_share": {"local": "cross", "shared": "all", "qkv_bias": False},
    "pt_joint": {"encoder": "vit", "mlp_ratio": 3.0},
    # Sharing with a stage that is not there: an archive that says so could not be built.
    "ft_shared_with_none": {"interact": "none", "shared": "local_interact"},
}


def variant(name: str):
    return (classifier if name.startswith("ft") else autoencoder)(**VARIANTS[name])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for name in VARIANTS:
        write_archive(folder / f"{name}.npz", variant(name))
    return folder


def altered(source: Path, folder: Path, change) -> Path:
    """A folder with one archive whose arrays were changed by `change(arrays)`."""
    with np.load(source) as stored:
        arrays = dict(stored)
    change(arrays)
    folder.mkdir(exist_ok=True)
    np.savez(folder / source.name, **arrays)
    return folder


def status(*args) -> int:
    return cli.main(["parity", *map(str, args)])


# Archives of ours, out through the official names and in again.


def test_every_variant_passes_through_an_archive(fresh):
    report = parity(fresh)
    assert not report.exit_status, str(report)
    assert len(report.seconds) == len(VARIANTS)
    rows = {(row.archive, row.what.split(" (")[0]) for row in report.rows}
    for name in VARIANTS:
        kind = {"logits", "logits64", "feature64"} if "ft" in name else {"pred", "loss_diff_w03"}
        assert {(name, what) for what in kind | {"gradient norms", "grad_patch_embed"}} <= rows


def scaled(name, factor=1.02):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] *= factor

    return change


@pytest.mark.parametrize(
    ("archive", "name"),
    [("ft_region", "sd::head.weight"), ("ft_region", "logits64"), ("ft_all_share", "grad_norms"),
     ("pt", "sd::decoder.norm.bias"), ("pt", "encoder_out"), ("pt", "loss_diff_g4"),
     ("pt", "labels_plain"), ("pt_joint", "grad_patch_embed")],
)  # fmt: skip
def test_one_altered_number_fails(fresh, tmp_path, capsys, archive, name):
    for factor in (1.02, np.nan):
        change = scaled(name, factor)
        assert status(altered(fresh / f"{archive}.npz", tmp_path / "altered", change)) == 1
        out = capsys.readouterr().out
        assert "differs" in out or "not finite" in out


def with_kwargs(**kwargs):
    def change(arrays):
        config = json.loads(str(arrays["config"]))
        config["kwargs"] |= kwargs
        arrays["config"] = np.array(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda a: a.pop("sd::blocks.1.mlp.fc2.bias"), "blocks.1.mlp.fc2.bias: not in the file"),
        (lambda a: a.update({"sd::pos_embed": np.zeros(3, "f4")}), "pos_embed: (3,) in the file"),
        (lambda a: a.update(config=np.array('{"class": "ResNet"}')), "class='ResNet'"),
        (lambda a: a.update(config=np.array("{")), "not JSON"),
        (lambda a: a.pop("config"), "no 'config'"),
        (lambda a: a.pop("y"), "'y' is missing"),
        (lambda a: a.update(x=a["x"][:, :, :4]), "clip of shape"),
        (with_kwargs(lg_region_size=[3, 2, 4]), "region=(3, 2, 4)"),
        (with_kwargs(depth=3), "depth=3, but 2"),
        (with_kwargs(num_classes=11), "num_classes=11, but 7"),
        (with_kwargs(lg_no_third=True), "lg_no_third=True, but False"),
        (with_kwargs(lg_attn_param_sharing_all=True), "sharing_all=True, but False"),
        (lambda a: a.update({"sd::norm2": np.zeros(3, "i4")}), "norm2 has dtype int32"),
    ],
)
def test_what_cannot_be_built_is_named_and_the_others_go_on(fresh, tmp_path, capsys, change, part):
    folder = altered(fresh / "ft_region.npz", tmp_path / "a", change)
    (folder / "text.npz").write_text("not an archive")
    (folder / "whole.npz").write_bytes((fresh / "ft_joint.npz").read_bytes())
    assert status(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    refused = [line for line in lines if "cannot be built" in line]
    assert any(part in line for line in refused) and any("text.npz" in line for line in refused)
    assert any(line.startswith("whole") and " ok" in line for line in lines)


def test_an_archive_is_never_unpickled(fresh, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "planted",))

    change = {"y": np.array([Bomb()], dtype=object)}
    folder = altered(fresh / "ft_region.npz", tmp_path / "a", lambda a: a.update(change))
    assert status(folder) == 1
    assert not (tmp_path / "planted").exists()


def test_no_archives_are_an_error(tmp_path, capsys):
    assert status(tmp_path / "absent") == 2
    assert status(tmp_path) == 2
    assert "archives" in capsys.readouterr().err


def test_unknown_keys_and_partial_labels_are_named_not_dropped(fresh, tmp_path):
    def change(arrays):
        arrays["attention"] = np.zeros(3)
        arrays["loss_diff_g4_w03"] = np.zeros(())
        arrays["labels_diff"] = arrays["labels_diff"][:, :4]

    report = parity(altered(fresh / "pt.npz", tmp_path / "a", change))
    left = {row.what for row in report.rows if row.verdict == "not compared"}
    assert not report.exit_status and left == {"attention", "loss_diff_g4_w03"}


def test_what_shapes_tell_need_not_be_given(fresh, tmp_path):
    def change(arrays):
        config = json.loads(str(arrays["config"]))
        untold = ("num_heads", "lg_region_size", "lg_classify_token_type")
        config["kwargs"] = {name: config["kwargs"][name] for name in untold}
        config["kwargs"] |= {"drop_path_rate": 0.1, "attn_drop_rate": 0.1, "init_scale": 0.001}
        arrays["config"] = np.array(json.dumps(config))

    report = parity(altered(fresh / "ft_all_share.npz", tmp_path / "a", change))
    assert not report.exit_status, str(report)
    assert "not used: drop_path_rate=0.1, attn_drop_rate=0.1" in report.rows[0].note


# Numbers of the official models themselves, and the archives that lie with the package.


def test_a_stranger_can_run_it_and_is_told_about_the_official_code(capsys, tmp_path):
    out = tmp_path / "parity.json"
    assert status("--json", out) == 0
    printed = capsys.readouterr().out
    assert "all within tolerance" in printed and "official_differences.md" in printed
    rows = json.loads(out.read_text())["comparisons"]
    assert {"logits64", "pred64", "parameters"} <= {row["what"] for row in rows}
    assert sum(path.stat().st_size for path in PARITY.iterdir()) < 500_000


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the official archives lie beside the checkout")
def test_golden_archives_of_the_official_code():
    report = parity(GOLDEN)
    assert not report.exit_status, str(report)
    assert len(report.seconds) >= 11


# A mean near zero has no magnitude of its own: its difference is relative to the deviation.
SCALES = {"feature_mean": "feature_std", "pred_mean": "pred_std", "label_mean": "label_std"}


def assert_numbers(model, inputs, entry) -> None:
    """Compare a model, run once forward and backward, with a few numbers of what it gave."""
    out, found = answer(model, inputs, ["loss_diff", "labels_diff"])
    total = total_norm(found[name] for name in own_names(model))
    numbers = {**out, "grad_total": np.asarray(total)}
    if "logits" in out:
        numbers["feature16"], spread = out["feature"][0, :16], {"feature": out["feature"]}
    else:
        pred, labels, mask = out["pred"], out["labels_diff"], inputs["mask"]
        half = labels.shape[-1] // 2
        spread = {"pred": pred, "label": labels}
        numbers |= {
            "pred_0_0_16": pred[0, 0, :16], "pred_1_last_16": pred[-1, -1, -16:],
            "label_0_0_16": labels[0, 0, :16],
            f"label_0_0_{half}_16": labels[0, 0, half : half + 16],
            "mask_sum": mask.sum(), "mask_first_visible": np.flatnonzero(~mask[0])[:10],
        }  # fmt: skip
    for name, x in spread.items():
        numbers |= {f"{name}_mean": x.mean(dtype="f8"), f"{name}_std": x.std(ddof=1, dtype="f8")}
    rows = [compare_gradients("", found, entry["grad_sel"], total)]
    for key in entry.keys() - {"grad_sel", "config", "num"}:
        tolerance = GRADIENT if key == "grad_total" else 1e-5
        theirs, scale = np.asarray(entry[key], np.float64), entry.get(SCALES.get(key, ""))
        rows.append(compare("", key, np.asarray(numbers[key]), theirs, tolerance, scale))
    assert len(rows) > 5 and not [row for row in rows if row.verdict != "ok"], rows


DIGESTS = json.loads((Path(__file__).parent / "data" / "parity_digests.json").read_text())


@pytest.mark.parametrize("name", DIGESTS)
def test_numbers_of_the_day_it_was_verified(name):
    """Written on the day that all golden archives passed; guards later changes of numerics."""
    model = variant(name)
    recipe_parameters(model, 0.2)
    assert_numbers(model, recipe_inputs(model), DIGESTS[name])


FULL = json.loads((GOLDEN / "full.json").read_text()) if GOLDEN.is_dir() else {}


@pytest.mark.slow
@pytest.mark.parametrize("key", FULL)
def test_full_size_models_of_the_official_code(key):
    """Names such as ft_region_std0.05, vit_std0.02, pt_vit: filled by the recipe."""
    entry, (kind, _, std) = FULL[key], key.partition("_std")
    config, num = base("vit" if "vit" in key else "lgi").model, len(entry.get("logits", "ab"))
    inputs = {"x": recipe_clips(num, config.frames, config.size_px)}
    if key.startswith("pt"):
        model = build_autoencoder(replace(config, legacy_visible_order="vit" not in key))
        inputs["mask"] = recipe_mask(num, model.grid, config.region[1:], 0.9)
    else:
        tokens = None if kind == "vit" else CLASSIFIED[kind.removeprefix("ft_")]
        model = build_classifier(config, 7, tokens)
        inputs["y"] = np.arange(1, num + 1)
    recipe_parameters(model, float(std or 0.02))
    assert_numbers(model, inputs, entry)


# Every variant against the official equations written out in maedfer_lab/bench/plain.py.

divisors_of_4 = st.sampled_from([1, 2, 4])
common = {
    "encoder": st.sampled_from(["vit", "lgi", "lgi", "lgi"]),
    "mlp_ratio": st.sampled_from([1.5, 2.0, 4.0]),
    "qkv_bias": st.booleans(),
    "local": st.sampled_from(["self", "cross"]),
    "inter": st.booleans(),
    "interact": st.sampled_from(["cross", "self", "none"]),
    "shared": st.sampled_from(["none", "local_interact", "all"]),
    "region": st.tuples(divisors_of_4, divisors_of_4, divisors_of_4),
}
cubes = st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([4, 8]))
heads = st.fixed_dictionaries({"pooling": st.sampled_from(["mean", "first"]),
                               "tokens": st.sampled_from(["tokens", "rep", "all"])})  # fmt: skip


def of_cubes(t: int, px: int) -> dict:
    """Settings of a clip of 4 x 4 x 4 tokens."""
    return {"frames": 4 * t, "size_px": 4 * px, "tubelet": (t, px, px)}


def double_model(model):
    """Our model in float64, its parameters under official names as leaves (shared ones once)."""
    archive = {n: x.double() for n, x in recipe_parameters(model, 0.3).items()}
    leaves = {n: archive[n].requires_grad_() for n in own_names(model)}
    names = {n: n if n in leaves else _first_name(n, leaves) for n in archive}
    state = {n: leaves[own] for n, own in names.items() if own in leaves}
    return model.double(), leaves, state


def _first_name(name: str, leaves: dict) -> str:
    return next((n for stage in ("second_attn", "third_attn")
                 if (n := name.replace(f"{stage}.", "first_attn.")) in leaves), name)  # fmt: skip


def assert_close(ours, theirs, tolerance=1e-10):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-3)


def assert_same_gradients(model, loss, leaves, want):
    loss.backward()
    want.backward()
    found = gradients_of(model)
    for name, leaf in leaves.items():
        grad = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        assert found[name].isfinite().all()
        assert_close(found[name], grad, 1e-9)


@given(st.fixed_dictionaries(common), cubes, heads)
@settings(max_examples=60, deadline=None)
def test_every_classifier_is_the_official_equations(changes, cube, head):
    """Also gradients: the official cross first stage cannot train (B4), ours can."""
    if changes["encoder"] == "vit":
        head = head | {"tokens": "tokens"}
    model, leaves, state = double_model(classifier(**head, **changes, **of_cubes(*cube)))
    x = torch.from_numpy(recipe_clips(2, model.config.frames, model.config.size_px)).double()
    ours, want = model(unnormalise_pixels(x)), classify(state, x, arguments_of(model))
    assert_close(ours, want)
    assert_same_gradients(model, ours.square().sum(), leaves, want.square().sum())


@given(st.fixed_dictionaries(common), st.sampled_from([4, 8]), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_every_autoencoder_is_the_official_equations(changes, px, visible):
    """With any region shape the official code cuts visible tokens by rank (B1, B2)."""
    model, leaves, state = double_model(autoencoder(**changes, **of_cubes(2, px)))
    x = torch.from_numpy(recipe_clips(2, model.config.frames, model.config.size_px)).double()
    # Masks that the official code accepts: each frame's visible tokens divide among its regions.
    mask = torch.from_numpy(recipe_mask(2, Grid(4, 4, 4), (4, 4), 1 - visible / 4))
    _, h, w = changes["region"]
    if changes["encoder"] == "lgi" and 4 * visible % (16 // (h * w)):
        with pytest.raises(ValueError, match="legacy_visible_order"):
            model.split(mask)
        return
    out, want = reconstruct(state, x, mask, arguments_of(model))
    split = model.split(mask)
    encoded = model.norm(model.encoder(unnormalise_pixels(x), split.visible).tokens)
    pred = model.decoder(encoded, split.decoder_positions, split.masked)
    assert_close(encoded, out)
    assert_close(pred, want)
    assert_same_gradients(model, pred.square().sum(), leaves, want.square().sum())


def test_losses_are_the_official_means():
    """One mean over all outputs, also where a mask leaves frames unequally often hidden (g4)."""
    model = autoencoder(encoder="vit")
    recipe_parameters(model, 0.2)
    mask = random_mask(model.grid, 0.75, 2, generator=torch.Generator().manual_seed(3)).numpy()
    kinds = ["diff", "diff_g4", "diff_raw", "plain", "diff_w03"]
    wanted = [f"{part}_{kind}" for kind in kinds for part in ("loss", "labels")]
    found = answer(model, {"x": recipe_clips(2, 8, 16), "mask": mask}, wanted)[0]
    for kind in kinds:
        error = (found["pred"] - found[f"labels_{kind}"]) ** 2
        want = error.mean()
        if kind == "diff_w03":  # weights of the first and the second frame of each cube
            want = 0.7 * error[..., :48].mean() + 0.3 * error[..., 48:].mean()
        assert found[f"loss_{kind}"] == pytest.approx(want, rel=1e-6)


# Names and numbers.


def test_names_of_losses_are_read():
    weights = {"diff": None, "diff_w05": 0.5, "diff_w0.7": 0.7, "diff_w1.5": 1.5, "diff_w25": 0.25,
               "diff_w1": 1.0, "diff_w10": 1.0, "diff_g4_raw": None}  # fmt: skip
    assert {name: (parse_kind(name) or "?")[1] for name in weights} == weights
    assert not any(map(parse_kind, ("", "angle", "diff_", "diff_x3", "diff_g4_w03", "plain_w05")))
