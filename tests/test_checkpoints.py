"""Loading: what a file is, what of it is used, what does not fit; and the official layout."""

import argparse
import hashlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch.testing import assert_close

from maedfer_lab import cli
from maedfer_lab.checkpoints.loading import fitting_regions, load_checkpoint
from maedfer_lab.checkpoints.official import to_official
from maedfer_lab.checkpoints.reading import facts_of, recognise
from maedfer_lab.checkpoints.saving import save_official, save_pretrained
from maedfer_lab.config import EncoderKind, TargetConfig, base, tiny
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.models import Classifier, build_autoencoder, build_classifier
from maedfer_lab.runs import Run

TINY = tiny().model
ARGS = argparse.Namespace(
    input_size=32, num_frames=8, lg_region_size=[2, 2, 4], encoder_num_heads=2, num_heads=2,
    decoder_num_heads=2, use_frame_diff_as_target=True, normlize_target=True,
    target_diff_weight=None, frame_diff_group_size=2, lg_classify_token_type="region",
)  # fmt: skip
OWN = {"frames": 8, "size_px": 32, "region": (2, 2, 4), "num_heads": 2}
REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


def pretrained_file(folder: Path, encoder: EncoderKind = "lgi", **more) -> Path:
    model = build_autoencoder(tiny(encoder).model, seed=1)
    path = folder / "checkpoint-49.pth"
    content = {"model": to_official(model), "optimizer": {"state": {}}, "epoch": 49,
               "scaler": {"scale": 1.0}, "args": ARGS, **more}  # fmt: skip
    torch.save(content, path)
    return path


def finetuned_state(num_classes=7):
    return to_official(build_classifier(TINY, num_classes))


def write(path: Path, state, **more) -> Path:
    torch.save({"model": state, "epoch": "best", "args": ARGS, **more}, path)
    return path


# --- full size --------------------------------------------------------------------------------

FULL: dict[str, tuple[EncoderKind, int, int, int, str]] = {
    "finetune": ("lgi", 7, 84_878_343, 519,
                 "2c049d6c1cadade9fc1f59282653229c02465c0e5fc157d52402805d4c7922fc"),
    "finetune-11": ("lgi", 11, 84_880_395, 519,
                 "f47db678dda808431c5452119435d1e069f0cc556810697e761bd64b593e27fc"),
    "vit": ("vit", 7, 86_232_583, 162,
                 "b2066c841fef2e5fb671b6ca42b8d40c4c8e6f0c3a90141dcf328bc83dec3fa7"),
    "pretrain": ("lgi", 0, 92_760_192, 575,
                 "8fcc097c419c8af2543527698feb0c1eb825a50cd75501f6ce86d95a7a69dd5c"),
    "pretrain-vit": ("vit", 0, 94_210_944, 218,
                 "53b9f392687040bfc98f842af95f09a9b9d7164b9ea5c86b4257941d15503f3d"),
}  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_full_models_have_the_official_names_shapes_and_counts(name):
    encoder, num_classes, num_parameters, num_keys, digest = FULL[name]
    with init_empty_weights():
        model = (
            build_classifier(base(encoder).model, num_classes)
            if num_classes
            else build_autoencoder(base(encoder).model)
        )
    shapes = {key: list(x.shape) for key, x in to_official(model).items()}
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert len(shapes) == num_keys
    lines = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == digest
    reference = REFERENCE / f"official_state_keys_{name}.json"
    if reference.exists():
        assert list(json.loads(reference.read_text()).items()) == list(shapes.items())


