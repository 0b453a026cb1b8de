"""VirTex: its loss in float64 from its decoders' likelihoods, among ranks and micro-batches; its numbers."""

from dataclasses import replace

import pytest
import tokenizers
import torch
from image_text_runs import CONTEXT, SIZE, TWICE, engine_gradients, make_batch, shares
from torch import Tensor

from eyespot.data_pipeline.augment.views import Clip, RandomView, TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.virtex import VirTex
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
SIZES = dict(text_width=8, text_layers=2, text_heads=2, text=TextView(context=CONTEXT))


def make_objective(encoder: str = "test_vit", **changes) -> VirTex:
    torch.manual_seed(0)
    patches = {"patch_size": 4} if encoder == "test_vit" else {}
    made = make_encoder(EncoderConfig(name=encoder, image_size=SIZE, **patches))
    return VirTex.Config(**(SIZES | changes)).build(made, SIZE).double()


def test_the_loss_is_the_mean_over_captions_of_the_mean_over_their_tokens():
    virtex, batch = make_objective(), make_batch()
    patches = virtex.encoder.forward_features(batch.views[0])[:, 1:]
    places = patches @ virtex.grid.laterals[0].weight[:, :, 0, 0].T + virtex.grid.laterals[0].bias
    likelihoods, counts = virtex.captioner(places, batch.views[1])
    assert set(counts.tolist()) == {3, 4}, "captions of two lengths"
    expected = sum(-(sum(row) / count) for row, count in zip(likelihoods.tolist(), counts.tolist(), strict=True))
    found = virtex(batch)
    assert found["loss"].item() == pytest.approx(expected / len(batch), abs=1e-12)
    assert (found["forwards"] + found["backwards"]).item() == pytest.approx(found["loss"].item(), abs=1e-12)
    scored, told = virtex.caption_log_likelihood(batch)
    assert torch.allclose(scored, likelihoods.mean(1), atol=1e-12) and torch.equal(told, counts)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_an_image_is_all_that_its_caption_sees_of_a_batch(encoder):
    virtex, batch = make_objective(encoder), make_batch()
    virtex.eval()
    images = batch.views[0].requires_grad_()
    (of_images,) = torch.autograd.grad(virtex.caption_log_likelihood(batch)[0][2], images)
    assert of_images.abs().sum((1, 2, 3)).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_ranks_and_micro_batches_are_one_process_with_the_whole_batch(ranks, on_ranks):
    batch = make_batch(TWICE)
    loss, whole = engine_gradients(make_objective, [batch], ALONE)
    for answers in zip(*on_ranks(gradients_of_share, ranks), strict=True):
        assert sum(answer[0] for answer in answers) / ranks == pytest.approx(loss, abs=1e-10)
        for name, wanted in whole.items():
            for _, found in answers:
                assert (found[name] - wanted).abs().max() <= 1e-10, name


def gradients_of_share(world: World) -> list[tuple[float, dict[str, Tensor]]]:
    """In one micro-batch, and in two."""
    own = shares(make_batch(TWICE), world.size)[world.rank]
    return [engine_gradients(make_objective, shares(own, count), world) for count in (1, 2)]


@pytest.mark.parametrize(("template", "where"), [("<s> $A", "end"), ("$A </s>", "begin")])
def test_a_tokenizer_must_say_where_a_text_begins_and_ends(tmp_path, template, where):
    words = tokenizers.models.WordLevel({"a": 0, "<s>": 1, "</s>": 2, "[UNK]": 3}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(words)
    special = [("<s>", 1), ("</s>", 2)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=special)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=rf"objective\.text\.tokenizer .* its texts {where} without a token"):
        make_objective(text=TextView(tokenizer=str(tmp_path / "tokenizer.json"), context=CONTEXT))


def test_of_a_video_one_frame_is_seen():
    virtex, batch = make_objective(view=RandomView(clip=Clip(1))), make_batch()
    whole = replace(batch, views=[batch.views[0][:, None], batch.views[1]])
    assert torch.equal(virtex(whole)["loss"], virtex(batch)["loss"])
    with pytest.raises(UserError, match=r"objective\.view\.clip\.frames 4: this method sees one frame"):
        VirTex.Config(view=RandomView(clip=Clip(4)))


def test_heads_divide_the_width():
    with pytest.raises(UserError, match=r"objective\.text_width 8: must be a multiple of objective\.text_heads 3"):
        VirTex.Config(text_width=8, text_heads=3)


def test_the_recipe_has_the_papers_numbers():
    """Desai & Johnson 2021, sections 3 and 4.1; of the optimiser only what is theirs."""
    run = make_run("virtex_r50_coco")
    assert (run.encoder.name, run.encoder.image_size, run.steps, run.data.batch_size) == ("resnet50", 224, 500_000, 256)
    assert (run.optim.warmup_steps, run.optim.clip, run.optim.weight_decay) == (10_000, 10.0, 1e-4)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(2e-4)
    config = run.objective
    assert (config.text_width, config.text_layers, config.text_heads, config.text.context) == (2048, 1, 32, 30)
    assert isinstance(config.view, RandomView) and config.view.scale == (0.2, 1.0) and config.view.flip == 0
