"""The official models written from their specification, on official parameter names.

Independent of the package: plain functions of a state dict, one line per equation.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange


def positions(num, width):
    j = np.arange(width)
    angle = np.arange(num)[:, None] / 10000 ** (2 * (j // 2) / width)
    return torch.from_numpy(np.where(j % 2, np.cos(angle), np.sin(angle)).astype(np.float32))


def norm(p, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)


def attend(p, name, x, context, heads):
    """x: (b, n, c), context: (b, k, c)."""
    width = x.shape[-1]
    if f"{name}.qkv.weight" in p:
        w_q, w_k, w_v = p[f"{name}.qkv.weight"].split(width)
    else:
        w_q, (w_k, w_v) = p[f"{name}.q.weight"], p[f"{name}.kv.weight"].split(width)
    q, k, v = x @ w_q.T, context @ w_k.T, context @ w_v.T
    if f"{name}.q_bias" in p:
        q, v = q + p[f"{name}.q_bias"], v + p[f"{name}.v_bias"]
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
    weights = torch.einsum("bnad,bkad->bank", q, k).div((width // heads) ** 0.5).softmax(-1)
    out = torch.einsum("bank,bkad->bnad", weights, v).flatten(2)
    return out @ p[f"{name}.proj.weight"].T + p[f"{name}.proj.bias"]


def mlp(p, name, x):
    hidden = F.gelu(x @ p[f"{name}.fc1.weight"].T + p[f"{name}.fc1.bias"])
    return hidden @ p[f"{name}.fc2.weight"].T + p[f"{name}.fc2.bias"]


def joint_block(p, name, x, heads, eps):
    y = norm(p, f"{name}.norm1", x, eps)
    x = x + attend(p, f"{name}.attn", y, y, heads)
    return x + mlp(p, f"{name}.mlp", norm(p, f"{name}.norm2", x, eps))


def lg_block(p, name, s, x, heads, eps, kw):
    """s: (b, m, c) region tokens, x: (b, m, n, c) tokens of the regions."""
    b = len(s)

    def within(stage):
        z = torch.cat([s[:, :, None], x], 2).flatten(0, 1)
        y = norm(p, f"{name}.{stage}_norm0", z, eps)
        z = (z + attend(p, f"{name}.{stage}", y, y, heads)).unflatten(0, (b, -1))
        return z[:, :, 0], z[:, :, 1:]

    if kw.get("lg_first_attn_type", "self") == "self":
        s, x = within("first_attn")
    else:
        query = norm(p, f"{name}.first_attn_norm0", s, eps).flatten(0, 1)[:, None]
        context = norm(p, f"{name}.first_attn_norm1", x, eps).flatten(0, 1)
        s = s + attend(p, f"{name}.first_attn", query, context, heads).view(s.shape)
    if not kw.get("lg_no_second"):
        y = norm(p, f"{name}.second_attn_norm0", s, eps)
        s = s + attend(p, f"{name}.second_attn", y, y, heads)
    if not kw.get("lg_no_third"):
        if kw.get("lg_third_attn_type", "cross") == "self":
            s, x = within("third_attn")
        else:
            query = norm(p, f"{name}.third_attn_norm0", x, eps).flatten(1, 2)
            context = norm(p, f"{name}.third_attn_norm1", s, eps)
            x = x + attend(p, f"{name}.third_attn", query, context, heads).view(x.shape)
    s, x = (z + mlp(p, f"{name}.mlp", norm(p, f"{name}.norm2", z, eps)) for z in (s, x))
    return s, x


def embed(p, prefix, clip):
    """Tokens (b, n, c) with positions, in the order (t, h, w), and the grid."""
    weight = p[f"{prefix}patch_embed.proj.weight"]
    x = F.conv3d(clip, weight, p[f"{prefix}patch_embed.proj.bias"], stride=weight.shape[2:])
    grid, x = x.shape[2:], x.flatten(2).transpose(1, 2)
    return x + positions(x.shape[1], x.shape[2]).to(x), tuple(grid)


def blocks(p, prefix, x, kw, heads, eps):
    """Through all blocks; x: (b, m, n, c) for local-global, (b, n, c) for joint attention."""
    depth = len({n.split("blocks.")[1].split(".")[0] for n in p if n.startswith(f"{prefix}blocks")})
    s = p.get(f"{prefix}lg_region_tokens")
    if s is None:
        for i in range(depth):
            x = joint_block(p, f"{prefix}blocks.{i}", x, heads, eps)
        return None, x
    s = s.expand(len(x), -1, -1)
    for i in range(depth):
        s, x = lg_block(p, f"{prefix}blocks.{i}", s, x, heads, eps, kw)
    return s, x


def classify(p, clip, kw, eps=1e-6):
    x, (t, h, w) = embed(p, "", clip)
    if kw["attn_type"] == "local_global":
        a, b, c = kw["lg_region_size"]
        cut = "b (nt t nh h nw w) c -> b (nt nh nw) (t h w) c"
        x = rearrange(x, cut, nt=t // a, nh=h // b, nw=w // c, t=a, h=b, w=c)
    s, x = blocks(p, "", x, kw, kw["num_heads"], eps)
    if s is not None:
        kind = kw.get("lg_classify_token_type", "org")
        both = torch.cat([s[:, :, None], x], 2).flatten(1, 2)
        x = {"region": s, "org": x.flatten(1, 2), "all": both}[kind]
    if kw.get("use_mean_pooling", True):
        feature = norm(p, "fc_norm", x.mean(1), eps)
    else:
        feature = norm(p, "norm", x, eps)[:, 0]
    return feature @ p["head.weight"].T + p["head.bias"]


def reconstruct(p, clip, mask, kw, eps=1e-6):
    """encoder_out and pred, with the visible tokens cut by rank and placed in grid order."""
    x, (t, h, w) = embed(p, "encoder.", clip)
    x = x[~mask].view(len(x), -1, x.shape[-1])
    if kw["attn_type"] == "local_global":
        a, b, c = kw["lg_region_size"]
        regions = (h // b) * (w // c)  # in a frame; each takes its share of the visible, by rank
        x = rearrange(x, "b (nt t nhw hw) c -> b (nt nhw) (t hw) c", nt=t // a, t=a, nhw=regions)
    _, x = blocks(p, "encoder.", x, kw, kw["encoder_num_heads"], eps)
    out = norm(p, "encoder.norm", x.flatten(1, -2), eps)
    x = out @ p["encoder_to_decoder.weight"].T
    place = positions(mask.shape[1], x.shape[-1]).to(x).expand(len(x), -1, -1)
    masked = p["mask_token"] + place[mask].view(len(x), -1, x.shape[-1])
    x = torch.cat([x + place[~mask].view(x.shape), masked], 1)
    _, x = blocks({n: v for n, v in p.items() if "lg_" not in n}, "decoder.", x, kw,
                  kw["decoder_num_heads"], eps)  # fmt: skip
    x = norm(p, "decoder.norm", x[:, -masked.shape[1] :], eps)
    return out, x @ p["decoder.head.weight"].T + p["decoder.head.bias"]