# --- what a file is, and what of it is used ----------------------------------------------------


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_an_official_pretraining_checkpoint_loads_whole(encoder, tmp_path):
    loaded = load_checkpoint(pretrained_file(tmp_path, encoder))
    model = build_autoencoder(tiny(encoder).model, seed=1)
    assert_close(loaded.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert loaded.model.config == replace(
        tiny(encoder).model, legacy_visible_order=encoder == "lgi"
    )
    assert loaded.model.target == TargetConfig()
    assert not loaded.model.training
    text = str(loaded.report)
    count = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    for part in ("pre-training checkpoint", "step 49", f"tiny ({encoder})", count, "100.0 %",
                 "optimizer, epoch, scaler, args", "the file's args"):  # fmt: skip
        assert part in text
    assert ("legacy_visible_order is on" in text) is (encoder == "lgi")


def test_a_classifier_of_a_pretrained_encoder_says_what_became_of_every_parameter(tmp_path):
    path = pretrained_file(tmp_path)
    loaded = load_checkpoint(path, as_="classifier", num_classes=5, drop_path=0.1)
    head = loaded.model.state_dict()["head.weight"]
    source = build_autoencoder(TINY, seed=1)
    assert_close(loaded.model.encoder.state_dict(), source.encoder.state_dict(), rtol=0, atol=0)
    report = loaded.report
    names = [*report.used.names, *(name for group in report.ignored for name in group.names)]
    assert sorted(names) == sorted(to_official(source))
    assert report.used.parameters + sum(g.parameters for g in report.ignored) == (
        report.num_parameters
    )
    why = {name: group.why for group in report.ignored for name in group.names}
    assert "no decoder" in why["mask_token"] and "no decoder" in why["decoder.norm.weight"]
    assert "fc_norm" in why["encoder.norm.weight"]
    (fresh,) = report.fresh
    assert fresh.names == ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
    assert 0 < head.abs().max() < 1e-3  # logits start near zero
    assert loaded.model.config.drop_path == 0.1
    assert not loaded.model.config.legacy_visible_order  # where every token is visible
    other = load_checkpoint(path, as_="classifier", num_classes=5, seed=1)
    assert not torch.equal(other.model.state_dict()["head.weight"], head)
    with pytest.raises(ValueError, match="give num_classes, such as 7"):
        load_checkpoint(path, as_="classifier")


def test_another_number_of_classes_gets_a_fresh_head_alone(tmp_path):
    state = finetuned_state(num_classes=7)
    report = load_checkpoint(write(tmp_path / "a.pth", state), num_classes=11).report
    assert report.fresh[0].names == ("head.weight", "head.bias")
    assert report.ignored[0].names == ("head.weight", "head.bias")
    assert "num_classes=11" in report.ignored[0].why
    with pytest.raises(ValueError, match="no decoder"):
        load_checkpoint(tmp_path / "a.pth", as_="autoencoder")


@pytest.mark.parametrize("prefix", ["", "encoder.", "backbone.", "module.encoder.", "model.",
                                    "mae.", "model.encoder.", "net.module.",
                                    "_fsdp_wrapped_module."])  # fmt: skip
@pytest.mark.parametrize("wrapper", [None, "model", "module", "state_dict", "model_state_dict"])
def test_wrappers_and_prefixes_are_understood(wrapper, prefix):
    """Official, timm's and Lightning's, which keep paths in args and more beside."""
    state, args = finetuned_state(), argparse.Namespace(**vars(ARGS), output=Path("a"))
    named = {f"{prefix}{name}": value for name, value in state.items()}
    more = {"args": args, "pytorch-lightning_version": "2.5", "hyper_parameters": {}, "epoch": 3}
    loaded = load_checkpoint(recognise({wrapper: named, **more} if wrapper else named), **OWN)
    assert all(torch.equal(x, to_official(loaded.model)[n]) for n, x in state.items())
    text = str(loaded.report)
    assert all(repr(f"{part}.") in text or repr(prefix) in text for part in prefix.split(".")[:-1])
    assert ("prefix" in text) is bool(prefix) and not loaded.report.ignored
    assert loaded.report.epoch == ("3" if wrapper else None)


def test_of_a_larger_module_the_model_is_taken_and_the_rest_is_told():
    """As compiled, checkpointed and wrapped blocks, losses and averages of weights leave it."""
    state, more = finetuned_state(), {"criterion.weight": torch.ones(7)}
    named = {n.replace(".0.", ".0._orig_mod."): x for n, x in state.items()}
    named = {n if n[:5] == "head." else f"net.{n}": x for n, x in named.items()} | more
    count = {"val_acc.total": torch.tensor([3])}
    loaded = load_checkpoint(recognise({"net": named | count, "optimizer": {"state": {}}}), **OWN)
    assert all(torch.equal(x, to_official(loaded.model)[n]) for n, x in state.items())
    assert loaded.report.ignored[0].names == ("criterion.weight", "val_acc.total")
    assert "ema (weights as well, not used)" in str(
        load_checkpoint(recognise({"model": state, "ema": state}), **OWN).report
    )
    for many in (
        {"student": state, "teacher": state},
        {f"{who}.{n}": x for n, x in state.items() for who in ("student", "teacher")},
    ):
        with pytest.raises(ValueError, match="several models, under 'student"):
            recognise(many)


def test_of_a_folder_the_only_file_is_taken_and_several_are_named(tmp_path):
    (tmp_path / "log.txt").touch()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_checkpoint(tmp_path)
    write(tmp_path / "mp_rank_00_model_states.pt", finetuned_state())
    assert load_checkpoint(tmp_path).report.num_classes == 7
    write(tmp_path / "other.pth", finetuned_state())
    with pytest.raises(FileNotFoundError, match=r"holds 2 files .* mp_rank.*, other\.pth"):
        load_checkpoint(tmp_path)
    write(tmp_path / "pytorch_model.bin", finetuned_state())
    write(tmp_path / "checkpoint.pt", finetuned_state())
    assert "pytorch_model.bin" in str(load_checkpoint(tmp_path).report)


def test_heads_are_those_of_published_models_of_that_width():
    for width, heads in ((1280, 16), (64, 1)):
        vit = replace(tiny("vit").model, width=width, num_heads=heads, depth=1, mlp_ratio=0.05)
        state = to_official(build_classifier(vit, 7))
        found = load_checkpoint(recognise(state), frames=8, size_px=32).model.config
        assert found.num_heads == heads


def test_an_encoder_alone_becomes_a_classifier():
    state = to_official(build_autoencoder(TINY))
    state = {name: x for name, x in state.items() if name.startswith("encoder.b")}
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.weight: not in the file"):
        load_checkpoint(recognise(state), num_classes=7, **OWN)
    state = {n: x for n, x in to_official(build_autoencoder(TINY)).items() if n[:8] == "encoder."}
    report = load_checkpoint(recognise(state), num_classes=7, **OWN).report
    assert report.part == "encoder" and report.ignored[0].names == ("norm.weight", "norm.bias")
    state = {n: x for n, x in finetuned_state().items() if n[:5] != "head."}  # as for another task
    report = load_checkpoint(recognise(state), num_classes=5, **OWN).report
    assert report.fresh[0].names == ("head.weight", "head.bias") and not report.ignored


VARIANTS = [
    {}, {"local": "cross"}, {"inter": False}, {"interact": "self"}, {"interact": "none"},
    {"shared": "local_interact"}, {"shared": "all"}, {"qkv_bias": False}, {"region": (2, 4, 2)},
]  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("part", ["autoencoder", "classifier"])
def test_round_trips_are_bit_equal_both_ways(part, changes, tmp_path):
    """And without args, structure is read from names and shapes: but for a decoder's."""
    config = replace(TINY, **changes)
    target = TargetConfig(motion_group=4, motion_weight=0.3)
    model = build_classifier(config, 7, "all")
    model = build_autoencoder(config, target) if part == "autoencoder" else model
    save_official(model, tmp_path / "a.pth")
    loaded, report = load_checkpoint(tmp_path / "a.pth")
    assert loaded.config == config
    assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert len(list(loaded.parameters())) == len(list(model.parameters()))  # sharing survives
    written, back = torch.load(tmp_path / "a.pth", weights_only=True)["model"], to_official(loaded)
    assert list(back) == list(written)
    assert_close(back, written, rtol=0, atol=0)
    assert getattr(loaded, "target", target) == target and getattr(loaded, "tokens", "all") == "all"
    assert report.num_parameters == report.model_parameters == report.used.parameters
    if part == "classifier":
        bare = load_checkpoint(recognise(back), **{**OWN, "region": config.region}).model
        decoder = {"decoder_width": 384, "decoder_depth": 4, "decoder_heads": 6}
        assert bare.config == replace(config, **decoder)


def test_without_regions_none_are_told_and_without_their_tokens_these_are_named():
    vit = load_checkpoint(recognise(to_official(build_classifier(tiny("vit").model, 7))), **OWN)
    assert vit.model.config.region == base().model.region and "region" not in str(vit.report)
    state = {n: x for n, x in finetuned_state().items() if n != "lg_region_tokens"}
    with pytest.raises(ValueError, match="lg_region_tokens: not in the file"):
        load_checkpoint(recognise(state), frames=8, size_px=32, num_heads=2)
    first = load_checkpoint(
        recognise(to_official(build_classifier(TINY, 7, pooling="first"))), **OWN
    )
    assert first.model.pooling == "first"


# --- other sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "size_px", "region"),
    [(8, 160, (1, 5, 10)), (32, 160, (4, 5, 10)), (16, 112, (1, 7, 7)), (32, 224, (4, 7, 14))],
)  # fmt: skip
def test_other_clips_work_where_the_regions_keep_their_number(frames, size_px, region):
    grid = Grid.of_clip(frames, size_px, size_px, (2, 16, 16))
    config = replace(base().model, width=32, depth=1, num_heads=2, region=(2, 5, 10))
    weights = recognise(to_official(build_classifier(config, 7)))
    given = {"frames": frames, "size_px": size_px, "region": region, "num_heads": 2}
    assert region in fitting_regions(8, grid)
    clip = torch.rand(1, 3, frames, size_px, size_px)
    assert load_checkpoint(weights, **given).model(clip).shape == (1, 7)


