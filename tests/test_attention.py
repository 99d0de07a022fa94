from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maedfer_lab.config import tiny
from maedfer_lab.method.attention import Attention, LGIBlock, ViTBlock
from maedfer_lab.method.formulas import lgi_block_by_loops
from maedfer_lab.method.models import build_autoencoder

stages = st.fixed_dictionaries(
    {
        "local": st.sampled_from(["self", "cross"]),
        "inter": st.booleans(),
        "interact": st.sampled_from(["cross", "self", "none"]),
        "shared": st.sampled_from(["none", "local_interact", "all"]),
        "qkv_bias": st.booleans(),
    }
)


def random_block(width=24, heads=3, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        block = LGIBlock(width, heads, **options)
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return block


def random_tokens(regions=4, size=5, width=24, num=2):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(num, regions, width, generator=generator),
        torch.randn(num, regions, size, width, generator=generator),
    )


@given(stages)
@settings(max_examples=40, deadline=None)
def test_block_equals_the_formulas_written_as_loops(options):
    """So do its representative tokens alone, and it is the same with the weights kept."""
    block, (rep, tokens) = random_block(**options), random_tokens()
    got_rep, got_tokens = block.forward_separate(rep, tokens)
    for i in range(len(rep)):
        want_rep, want_tokens = lgi_block_by_loops(block, rep[i], tokens[i])
        assert (got_rep[i] - want_rep).abs().max() < 1e-5 * want_rep.abs().max().clamp(min=1)
        assert (got_tokens[i] - want_tokens).abs().max() < 1e-5 * want_tokens.abs().max().clamp(1)
    alone, _ = block.forward_separate(rep, tokens, rep_only=True)
    assert torch.allclose(alone, got_rep, atol=1e-5)
    weights: dict[str, torch.Tensor] = {}
    kept = block.forward_separate(rep, tokens, weights=weights)
    for a, b in zip(kept, (got_rep, got_tokens), strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)
    stages = {"local": True, "inter": options["inter"], "interact": options["interact"] != "none"}
    assert set(weights) == {stage for stage, is_there in stages.items() if is_there}
    assert all(torch.allclose(w.sum(-1), torch.ones(()), atol=1e-5) for w in weights.values())


def test_attention_without_key_bias_and_with_context():
    attn = Attention(16, 2)
    assert {name for name, _ in attn.named_parameters()} == {
        "qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"
    }  # fmt: skip
    x, context = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    assert torch.allclose(attn(x, x), attn(x), atol=1e-6)
    assert torch.allclose(attn(x, context), attn.with_weights(x, context)[0], atol=1e-6)
    half = attn.bfloat16()(x.bfloat16(), context.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    block = ViTBlock(16, 2)
    assert torch.allclose(block(context, last=4), block(context)[:, -4:], atol=1e-6)


def test_blocks_of_the_encoder_grow_their_drop_path_from_zero():
    config = replace(tiny().model, depth=3, drop_path=0.1)
    blocks = build_autoencoder(config).encoder.blocks
    assert [round(block.drop_path.rate, 3) for block in blocks] == [0.0, 0.05, 0.1]  # type: ignore
