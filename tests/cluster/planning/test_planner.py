"""Plans of whole recipes: sums that must agree, and numbers known from elsewhere."""

import dataclasses

import pytest

from eyespot.cluster.planning.planner import Question, answer
from eyespot.pretrain.recipe_lookup import make_run


@pytest.fixture(scope="module")
def mae():
    return answer(Question(run=make_run("mae_vitb16_in1k"), gpus=64), "mae_vitb16_in1k")


def test_mae_on_64_gpus_is_plausible(mae):
    assert mae.trace.sizes.trainable / 4e6 == pytest.approx(111.65, abs=0.01)
    assert (mae.micro, mae.accumulate) == (64, 1)
    assert mae.step.forward.flops / 64 == pytest.approx(19.5e9, rel=0.01)
    assert sum(mae.memory.values()) < 10e9
    assert 0.01 < mae.time.total < 0.1
    assert mae.strong[-1].gpus == mae.weak[-1].gpus == 1024
    per_gpu = [row.images_per_second / row.gpus for row in mae.strong]
    assert per_gpu == sorted(per_gpu, reverse=True)
    assert all(row.batch == 4096 for row in mae.strong)
    planned = next(row for row in mae.weak if row.gpus == 64)
    assert planned.seconds == pytest.approx(mae.time.total)


@pytest.mark.thorough
def test_what_does_not_fit_is_accumulated():
    run = make_run("moco_v3_vitt_cifar10")
    plan = answer(Question(run=run, gpus=8, gpu_memory_gb=2.2), "moco_v3_vitt_cifar10")
    assert plan.accumulate > 1
    assert plan.micro * plan.accumulate * 8 == run.data.batch_size
    assert plan.micro <= plan.largest["plain"] < 64
    assert plan.largest["checkpointed"] > plan.largest["plain"]
    once = plan.step.forward.flops + plan.step.backward.flops
    assert plan.flops > plan.accumulate * once, "a contrastive loss embeds micro-batches twice"


def test_a_gpu_of_ones_own(mae):
    own = {"gpu": "mine", "gpu_tflops": 100.0, "gpu_memory_gb_s": 1000.0, "gpu_memory_gb": 40.0}
    card = dataclasses.replace(mae.question, **own).card()
    assert (card.bf16_tflops, card.memory_gb_s, card.memory_gb) == (100.0, 1000.0, 40.0)
    assert dataclasses.replace(mae.question, gpu_memory_gb=40.0).card().bf16_tflops == 989