def test_a_region_that_does_not_fit_lists_shapes_and_sizes(tmp_path):
    config = replace(base().model, width=32, depth=1, num_heads=2)
    save_official(build_classifier(config, 7), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="8 region tokens") as error:
        load_checkpoint(tmp_path / "a.pth", frames=8)
    assert all(part in str(error.value) for part in ("cuts it into 4", "(1, 5, 10)", "region="))
    with pytest.raises(ValueError, match=r"does not divide it"):
        load_checkpoint(tmp_path / "a.pth", size_px=112)
    with pytest.raises(ValueError, match="at most"):
        load_checkpoint(tmp_path / "a.pth", size_px=160 * 200)
    report = load_checkpoint(tmp_path / "a.pth", frames=8, region=(1, 5, 10)).report
    assert "given (the file's args says 16)" in str(report)


# --- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["autoencoder", "classifier"])
@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_one_wrong_entry_is_named(fault, part, tmp_path):
    model = build_autoencoder(TINY) if part == "autoencoder" else build_classifier(TINY, 7)
    sound = to_official(model)
    special = ("patch_embed.proj.weight", "lg_region_tokens", "head.weight", "mask_token")
    for name in [*list(sound)[::9], *(n for n in sound if n.endswith(special))]:
        state = dict(sound)
        if fault == "missing":
            del state[name]
        elif fault == "extra":
            name = f"{name}_more"
            state[name] = torch.zeros(3)
        else:
            state[name] = torch.zeros(3, 1, 2)
        with pytest.raises(ValueError) as error:
            load_checkpoint(recognise({"model": state, "args": ARGS}), **OWN)
        said = str(error.value)
        assert name in said or name.endswith("lg_region_tokens")
        if fault == "shape" and "blocks." in name:
            want = tuple(sound[name].shape)
            assert f"{name}: (3, 1, 2) in the file; the model has {want}" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_are_reported(dtype, tmp_path):
    state = {name: x.to(dtype) for name, x in finetuned_state().items()}
    loaded = load_checkpoint(write(tmp_path / "a.pth", state))
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    assert all(torch.equal(x, state[n].float()) for n, x in to_official(loaded.model).items())
    assert f"{str(dtype)[6:]} were loaded as float32" in str(loaded.report)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    state = {name: x.clone() for name, x in finetuned_state().items()}
    state["blocks.0.norm2.bias"][3] = value
    with pytest.raises(ValueError, match=r"blocks\.0\.norm2\.bias \(. NaN, . infinite\)"):
        load_checkpoint(write(tmp_path / "a.pth", state))
    state["blocks.0.norm2.bias"].fill_(3e38)  # whose sum is infinite
    assert load_checkpoint(recognise(state), **OWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no weights"),
        ([1, 2], "no weights but list"),
        ({"model": {}}, "no weights"),
        ({"model": {"a": 1}}, "a is int; parameters are floating-point tensors"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "a is torch.int64"),
        ({"conv1.weight": torch.zeros(3)}, "are none of these models"),
        ({"module.a": torch.zeros(1), "a": torch.zeros(1)}, "a occurs twice"),
        ({"a": torch.zeros(1), "args": argparse.Namespace(num_frames="many")}, "its args"),
    ],
)
def test_what_is_no_state_dict_of_ours_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(tmp_path / "a.pth")
    assert "a.pth" in str(error.value)


