"""Captioner: how likely a caption is, given an image, read from either end (VirTex, Desai & Johnson 2021, section 3).

With c_1 ... c_n a caption's tokens, from the first to the one that ends the text, and v the image's places,

    forwards   log p(c_2 ... c_n | c_1, v) = sum_i log softmax(E f(c_1 ... c_i-1, v) + b)_{c_i},
    backwards  log p(c_n-1 ... c_1 | c_n, v) = sum_i log softmax(E g(c_n ... c_i+1, v) + b)_{c_i}.

f and g are transformer decoders (Vaswani et al. 2017), whose norms follow the sums: in each block

    h = norm(h + attention(h)),  h = norm(h + attention(h, v)),  h = norm(h + mlp(h)).

They share the tokens' embeddings, their positions and norm, and E, which is the embeddings again. All begins normal,
embeddings with BERT's deviation of 0.02, layers with width^-1/2: that is BERT's at the paper's 2048 channels, and lets
narrow decoders see as much of the image.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.pretrain.networks.text.text_transformer import CausalAttention

DEVIATION = 0.02
"""Of embeddings."""


class PlaceAttention(nn.Module):
    """Words attend to places of an image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, words: Float[Tensor, "b n d"], places: Float[Tensor, "b p d"]) -> Float[Tensor, "b n d"]:
        """What each word gathers."""
        q = self.query(words).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(places).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CaptionBlock(nn.Module):
    """Words look back at words, then at the image, each for itself at last."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.back, self.image = CausalAttention(width, heads), PlaceAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        nn.init.normal_(self.back.in_proj_weight, std=width**-0.5)

    def forward(self, words: Float[Tensor, "b n d"], places: Float[Tensor, "b p d"]) -> Float[Tensor, "b n d"]:
        """The words after this block."""
        after_words, after_image, after_mlp = self.norms
        words = after_words(words + self.back(words))
        words = after_image(words + self.image(words, places))
        return after_mlp(words + self.mlp(words))


class CaptionDecoder(nn.Module):
    """Blocks one after the other."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CaptionBlock(width, heads) for _ in range(layers))

    def forward(self, words: Float[Tensor, "b n d"], places: Float[Tensor, "b p d"]) -> Float[Tensor, "b n d"]:
        """The words after the last of them, each of which has seen those up to itself."""
        for block in self.blocks:
            words = block(words, places)
        return words


class Captioner(nn.Module):
    """Reads captions from both ends.

    Args:
        num_tokens: of the tokenizer; ids are below it.
        end: the id that ends a text; what follows the first of them is padding. A text without it has none.
        context: tokens of a text.
        width: channels of words and places.
        layers: blocks of each decoder.
        heads: of each block's attentions; they divide the width.
    """

    def __init__(self, *, num_tokens: int, end: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.end = end
        self.words = nn.Embedding(num_tokens, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.norm = nn.LayerNorm(width)
        self.decoders = nn.ModuleList(CaptionDecoder(width, heads, layers) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(num_tokens))
        nn.init.normal_(self.words.weight, std=DEVIATION)
        nn.init.normal_(self.positions, std=DEVIATION)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=width**-0.5)
                nn.init.zeros_(part.bias)

    def forward(
        self, places: Float[Tensor, "b p d"], ids: Int[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b 2"], Int[Tensor, " b"]]:
        """The log-likelihood of each caption, forwards and backwards, nats; and of how many tokens it is the sum."""
        place, ends = torch.arange(ids.shape[1], device=ids.device), ids == self.end
        last = torch.where(ends.any(1), ends.int().argmax(1), ids.shape[1] - 1)
        turned = ids.gather(1, (last[:, None] - place).clamp_min(0))
        follows = place[1:] <= last[:, None]
        found = [
            self._log_likelihood(decoder, places, tokens, follows)
            for decoder, tokens in zip(self.decoders, (ids, turned), strict=True)
        ]
        return torch.stack(found, dim=1), last

    def _log_likelihood(
        self, decoder: nn.Module, places: Tensor, tokens: Tensor, follows: Tensor
    ) -> Float[Tensor, " b"]:
        """Of the tokens that follow the first one, up to padding."""
        given, asked = tokens[:, :-1], tokens[:, 1:]
        words = decoder(self.norm(self.words(given) + self.positions[: given.shape[1]]), places)
        logits = F.linear(words, self.words.weight, self.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        surprise = F.cross_entropy(logits.flatten(0, 1), asked.flatten(), reduction="none").unflatten(0, asked.shape)
        return -torch.where(follows, surprise, 0).sum(1)
