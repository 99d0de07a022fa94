"""Attention between many tokens and few, in another order of the same products.

Where a thousand tokens read eight, their queries need not be computed: (x W_q) K' = x (W_q K'),
and the matrix in brackets is small. In the same way (A V) W_o = A (V W_o), and where few tokens
read many, Q (x W_k)' = (Q W_k') x'. Results are equal up to rounding; of LGI-Former's products, a
ninth goes.

This is how a CPU runs the method, not the method: every count in this package (`maedfer flops`,
the paper's tables) is of the published products, so that where a measured time meets a count, the
time may be of fewer. No GPU takes this order: none has been measured with it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def pays(few: int, many: int, width: int, heads: int) -> bool:
    """Whether this order takes so many fewer multiply-adds that its small products are quicker."""
    return 5 * few * (heads * many + width) < many * width


def read_few(
    x: Float[Tensor, "b n d"],
    k: Float[Tensor, "b a k e"],
    v: Float[Tensor, "b a k e"],
    query: tuple[Float[Tensor, "d d"], Float[Tensor, " d"] | None],
    out: tuple[Float[Tensor, "d d"], Float[Tensor, " d"]],
) -> Float[Tensor, "b n d"]:
    """Attention of many `x` to few keys and values.

    query, out: matrices and biases of the query and of the output projection.
    """
    b, a, few, e = k.shape
    k = k * e**-0.5
    keys = torch.einsum("bake,aed->bakd", k, query[0].view(a, e, -1)).flatten(1, 2)
    values = torch.einsum("bake,dae->bakd", v, out[0].view(-1, a, e)).flatten(1, 2)
    scores = keys @ x.transpose(1, 2)
    if query[1] is not None:
        of_bias = torch.einsum("bake,ae->bak", k, query[1].view(a, e))
        scores = scores + of_bias.reshape(b, a * few, 1)
    # Tokens last: a softmax over neighbours in memory, eight at a time, is slower than a product.
    weights = scores.view(b, a, few, x.shape[1]).softmax(2).flatten(1, 2)
    return torch.baddbmm(out[1], weights.transpose(1, 2), values)


def read_many(
    q: Float[Tensor, "b a n e"],
    context: Float[Tensor, "b k d"],
    w_k: Float[Tensor, "d d"],
    w_v: Float[Tensor, "d d"],
    v_bias: Float[Tensor, " d"] | None,
) -> Float[Tensor, "b n d"]:
    """Attention of few queries to many tokens, before the output projection."""
    b, a, few, e = q.shape
    queries = torch.einsum("bane,aed->band", q * e**-0.5, w_k.view(a, e, -1)).flatten(1, 2)
    weights = (queries @ context.transpose(1, 2)).softmax(-1)
    read = (weights @ context).view(b, a, few, context.shape[2])
    update = torch.einsum("band,aed->bnae", read, w_v.view(a, e, -1)).flatten(2)
    return update if v_bias is None else update + v_bias
