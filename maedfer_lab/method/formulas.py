"""LGI-Former's equations written as slow loops, one region and one head at a time.

The second way to get the same numbers: notebook 03 and the tests compare the block with it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from maedfer_lab.config import Shape3
from maedfer_lab.method.attention import Attention, LGIBlock


def attention_by_loops(
    attn: Attention, x: Float[Tensor, "n d"], context: Float[Tensor, "k d"]
) -> Float[Tensor, "n d"]:
    """softmax(q k' / sqrt(d_head)) v for every head, with q, k, v written out."""
    width = x.shape[1]
    w_q, w_k, w_v = attn.qkv.weight.split(width)
    q, k, v = x @ w_q.T, context @ w_k.T, context @ w_v.T
    if attn.q_bias is not None and attn.v_bias is not None:
        q, v = q + attn.q_bias, v + attn.v_bias
    size, heads = width // attn.num_heads, []
    for q_a, k_a, v_a in zip(q.split(size, 1), k.split(size, 1), v.split(size, 1), strict=True):
        heads.append((q_a @ k_a.T / size**0.5).softmax(-1) @ v_a)
    return attn.proj(torch.cat(heads, 1))


def lgi_block_by_loops(
    block: LGIBlock, rep: Float[Tensor, "r d"], tokens: Float[Tensor, "r s d"]
) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r s d"]]:
    """One clip through one LGI-Former block (Sun et al., section 3.2), without drop path.

    For every region i with tokens X_i and representative token s_i:
    1. [s_i; X_i] += MHSA(LN [s_i; X_i])      2. S += MHSA(LN S), S = [s_1; ...; s_M]
    3. X_i += MHCA(LN X_i, LN S)               4. z += FFN(LN z) for every token z
    """
    regions = [torch.cat([rep[i : i + 1], tokens[i]]) for i in range(len(rep))]
    for i, z in enumerate(regions):
        if block.local_context_norm is not None:
            s, x = block.local_norm(z[:1]), block.local_context_norm(z[1:])
            regions[i] = torch.cat([z[:1] + attention_by_loops(block.local_attn, s, x), z[1:]])
        else:
            normed = block.local_norm(z)
            regions[i] = z + attention_by_loops(block.local_attn, normed, normed)

    s = torch.stack([z[0] for z in regions])
    if block.inter_attn is not None and block.inter_norm is not None:
        normed = block.inter_norm(s)
        s = s + attention_by_loops(block.inter_attn, normed, normed)

    for i, z in enumerate(regions):
        x = z[1:]
        if block.interact_attn is not None and block.interact_norm is not None:
            if block.interact_context_norm is not None:
                query, context = block.interact_norm(x), block.interact_context_norm(s)
                x = x + attention_by_loops(block.interact_attn, query, context)
            else:
                both = torch.cat([s[i : i + 1], x])
                normed = block.interact_norm(both)
                both = both + attention_by_loops(block.interact_attn, normed, normed)
                s, x = torch.cat([s[:i], both[:1], s[i + 1 :]]), both[1:]
        regions[i] = x

    z = torch.stack([torch.cat([s[i : i + 1], x]) for i, x in enumerate(regions)])
    z = z + block.mlp(block.norm2(z))
    return z[:, 0], z[:, 1:]


def attention_pairs(num_tokens: int, num_regions: int) -> dict[str, int]:
    """Query-key pairs of one head: K tokens in M regions of N = K / M, against joint attention.

    Sun et al., section 3.2: O((1/M + 1/N^2 + 1/N) K^2) for the three stages, O(K^2) for joint
    attention. Representative tokens are counted as well, so stage 1 has (N + 1)^2 per region.
    """
    size = num_tokens // num_regions
    return {
        "1 local": num_regions * (size + 1) ** 2,
        "2 inter": num_regions**2,
        "3 interact": num_tokens * num_regions,
        "joint (ViT)": num_tokens**2,
    }


def pairs_share(num_tokens: int, region: Shape3) -> float:
    """Pairs that LGI-Former needs with this region, as a share of joint attention's."""
    pairs = attention_pairs(num_tokens, num_tokens // math.prod(region))
    joint = pairs.pop("joint (ViT)")
    return sum(pairs.values()) / joint