# --- folders and the command ------------------------------------------------------------------


def test_a_run_folder_loads_finished_or_not(tmp_path):
    preset = tiny()
    run, model = Run.of(preset, tmp_path), build_autoencoder(preset.model, preset.target)
    with pytest.raises(FileNotFoundError, match=r"holds no weights"):
        load_checkpoint(run.folder)
    run.save_state({"model": model.state_dict(), "step": 4, "log": []})
    assert load_checkpoint(run.folder).report.epoch == "4"
    run.finish(model, {})
    loaded = load_checkpoint(run.folder)
    assert loaded.model.config == preset.model and loaded.model.target == preset.target
    assert_close(loaded.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert "tiny (lgi)" in str(loaded.report) and "config.json" in str(loaded.report)
    assert "faces (lgi)" in str(load_checkpoint("demo").report), "of 16 frames, not faces-still"
    classifier = load_checkpoint(run.folder / "model.safetensors", as_="classifier", num_classes=3)
    assert "decoder.mask_token" in classifier.report.ignored[0].names


@pytest.mark.parametrize(
    ("config", "message"),
    [("{", "JSONDecodeError"), ("{}", "fields of ModelConfig"),
     ('{"model": {"width": "32"}}', "width='32' should be int"),
     ('{"model": {"colour": 3}}', "colour")],
)  # fmt: skip
def test_a_folder_without_a_sound_config_is_refused(config, message, tmp_path):
    folder = save_pretrained(build_autoencoder(TINY), tmp_path / "folder")
    (folder / "config.json").write_text(config)
    for place in (folder, folder / "model.safetensors"):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(place)


def test_the_command_prints_the_report_and_converts(tmp_path, capsys):
    path = pretrained_file(tmp_path)
    official, folder = tmp_path / "out.pth", tmp_path / "folder"
    command = ["checkpoint", str(path), "--num-classes", "7", "--to-official", str(official),
               "--to-folder", str(folder)]  # fmt: skip
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "used" in out and "%" in out and str(official) in out
    assert {p.name for p in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    one, two = (load_checkpoint(place).model.state_dict() for place in (official, folder))
    assert_close(one, two, rtol=0, atol=0)


# --- what the version before wrote, and what others hand around -------------------------------

BEFORE = Path(__file__).parent / "data" / "before"


@pytest.mark.parametrize("name", ["finished", "unfinished", "official.pth"])
def test_what_the_version_before_wrote_loads_and_answers_alike(name):
    """Two runs and an official file, made at ab2064e with what their models answered there."""
    clip = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    model = load_checkpoint(BEFORE / name).model
    want = torch.tensor(json.loads((BEFORE / "answers.json").read_text())[name])
    with torch.no_grad():
        if isinstance(model, Classifier):
            assert torch.allclose(model(clip), want, atol=1e-9)
            return
        mask = region_tube_mask(model.grid, model.config.region, 0.75, 2,
                                generator=torch.Generator().manual_seed(1))  # fmt: skip
        out = model(clip, mask)
    p = out.prediction.double()
    found = torch.stack([p.mean(), p.std(), *p[0, 0, :5], out.loss.total.double()])
    assert torch.allclose(found.float(), want, atol=1e-5)


def test_shipped_weights_load_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "LGI-Former" in str(load_checkpoint("demo").report)
    assert len(facts_of("demo-expressions")["classes"]) == 7
    assert cli.main(["checkpoint", "demo-expressions"]) == 0
    assert "7, read from" in capsys.readouterr().out


def hugging_face(state, *, biases="query.bias value.bias"):
    """A state dict of ours under the names of transformers' VideoMAE."""
    query, value = biases.split()
    parts = {"norm1.": "layernorm_before.", "norm2.": "layernorm_after.",
             "mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense.",
             "attn.proj.": "attention.output.dense.", "attn.q_bias": f"attention.attention.{query}",
             "attn.v_bias": f"attention.attention.{value}"}  # fmt: skip
    found = {}
    for name, x in state.items():
        if name.startswith("decoder.blocks."):
            name = name.replace("decoder.blocks.", "decoder.decoder_layers.")
        elif not name.startswith(("decoder.", "mask_token", "encoder_to", "head.", "fc_norm.")):
            name = name.removeprefix("encoder.").replace("blocks.", "encoder.layer.")
            name = name.replace("patch_embed.proj.", "embeddings.patch_embeddings.projection.")
            name = re.sub("^norm", "layernorm", name)
            name = f"videomae.{name}"
        name = name.replace("head.", "classifier.") if name.startswith("head.") else name
        for ours, theirs in parts.items():
            name = name.replace(f".{ours}", f".{theirs}")
        if name.endswith("attn.qkv.weight"):
            stem = name.removesuffix("attn.qkv.weight") + "attention.attention."
            for part, one in zip(("query", "key", "value"), x.chunk(3), strict=True):
                found[f"{stem}{part}.weight"] = one.contiguous()
        else:
            found[name] = x.contiguous()
    return found


@pytest.mark.parametrize("biases", ["query.bias value.bias", "q_bias v_bias"])
@pytest.mark.parametrize("part", ["autoencoder", "classifier", "encoder"])
def test_videomae_files_of_transformers_load(part, biases, tmp_path):
    """Names and settings as src/transformers/models/videomae has them, old and new."""
    vit = tiny("vit").model
    model = build_autoencoder(vit, seed=3) if part == "autoencoder" else build_classifier(vit, 5)
    state = hugging_face(to_official(model), biases=biases)
    if part == "encoder":  # VideoMAEModel: no head, no prefix
        state = {n.removeprefix("videomae."): x for n, x in state.items() if n[:8] == "videomae"}
    config = {"model_type": "videomae", "image_size": 32, "num_frames": 8, "norm_pix_loss": False,
              "num_attention_heads": 2, "decoder_num_attention_heads": 2}  # fmt: skip
    if part == "classifier":  # spread over files
        config["id2label"] = {str(i): f"kind {i}" for i in range(5)}
        files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        of = {n: files[i % 2] for i, n in enumerate(state)}
        for file in files:
            save_file({n: x for n, x in state.items() if of[n] == file}, tmp_path / file)
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": of}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_checkpoint(tmp_path, num_classes=5 if part == "encoder" else None)
    ours = loaded.model.state_dict()
    for name, value in model.state_dict().items():
        if part != "encoder" or name.startswith("encoder."):
            assert torch.equal(ours[name], value), name
    if part == "autoencoder":
        assert loaded.model.target == TargetConfig(units="pixel", motion=False)
    assert "Hugging Face" in str(loaded.report) and loaded.report.part == part
    for changes, message in (({"model_type": "vit_mae"}, "must be 'videomae'"),
                             ({"hidden_act": "relu"}, "must be 'gelu'")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path, num_classes=5)
    if part == "classifier":
        assert facts_of(tmp_path)["classes"][4] == "kind 4"
        index.write_text(index.read_text().replace("model-", "../model-"))
        with pytest.raises(ValueError, match="not files in its folder"):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"width": 2**40, "num_heads": 1}, {"depth": 10**9}, {"decoder_depth": 10**9},
     {"mlp_ratio": 1e12}, {"mlp_ratio": 1e400}, {"frames": 2**62}, {"size_px": 10**400},
     {"tubelet": [2, 10**12, 8]}, {"region": [1, 1, 10**30]}, {"decoder_width": 2**30},
     {"width": 8192, "num_heads": 1, "frames": 4096}, {"num_heads": float("nan")},
     {"size_px": 65_536}, {"local": [["self"] * 9] * 9}, {"depth": -5},
     {"depth": True}, {"num_heads": 0}, {"region": ["a", 1, 2]}],
    ids=str,
)  # fmt: skip
def test_sizes_out_of_all_reason_are_refused_before_anything_is_built(changes, tmp_path):
    folder = save_pretrained(build_autoencoder(TINY), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"config\.json|model\.safetensors"):
        load_checkpoint(folder)
    official = {"model": finetuned_state(), "args": {"maedfer_lab": config}}
    with pytest.raises(ValueError):
        load_checkpoint(recognise(official))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", ["head.weight", "blocks.0.norm2.weight", "lg_region_tokens"])
def test_shapes_without_values_claim_no_memory(name):
    """A shape such as (10^12, 0) holds no byte, but would build a layer of that size."""
    state = {n: x for n, x in finetuned_state().items()}
    state[name] = torch.zeros(10**12, 0)
    state = {n: torch.zeros(10**12, 0) if "norm2.weight" in name and "norm2" in n else x
             for n, x in state.items()}  # fmt: skip
    with pytest.raises(ValueError):
        load_checkpoint(recognise(state), **OWN)


def test_contents_that_hold_themselves_are_refused(tmp_path):
    inner: dict = {}
    inner["model"] = inner
    many: list = []
    many.extend([many] * 1000)
    laugh: list = ["ha"]
    for _ in range(60):
        laugh = [laugh, laugh]
    for content in (inner, {"state_dict": {"a": many}}, {"model": {"a": 1}, "epoch": laugh},
                    {"model": finetuned_state(), "args": {"num_frames": laugh}}):  # fmt: skip
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"a\.pth"):
            load_checkpoint(tmp_path / "a.pth")
    (tmp_path / "config.json").write_text("[" * 100_000)
    save_file({"encoder.embed.a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_checkpoint(tmp_path)
