"""Counts: the published numbers, three ways that agree, and what the sweep measures."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maedfer_lab.config import EncoderKind, ModelConfig, base, sized, tiny
from maedfer_lab.cost import formula, scaling, tables
from maedfer_lab.cost.memory import peak_bytes
from maedfer_lab.cost.scaling import KINDS, block_step
from maedfer_lab.cost.tables import (
    Predict,
    PublishedClassifier,
    count_with_fvcore,
    count_with_torch,
    model_for_counting,
)
from maedfer_lab.method.formulas import attention_pairs
from maedfer_lab.method.masking import region_tube_mask
from maedfer_lab.method.models import build_autoencoder, build_classifier

WITHIN = 1e-3
# fvcore (multiply-adds and LayerNorm) and PyTorch's counter (two per multiply-add), in 10^9, run
# on the official code: fvcore 0.1.5, torch 2.13, MAE-DFER repository at its release.
OFFICIAL: dict[tuple[EncoderKind, formula.ModelTask], tuple[float, float, int]] = {
    ("lgi", "classify"): (49.751922688, 99.304610816, 84_878_343),
    ("vit", "classify"): (80.761660416, 161.375857152, 86_232_583),
    ("lgi", "pretrain"): (14.051948544, 28.053864448, 92_760_192),
    ("vit", "pretrain"): (15.95446272, 31.86622464, 94_210_944),
}


@pytest.mark.parametrize(("encoder", "task"), OFFICIAL)
def test_counts_of_the_official_code_are_reproduced_three_ways(encoder, task):
    fvcore, flop_counter, num_parameters = OFFICIAL[encoder, task]
    found = tables.count("", base(encoder).model, task)
    assert found.parameters == num_parameters
    with_norm = sum(found.fvcore.values()) + found.layer_norm
    assert with_norm / 1e9 == pytest.approx(fvcore, rel=1e-9)
    assert 2 * sum(found.torch.values()) / 1e9 == pytest.approx(flop_counter, rel=1e-9)
    assert found.macs / 1e9 == pytest.approx(flop_counter / 2, rel=1e-9)
    assert found.formula == found.fvcore == found.torch  # stage by stage
    assert found.skipped == {}


@pytest.mark.parametrize(
    ("encoder", "task", "ours", "skipped"),
    [
        ("lgi", "classify", 47.042, {"local": 0.5022, "interact": 0.4302, "feed_forward": 1.6777}),
        ("lgi", "pretrain", 13.294, {"embedding": 0.5662}),
        ("vit", "pretrain", 14.917, {"embedding": 0.8493}),
    ],
)  # fmt: skip
def test_what_ours_skips_is_named(encoder, task, ours, skipped):
    found = tables.count("", base(encoder).model, task, as_published=False)
    assert found.macs / 1e9 == pytest.approx(ours, rel=WITHIN)
    assert found.disagreement < WITHIN
    for stage, gmacs in skipped.items():
        assert found.skipped[stage] / 1e9 == pytest.approx(gmacs, rel=WITHIN)
    published = formula.total_macs(base(encoder).model, task, as_published=True)
    assert found.macs + sum(found.skipped.values()) == published


@pytest.mark.parametrize("encoder", ["lgi", "vit"])
def test_skipping_the_official_codes_dead_work_changes_no_result(encoder):
    config = tiny(encoder).model
    clip = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    classifier = build_classifier(config, 7).eval()
    assert torch.allclose(classifier(clip), PublishedClassifier(classifier)(clip), atol=1e-5)
    model = build_autoencoder(config).eval()
    split = model.split(region_tube_mask(model.grid, (2, 2, 4), 0.75, 2))
    ours, published = Predict(model, split), Predict(model, split, as_published=True)
    assert torch.allclose(ours(clip), published(clip), atol=1e-5)


configs = st.builds(
    replace,
    st.just(ModelConfig(frames=8, size_px=32, tubelet=(2, 8, 8), num_heads=2, decoder_heads=2)),
    encoder=st.sampled_from(["lgi", "lgi", "vit"]),
    region=st.sampled_from([(1, 2, 4), (2, 2, 4), (4, 4, 2), (4, 4, 4)]),
    width=st.integers(2, 24).map(lambda k: 2 * k),
    depth=st.integers(1, 3),
    mlp_ratio=st.sampled_from([1.0, 2.5, 4.0]),
    qkv_bias=st.booleans(),
    local=st.sampled_from(["self", "cross"]),
    inter=st.booleans(),
    interact=st.sampled_from(["cross", "self", "none"]),
    shared=st.sampled_from(["none", "local_interact", "all"]),
    decoder_width=st.integers(2, 12).map(lambda k: 2 * k),
    decoder_depth=st.integers(1, 2),
)
tasks = st.sampled_from(["classify", "pretrain"])


@given(configs, tasks, st.booleans(), st.sampled_from([0.5, 0.75]), st.integers(1, 11))
@settings(max_examples=15, deadline=None)
def test_formula_and_both_counters_agree_for_any_model(config, task, published, ratio, classes):
    options = {"num_classes": classes, "mask_ratio": ratio, "as_published": published}
    model, clip = model_for_counting(config, task, **options)
    want = {k: part for k, part in formula.work(config, task, **options).items() if part.macs}
    for counted in (count_with_fvcore(model, clip), count_with_torch(model, clip)):
        found = {k: part._replace(layer_norm=0) for k, part in counted.items() if part.macs}
        # counters cannot tell stages apart that share a module
        assert found == want or config.shared != "none"
        for i in range(2):
            assert sum(p[i] for p in found.values()) == sum(p[i] for p in want.values())
    num_parameters = sum(p.numel() for p in model.parameters())
    assert sum(formula.parameters(config, task, num_classes=classes).values()) == num_parameters


def test_attention_is_the_papers_pairs():
    pairs = attention_pairs(800, 8)
    parts = formula.encoder_block(base().model)
    for name, count in (("local", "1 local"), ("inter", "2 inter"), ("interact", "3 interact")):
        assert parts[name].attention == 2 * 512 * pairs[count]
    share = sum(p.attention for p in parts.values()) / (2 * 512 * pairs["joint (ViT)"])
    assert scaling.theoretical_share(800, 8) == pytest.approx(0.1351, abs=1e-4)
    assert share == pytest.approx(scaling.theoretical_share(800, 8), rel=0.03)


def test_refusals_name_the_value_and_a_way_out():
    with pytest.raises(ValueError, match=r"region=\(3, 5, 10\).*region=\(8, 10, 10\)"):
        formula.macs(replace(base().model, region=(3, 5, 10)))
    with pytest.raises(ValueError, match=r"mask_ratio=0.93.*try 0\.9"):
        formula.macs(base().model, "pretrain", mask_ratio=0.93)
    with pytest.raises(ValueError, match=r"task='train'.*classify, pretrain"):
        formula.macs(base().model, "train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="meta device"):
        count_with_torch(torch.nn.Linear(2, 2), torch.rand(1, 2))


def test_written_weights_take_the_memory_that_fused_attention_saves():
    config = replace(tiny("vit").model, frames=64, width=16, num_heads=2)  # 512 tokens
    cpu = torch.device("cpu")
    fused = peak_bytes(block_step(config, 1, cpu), cpu)
    written = peak_bytes(block_step(config, 1, cpu, written=True), cpu)
    one_matrix = 2 * 512**2 * 4
    assert fused < one_matrix < 2 * one_matrix <= written


def test_sweep_measures_both_kinds_counts_as_theory_says_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path))
    sweep = scaling.Sweep((8, 16), (112,), width=32, num_heads=1, repeats=1)
    rows = scaling.load_or_measure(sweep)
    assert scaling.load_or_measure(sweep) == rows
    assert len(list((tmp_path / "runs").glob("complexity-*/result.json"))) == 1
    assert [(r["frames"], r["size_px"], r["tokens"], *r["region"]) for r in rows] == [
        (16, 112, 392, 2, 7, 7), (8, 160, 400, 2, 5, 10), (16, 160, 800, 2, 5, 10)
    ]  # fmt: skip
    for row in rows:
        assert row["share"]["counted"] == pytest.approx(row["share"]["theory"], rel=0.03)
        assert all(row[what][kind] > 0 for what in ("seconds", "peak_bytes") for kind in KINDS)
    found = scaling.summary(rows)
    assert found["exponents"]["attention"]["vit"] == pytest.approx(2)
    assert found["exponents"]["attention"]["lgi"] < 1.2


@given(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(300, 3000))
@settings(max_examples=30, deadline=None)
def test_exponents_and_crossings_of_power_laws_are_found(a, b, cross):
    tokens = [200, 400, 800, 1600, 3200, 6400]
    first, second = ([(k / cross) ** power for k in tokens] for power in (a, b))
    assert scaling.exponent(tokens, first) == pytest.approx(a)
    found = scaling.crossing(tokens, first, second)
    if b > a + 1e-6:
        assert found == pytest.approx(cross)
    elif a > b + 1e-6:
        assert found is None


def test_cheapest_regions_follow_the_closed_forms():
    for row in scaling.growth((8, 16, 32, 64)):
        all_of_it, attention = (math.prod(row["cheapest"][k]) for k in ("all", "attention"))
        assert 0.7 < all_of_it / math.sqrt(row["tokens"] + 9 * 512) < 1.4
        assert 0.7 < attention / math.sqrt(row["tokens"]) < 1.4
        saving = 1 - row["macs"]["LGI-B, cheapest region"] / row["macs"]["LGI-B"]
        assert 0 <= saving < 0.005  # the paper's size is all but the cheapest
    assert scaling.counted_crossing(512) == pytest.approx(660, abs=10)


@pytest.mark.parametrize(("size", "millions"), [("small", 22), ("base", 86), ("large", 304),
                                                ("huge", 632)])  # fmt: skip
def test_one_dial_gives_the_usual_sizes_of_vit_and_the_papers_base(size, millions):
    """ViT's: the published numbers of parameters within 1 %, those of an image's embedding."""
    vit, lgi = (sized(base(encoder).model, size) for encoder in ("vit", "lgi"))
    found = sum(formula.parameters(vit, "classify").values())
    assert found / 1e6 == pytest.approx(millions, rel=0.01)
    assert (size == "base") == (lgi == base().model) == (vit == base("vit").model)
    with pytest.raises(ValueError, match="size='giant' is not known; choose one of small, base"):
        sized(vit, "giant")  # type: ignore[arg-type]


def test_command_writes_what_it_prints(tmp_path, monkeypatch):
    lgi, vit = base().model, base("vit").model
    named = {"LGI-B": lgi, "ViT-B": vit, "ViT 512 x 16": replace(lgi, encoder="vit")}
    models = [tables.count(name, model) for name, model in named.items()]
    monkeypatch.setattr(tables, "count_models", lambda size: models)
    regions = [replace(models[0], name="2 x 5 x 10")]
    monkeypatch.setattr(tables, "count_regions", lambda size: regions)
    text = tables.flops_command(json=tmp_path / "flops.json")
    found = json.loads((tmp_path / "flops.json").read_text())
    for expected in ("49.65", "80.69", "-38.5%", "84.9M", "2 x 5 x 10 *", "99.30"):
        assert expected in text
    assert found["saving"] == pytest.approx(0.3846, abs=1e-4)
    assert found["saving_same_shape"] == pytest.approx(0.0336, abs=1e-4)
    assert [m["name"] for m in found["models"][:2]] == ["LGI-B", "ViT-B"]
    assert found["models"][0]["flops"] == 2 * found["models"][0]["macs"]
