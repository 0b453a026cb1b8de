"""TextTransformer: a caption's tokens become one vector (CLIP, Radford et al. 2021, arXiv:2103.00020, section 2.4).

GPT-2's network: with e the tokens' embeddings and p the learned positions, h_0 = e + p, and in each of the blocks

    g = h_l + attention(norm(h_l)),  h_l+1 = g + mlp(norm(g)),

where a token sees those up to its own. The vector is norm(h_L) at the first token that ends the text, times a matrix.
Weights begin as CLIP's.

Parameters have the names and shapes of open_clip's text tower, so either's state loads into the other. Its activation
is GELU, as there; OpenAI's own weights are for x sigmoid(1.702 x) in its place.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError


def check_text_heads(width: int, heads: int) -> None:
    """``objective.text_width``, of blocks with so many heads.

    Raises:
        UserError: a wrong number.
    """
    if width % heads:
        raise UserError(f"objective.text_width {width}: must be a multiple of objective.text_heads {heads}")


class CausalAttention(nn.Module):
    """Attention to the tokens up to one's own; parameters as in ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What each token gathers."""
        parts = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        q, k, v = parts.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    """Attention, then a multi-layer perceptron, each after a norm and added on top; one of so many layers."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=widen, gelu=nn.GELU(), c_proj=narrow))
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(widen.weight, std=(2 * width) ** -0.5)
        for added in (self.attn.out_proj, narrow):  # to the residual stream: less, the more is added
            nn.init.normal_(added.weight, std=(2 * width * layers) ** -0.5)
        for layer in (self.attn.out_proj, widen, narrow):
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The tokens after this block."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        return tokens + self.mlp(self.ln_2(tokens))


class TextBlocks(nn.Module):
    """One after the other."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(width, heads, layers) for _ in range(layers))

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The tokens after the last of them."""
        for block in self.resblocks:
            tokens = block(tokens)
        return tokens


class TextTransformer(nn.Module):
    """The text tower.

    Args:
        num_tokens: of the tokenizer; ids are below it.
        end: the id that ends a text; None = there is none, and a text's vector stands at its last token, padding or
            not. So it does in a text without an end.
        context: tokens of a text.
        width: channels of a token.
        layers: blocks.
        heads: of each block's attention; they divide the width.
        out_dim: channels of the vector.
    """

    def __init__(
        self, *, num_tokens: int, end: int | None, context: int, width: int, layers: int, heads: int, out_dim: int
    ) -> None:
        super().__init__()
        self.end = -1 if end is None else end
        self.token_embedding = nn.Embedding(num_tokens, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = TextBlocks(width, heads, layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """A vector for each text."""
        tokens = self.transformer(self.token_embedding(ids) + self.positional_embedding)
        return self.ln_final(self._at_end(tokens, ids)) @ self.text_projection

    def _at_end(self, tokens: Float[Tensor, "b n d"], ids: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        ends = ids == self.end
        place = torch.where(ends.any(1), ends.int().argmax(1), ids.shape[1] - 1)
        return tokens.take_along_dim(place[:, None, None], dim=1)[:, 0]
