import torch

from eyespot.pretrain.images.rotations import TURNS, picture_of_turns, rotated

COUNT, SIZE = 5, 6


def test_turned_back_every_image_matches():
    images = torch.randn(COUNT, 3, SIZE, SIZE)
    turned, turns = rotated(images)
    assert sorted(turns.tolist()) == sorted(list(range(TURNS)) * COUNT)
    for place, (image, turn) in enumerate(zip(turned, turns.tolist(), strict=True)):
        assert torch.equal(torch.rot90(image, -turn, (1, 2)), images[place % COUNT])


def test_a_quarter_brings_the_right_edge_to_the_top():
    image = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert rotated(image)[0][1, 0].tolist() == [[1, 3], [0, 2]]


def test_who_guesses_right_is_shown_upright_images():
    images = torch.randn(COUNT, 3, SIZE, SIZE)
    turned, righted, upright = picture_of_turns(images, lambda given: torch.arange(len(given)) % TURNS)
    assert torch.equal(righted, images) and torch.equal(upright, images)
    _, wrong, _ = picture_of_turns(images, lambda given: torch.zeros(len(given), dtype=torch.int64))
    assert torch.equal(wrong, turned) and not torch.equal(turned[1], images[1])
