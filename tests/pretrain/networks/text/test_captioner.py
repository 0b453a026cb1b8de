"""The captioner against a slow, obvious reading of captions word by word, from either end, in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from eyespot.pretrain.networks.text.captioner import CaptionDecoder, Captioner

END, TOKENS, CONTEXT, WIDTH, HEADS, PLACES = 9, 11, 6, 8, 2, 4
IDS = torch.tensor([[8, 1, 2, END, 0, 0], [8, 3, END, 0, 0, 0], [8, 1, 2, 4, 5, END], [8, 1, 2, 4, 5, 6]])
LENGTHS = (4, 3, 6, 6)


def make_captioner() -> Captioner:
    torch.manual_seed(0)
    captioner = Captioner(num_tokens=TOKENS, end=END, context=CONTEXT, width=WIDTH, layers=2, heads=HEADS).double()
    with torch.no_grad():  # as it begins all numbers are small
        for parameter in captioner.parameters():
            parameter += torch.randn_like(parameter) * 0.3
    return captioner


def make_places() -> Tensor:
    return torch.randn(len(IDS), PLACES, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def attended(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query, head by head."""
    heads = []
    for head in torch.arange(WIDTH).chunk(HEADS):
        weights = torch.tensor([0.0]).double() + keys[:, head] @ query[head] / math.sqrt(WIDTH / HEADS)
        heads.append(weights.softmax(0) @ values[:, head])
    return torch.cat(heads)


def slow_decoder(decoder: CaptionDecoder, words: Tensor, places: Tensor) -> Tensor:
    """What the last of some words becomes."""
    for block in decoder.blocks:
        q, k, v = (words @ block.back.in_proj_weight.T + block.back.in_proj_bias).chunk(3, dim=1)
        back = torch.stack([attended(q[i], k[: i + 1], v[: i + 1]) for i in range(len(words))])
        words = block.norms[0](words + block.back.out_proj(back))
        k, v = block.image.key_value(places).chunk(2, dim=1)
        seen = torch.stack([attended(query, k, v) for query in block.image.query(words)])
        words = block.norms[1](words + block.image.out_proj(seen))
        words = block.norms[2](words + block.mlp(words))
    return words[-1]


def slow_log_likelihood(captioner: Captioner, decoder: nn.Module, places: Tensor, tokens: list[int]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for count in range(1, len(tokens)):
        words = torch.stack([captioner.words.weight[t] + captioner.positions[i] for i, t in enumerate(tokens[:count])])
        last = slow_decoder(decoder, captioner.norm(words), places)
        logits = captioner.words.weight @ last + captioner.bias
        total = total + logits.log_softmax(0)[tokens[count]]
    return total


def slow(captioner: Captioner, places: Tensor) -> Tensor:
    rows = []
    for row, length, place in zip(IDS.tolist(), LENGTHS, places, strict=True):
        orders = (row[:length], row[:length][::-1])
        rows.append(
            torch.stack(
                [
                    slow_log_likelihood(captioner, decoder, place, order)
                    for decoder, order in zip(captioner.decoders, orders, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def test_likelihoods_and_gradients_equal_the_slow_reference():
    captioner, places = make_captioner(), make_places().requires_grad_()
    found, counts = captioner(places, IDS)
    expected = slow(captioner, places)
    assert counts.tolist() == [length - 1 for length in LENGTHS]
    assert (found - expected).abs().max() <= 1e-10
    names, parameters = zip(*captioner.named_parameters(), strict=True)
    leaves = [places, *parameters]
    pairs = zip(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True)
    for name, (ours, theirs) in zip(("places", *names), pairs, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_padding_changes_nothing():
    captioner, places = make_captioner(), make_places()
    other = IDS.clone()
    other[0, 4:], other[1, 3:] = torch.tensor([7, END]), 5
    assert torch.equal(captioner(places, other)[0], captioner(places, IDS)[0])


def test_it_begins_as_likely_as_guessing():
    torch.manual_seed(0)
    captioner = Captioner(num_tokens=1000, end=END, context=CONTEXT, width=64, layers=1, heads=2)
    found, counts = captioner(torch.randn(len(IDS), PLACES, 64), IDS)
    assert (-found / counts[:, None]).mean().item() == pytest.approx(math.log(1000), abs=0.1)
