"""The text tower against open_clip's with the same weights, and what a text's vector may depend on."""

import pytest
import torch
from open_clip.transformer import TextTransformer as Theirs

from eyespot.pretrain.networks.text.text_transformer import TextTransformer

SIZES = dict(width=12, heads=3, layers=2)
NUM_TOKENS, CONTEXT, END = 20, 7, 19


def make(end: int | None = END) -> TextTransformer:
    torch.manual_seed(0)
    tower = TextTransformer(num_tokens=NUM_TOKENS, end=end, context=CONTEXT, out_dim=5, **SIZES)
    with torch.no_grad():  # biases start at 0; let comparisons see them
        for parameter in tower.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return tower.double()


def make_ids() -> torch.Tensor:
    """Three texts that end at places 3, 6 and 1, with zeros behind; the last of them has two ends."""
    ids = torch.randint(1, END, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    for row, place in zip(ids, (3, 6, 1), strict=True):
        row[place], row[place + 1 :] = END, 0
    ids[2, 4] = END
    return ids


def test_it_is_open_clips_with_the_same_weights():
    tower, ids = make(), make_ids()
    theirs = Theirs(context_length=CONTEXT, vocab_size=NUM_TOKENS, output_dim=5, **SIZES).double()
    theirs.load_state_dict(tower.state_dict())
    other = make()
    other.load_state_dict(theirs.state_dict())
    expected = theirs(ids)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    expected.backward(upstream)
    for ours in (tower, other):
        found = ours(ids)
        assert (found - expected).abs().max() <= 1e-12
        found.backward(upstream)
        for name, parameter in theirs.named_parameters():
            assert (ours.get_parameter(name).grad - parameter.grad).abs().max() <= 1e-10, name


def test_it_begins_as_open_clips_does():
    """The same spread of every tensor; wide, so that spreads can be told."""
    torch.manual_seed(0)
    sizes = dict(width=128, heads=2, layers=3)
    ours = TextTransformer(num_tokens=500, end=0, context=64, out_dim=64, **sizes).state_dict()
    theirs = Theirs(context_length=64, vocab_size=500, output_dim=64, **sizes).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if not name.endswith(("c_fc.bias", "c_proj.bias")):  # which open_clip leaves as torch draws them; CLIP's are 0
            assert ours[name].std().item() == pytest.approx(tensor.std().item(), rel=0.1), name
            assert ours[name].mean().item() == pytest.approx(tensor.mean().item(), abs=0.01), name


def test_nothing_behind_the_first_end_counts():
    tower, ids = make(), make_ids()
    changed = ids.clone()
    changed[0, 4:], changed[2, 2:] = 7, END
    assert torch.equal(tower(changed), tower(ids))
    changed[0, 0] += 1
    assert not torch.equal(tower(changed)[0], tower(ids)[0])


def test_a_text_without_an_end_is_told_at_its_last_token():
    ids = make_ids()
    ids[0, 3] = 5
    moved = torch.cat([ids[:1, :-1], torch.tensor([[END]])], dim=1)
    for tower in (make(None), make()):
        found = tower(ids)
        assert not torch.equal(found[0], tower(moved)[0]), "the last token counts"
    assert torch.equal(make(None)(ids[1:2]), make()(ids[1:2])), "where the end is the last"
