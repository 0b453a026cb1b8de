"""open_clip loads a release in one line, in a process that knows no eyespot, and embeds as we do; or it is refused."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from released_runs import bare_python, change_json, copy_of, small_run, two_towered_run, write_release, write_run
from safetensors.torch import load_file, save_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.joint import load_joint
from eyespot.eval.release.layout import CONFIG, OPEN_CLIP, read_json, write_sums
from eyespot.eval.release.towers.open_clip_files import check_open_clip
from eyespot.eval.release.towers.tokenizer_trial import GOLDEN_TEXTS
from eyespot.eval.release.verify import verified
from eyespot.eval.release.write import release
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig

BARE = """
import importlib.util
assert importlib.util.find_spec("eyespot") is None and importlib.util.find_spec("mlflow") is None
import torch
from PIL import Image
from safetensors.torch import load_file

golden = load_file("FOLDER/golden.safetensors")
image = Image.fromarray(golden["images"][0].permute(1, 2, 0).numpy())
with torch.inference_mode():
{card}
    texts = model.encode_text(tokenizer(bytes(golden["towers.texts"].tolist()).decode().split("\\n")), normalize=True)
assert torch.equal(tokenizer(bytes(golden["towers.texts"].tolist()).decode().split("\\n")), golden["towers.view"])
assert (images - golden["towers.embedding.image"][:1]).abs().max() <= 1e-5
assert (texts - golden["towers.embedding.text"]).abs().max() <= 1e-5
print("round trip", model.logit_scale.exp().item())
"""
RESNET = EncoderConfig(name="test_resnet", image_size=32)


def text_run(folder: Path, recipe: str = "clip_tiny", encoder: EncoderConfig = RESNET, tokenizer: str = "clip") -> Run:
    run = two_towered_run(folder, tokenizer, recipe)
    run.encoder = encoder
    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "clip"
    return write_release(out, run=text_run(out.with_name("clip-run")), open_clip=True)


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(import open_clip.*?)```", (folder / "README.md").read_text(), re.S)
    return code


@pytest.mark.slow
def test_in_a_fresh_environment(clip: Path, tmp_path: Path):
    card = "".join(f"    {line}\n" for line in code_of(clip).splitlines())
    done = subprocess.run(
        [
            bare_python(tmp_path / "bare", "open_clip_torch"),
            "-I",
            "-c",
            BARE.replace("{card}", card).replace("FOLDER", str(clip)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stdout.startswith("round trip 14.28"), done.stderr


@pytest.mark.parametrize(
    ("recipe", "encoder"),
    [("siglip_tiny", RESNET), ("clip_tiny", EncoderConfig(name="test_vit", image_size=160))],
    ids=["SigLIP", "a vision transformer"],
)
def test_embeddings_and_logits_are_ours(tmp_path: Path, recipe: str, encoder: EncoderConfig):
    import open_clip

    folder = write_release(tmp_path / "a", run=text_run(tmp_path / "a-run", recipe, encoder), open_clip=True)
    joint, images = load_joint(folder), torch.randn(3, 3, encoder.image_size, encoder.image_size)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(list(GOLDEN_TEXTS))
    with torch.inference_mode():
        logits, _ = model.eval().get_logits(images, ids)
        ours = joint.scale * joint.embed_images(images) @ joint.embed_texts(GOLDEN_TEXTS).T
    if joint.bias is not None:
        ours = ours + joint.bias
    assert (joint.bias is not None) == (recipe == "siglip_tiny")
    assert torch.allclose(logits, ours, rtol=0, atol=1e-4)


DEEP = EncoderConfig(name="test_vit", image_size=160, patch_size=8)
REFUSED = {
    "small stem": (EncoderConfig(name="test_resnet", image_size=32, small_stem=True), "clip", "its own stem"),
    "size": (
        EncoderConfig(name="test_vit", image_size=32),
        "clip",
        "builds test_vit for 160 pixels, and this one sees 32",
    ),
    "patches": (DEEP, "clip", "with its own patches"),
    "tokenizer": (RESNET, "", "reads captions with CLIP's tokenizer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_open_clip_cannot_build(tmp_path: Path, what: str):
    encoder, tokenizer, words = REFUSED[what]
    run_dir = write_run(tmp_path / "run", run=text_run(tmp_path / "run", encoder=encoder, tokenizer=tokenizer))
    with pytest.raises(UserError, match=f"--open-clip: .*{words}.*; leave it out") as error:
        release(run_dir, tmp_path / "out", license="mit", open_clip=True)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_methods_of_one_tower(tmp_path: Path):
    run_dir = write_run(tmp_path / "run", run=small_run(tmp_path / "run"))
    with pytest.raises(UserError, match="--open-clip: open_clip has towers for images and captions, which this method"):
        release(run_dir, tmp_path / "out", license="mit", open_clip=True)


def test_its_files_say_what_the_others_say(clip: Path, tmp_path: Path):
    folder = copy_of(clip, tmp_path / "weights")
    tensors = load_file(folder / OPEN_CLIP[1])
    tensors["ln_final.bias"][0] += 1
    save_file(tensors, folder / OPEN_CLIP[1])
    write_sums(folder)
    with pytest.raises(UserError, match=r"open_clip_model.safetensors: ln_final.bias is not as in the release"):
        verified(folder)
    folder = copy_of(clip, tmp_path / "config")
    change_json(folder / OPEN_CLIP[0], "model_cfg", "vision_cfg", "timm_model_name", value="hf_hub:a/b")
    with pytest.raises(UserError, match=r"open_clip_config.json describes other towers"):
        verified(folder)
    (folder / OPEN_CLIP[0]).unlink()
    write_sums(folder)
    with pytest.raises(UserError, match=r"has one of open_clip_config.json and open_clip_model.safetensors only"):
        verified(folder)
    folder = copy_of(clip, tmp_path / "kinds")
    save_file(load_file(clip / OPEN_CLIP[1]) | {"ln_final.bias": torch.zeros(8).half()}, folder / OPEN_CLIP[1])
    write_sums(folder)
    with pytest.raises(UserError, match=r"open_clip_model.safetensors: ln_final.bias is not as in the release"):
        verified(folder)
    assert json.loads((clip / OPEN_CLIP[0]).read_text())["preprocess_cfg"]["size"] == 32


def test_a_logarithm_of_another_processor(clip: Path, tmp_path: Path):
    folder, tensors = copy_of(clip, tmp_path / "copy"), load_file(clip / OPEN_CLIP[1])
    for change, fits in ((1e-6, True), (1e-3, False), (float("nan"), False)):
        save_file(tensors | {"logit_scale": tensors["logit_scale"] + change}, folder / OPEN_CLIP[1])
        space, config = load_joint(clip), read_json(folder / CONFIG, "it")
        if fits:
            check_open_clip(folder, space, config, "it")
        else:
            with pytest.raises(UserError, match=r"it: .*logit_scale is not as in the release"):
                check_open_clip(folder, space, config, "it")


def test_an_image_tower_that_ends_in_the_space(clip: Path):
    space = load_joint(clip)
    del space.projections["image"]
    with pytest.raises(UserError, match="describes other towers"):
        check_open_clip(clip, space, read_json(clip / CONFIG, "it"), "it")
