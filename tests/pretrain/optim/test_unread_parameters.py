"""What a method does not read of an encoder is frozen, and nothing else is."""

import numpy as np
import pytest
import timm
import torch
from engine_states import COUNT, ENGINES, own_batches, whole_state

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import DeepSpeedConfig, MicroBatch, Settings, make_engine
from eyespot.pretrain.loop.initial_weights import first_objective
from eyespot.pretrain.networks.encoders import EncoderConfig, features, last_tokens, make_encoder
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.optim.unread_parameters import freeze_unread
from eyespot.pretrain.recipe_lookup import make_run


def made(name, size=32, **sizes):
    torch.manual_seed(0)
    return make_encoder(EncoderConfig(name=name, image_size=size, **sizes))


def patches(encoder, images):
    return last_tokens(encoder, images)[-1].patches


@pytest.mark.parametrize(
    ("name", "read", "frozen"),
    [
        ("test_vit", features, set()),
        ("resnet10t", features, set()),
        ("test_vit3", features, set()),  # its own attention pooling is what is read
        ("test_vit3", patches, {"attn_pool"}),
        ("beit_base_patch16_224", features, {"fc_norm"}),  # its class token is read
        ("mobilenetv3_small_050", patches, {"conv_head"}),
        ("pixel_transformer_small", features, {"blocks", "norm"}),  # its later blocks are for its own method
    ],
)
def test_what_is_not_read_is_frozen(name, read, frozen):
    encoder = made(name)
    names = freeze_unread(encoder, read, 32)
    assert {name.split(".")[0] for name in names} == frozen
    read(encoder.train(), torch.randn(2, 3, 32, 32)).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (key not in names) == (parameter.grad is not None), key


def test_it_leaves_no_trace():
    """Neither in running statistics, nor in modes, nor in torch's generator."""
    encoder = made("test_resnet").train()
    encoder.layer1.eval()
    modes = [part.training for part in encoder.modules()]
    before, state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}, torch.get_rng_state()
    assert freeze_unread(encoder, features, 32) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in encoder.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


class Asking(torch.nn.Module):
    """Asks a tensor for its value, which the meta device cannot tell."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))

    def forward(self, images):
        return images.mean((2, 3)) * (self.used if self.used.sum().item() > 0 else self.unused)


def test_an_encoder_that_needs_numbers_is_run_for_real():
    assert freeze_unread(Asking(), lambda encoder, images: encoder(images), 8) == ["unused"]


@pytest.mark.parametrize("name", ["mixer_s32_224", "gmlp_s16_224"])
def test_a_size_that_it_cannot_see_is_one_line(name):
    encoder = timm.create_model(name, num_classes=0)
    with pytest.raises(UserError, match=r"^encoder.image_size 100: \w+ refuses images of that size \(.*\)$") as caught:
        freeze_unread(encoder, features, 100)
    assert "\n" not in str(caught.value)


def test_frozen_encoders_and_methods_of_today_freeze_nothing_more(tmp_path, caplog):
    for recipe in ("simclr_tiny", "mae_tiny", "dino_tiny", "pixel_gpt_tiny", "colorization_tiny"):
        run = make_run(recipe)
        run.run_dir = tmp_path / recipe
        with caplog.at_level("INFO", logger="eyespot"):
            first_objective(run, torch.arange(64))
    assert "are not read" not in caplog.text


def test_the_log_names_what_is_left_out(tmp_path, caplog):
    run = make_run("simclr_tiny")
    run.run_dir, run.encoder.name, run.encoder.image_size = tmp_path, "beit_base_patch16_224", 32
    run.encoder.patch_size, run.encoder.small_stem = None, False
    with caplog.at_level("INFO", logger="eyespot"):
        first_objective(run, torch.arange(64))
    assert "parameters are not read by this method and stay as they are: fc_norm.weight, fc_norm.bias" in caplog.text


BESIDE = (("simclr", "test_vit2", "mask"), ("denoising", "test_vit3", "encoder.attn_pool"))
"""Methods, encoders, and the beginning of names of parameters that get no gradient."""


def objective_of(method, name):
    """With a parameter that nobody reads beside those that this encoder brings."""
    run = make_run(f"{method}_tiny")
    torch.manual_seed(0)
    run.encoder = EncoderConfig(name=name, image_size=32, patch_size=8)
    encoder = make_encoder(run.encoder)
    encoder.mask_token = torch.nn.Parameter(torch.ones(5))  # as BEiT's
    objective = run.objective.build(encoder, 32)
    freeze_unread(encoder, objective.read, 32)
    return objective


def train_on_every_engine(world: World) -> dict:
    """Losses and the whole state after two steps, the encoder's unread parameters among it."""
    results = {}
    for method, name, _ in BESIDE:
        for engine_name in ENGINES:
            kind, _, stage = engine_name.partition(" ")
            settings = Settings(micro_batch_size=COUNT // world.size, deepspeed=DeepSpeedConfig(stage=int(stage or 2)))
            optim, objective = OptimConfig(name="adamw", weight_decay=0.5), objective_of(method, name)
            engine = make_engine(kind, objective, world, lambda m, o=optim: make_optimizer(m, o), settings)
            losses = []
            for step, batch in enumerate(own_batches(engine, world)[:2]):
                scalars = engine.forward(MicroBatch(batch=batch, seed=step))
                engine.backward(scalars["loss"])
                assert engine.step(1e-2)[1]
                losses.append(scalars["loss"].item())
            results[method, engine_name] = losses, whole_state(engine)
            engine.close()
    return results


@pytest.mark.slow
def test_two_ranks_train_on_every_engine(on_ranks):
    """Nobody waits for a gradient that never comes; and what is not read does not decay."""
    for rank in on_ranks(train_on_every_engine, 2):
        for method, name, unread in BESIDE:
            before = objective_of(method, name).state_dict()
            expected, state = rank[method, "ddp"]
            for engine_name in ENGINES:
                losses, found = rank[method, engine_name]
                assert losses == pytest.approx(expected, rel=1e-5), engine_name
                frozen = [key for key in before if key.startswith((unread, "encoder.mask_token"))]
                assert frozen
                for key in frozen:
                    assert (found[f"model.{key}"] == before[key].numpy()).all(), (engine_name, key)
                for key, tensor in state.items():
                    np.testing.assert_allclose(found[key], tensor, rtol=1e-4, atol=1e-5, err_msg=f"{engine_name} {key}")
