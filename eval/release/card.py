"""The model card: README.md of a release, for people and for model hubs."""

from typing import Any

from torch import nn

from eyespot.data_pipeline.terminal import plural
from eyespot.eval.release.hub.header import front_matter
from eyespot.eval.release.layout import SMALL_STEM
from eyespot.eval.release.provenance import Origin, paper_of
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.results.result import RMSE, Result

_LOAD = """\
import timm

encoder = timm.create_model("local-dir:FOLDER", pretrained=True).eval()"""

_LOAD_SMALL_STEM = """\
import timm, torch
from safetensors.torch import load_file

encoder = timm.create_model("{name}", num_classes=0)
{stem}
encoder.maxpool = torch.nn.Identity()
encoder.load_state_dict(load_file("FOLDER/model.safetensors"))
encoder.pretrained_cfg.update({asked})
encoder.eval()"""

_USE = """\
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
features = encoder(transform(image)[None])  # (1, {dim}): {what}"""

_USE_BANDS = """\
import torch

asked = encoder.pretrained_cfg  # `image` is a float tensor (1, bands, height, width), values in 0..1
mean, std = (torch.tensor(asked[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
features = encoder((image - mean) / std)  # (1, {dim}): {what}"""

_TOKENS = """\
All tokens: `encoder.forward_features(batch)`; the first `encoder.num_prefix_tokens` are no patches. The average of the
patches, "mean" in the table below: `encoder.forward_features(batch)[:, encoder.num_prefix_tokens:].mean(1)`."""

_READS = {
    "text": "captions, tokenizer and all",
    "sound": "sounds",
    "depth": "depth maps",
}
_USE_JOINT = {
    "text": 'texts = joint.embed_texts(["a photo of a cat", "a photo of a dog"])',
    "sound": "sounds = joint.embed_sounds([wave])  # float32 in -1..1, joint.view.rate samples a second",
    "depth": "depths = joint.embed_depths(maps)  # (1, 1, height, width), stored values times joint.view.scale",
}
_JOINT = """\
This release has a second tower, which reads {what}. Its vectors and those of images lie in one space.
With eyespot, `FOLDER` being this one (it is verified first):

```python
from pathlib import Path
from eyespot.eval.release.joint import load_joint

joint = load_joint(Path("FOLDER"))
images = joint.embed_images(transform(image)[None])  # of length 1, transform as above
{use}
alike = {alike}
```"""

_VERIFY = """\
`sha256sum --check SHA256SUMS` finds a damaged file. `eyespot pull FOLDER COPY` also holds weights, mean, standard
deviation and licence against `provenance.json`, and computes the features of `golden.safetensors` anew."""

_ABOUT_NUMBERS = """\
The encoder was frozen, but where the protocol trains it (finetune). Settings were chosen on a part of train, never on
test. Intervals are of 95 %: about the choice of test images, not about the seed of training."""

_LIMITS = """\
- {measured} What it knows of images comes from {data}: images of
  another kind, size or origin may be served badly, and the biases of that data are in its features.
- Images must be scaled to {side} × {side} pixels, with the mean and standard deviation in `config.json`: others give
  other features."""


def card_of(
    provenance: dict[str, Any], config: dict[str, Any], origin: Origin, encoder: nn.Module, extras: dict[str, str]
) -> str:
    """The text of README.md.

    Args:
        provenance: of the release.
        config: its config.json.
        origin: run and checkpoint.
        encoder: as it was trained.
        extras: files that not every release has, and what to say of each.
    """
    name, side = provenance["name"], config["pretrained_cfg"]["input_size"][-1]
    num_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    architecture = config["architecture"].removesuffix(SMALL_STEM)
    stem = ", its stem made for small images," if config["architecture"].endswith(SMALL_STEM) else ""
    bands = config["pretrained_cfg"]["input_size"][0]
    use = load_lines(config, encoder) + "\n"
    use += (_USE if bands == 3 else _USE_BANDS).format(dim=_width(encoder), what=_kind(encoder))
    given = "a PIL image in RGB" if bands == 3 else f"an image of {bands} bands"
    sections = [
        front_matter(provenance["license"], name, origin.results()),
        f"# {name}\n\nAn image encoder: `{architecture}`{stem} with {num_parameters:,} parameters, for images of"
        f" {side} × {side} pixels, trained by\n{provenance['method']}\nIt answers with features; it has no classifier.",
        f"## Use\n\ntimm and safetensors suffice. `FOLDER` is this one, `image` {given}.\n\n"
        f"```python\n{use}\n```\n\n{_notes(config, encoder)}",
        f"## Numbers\n\n{_numbers(origin.results())}",
        f"## Training\n\n{_training(provenance, origin)}",
        f"## Limits\n\n{_limits(provenance, origin, side)}",
        *(f"## {file}\n\n{text}" for file, text in sorted(extras.items())),
        f"## Verify\n\n{_VERIFY}",
        f"## Citation\n\n{_citation(provenance['method'])}",
    ]
    return "\n\n".join(sections) + "\n"


def joint_text(space: JointSpace) -> str:
    """How both towers are used, for ``extras``."""
    kind = space.joint[1]
    scale = "joint.scale * " if space.scale is not None else ""
    bias = " + joint.bias" if space.bias is not None else ""
    return _JOINT.format(what=_READS[kind], use=_USE_JOINT[kind], alike=f"{scale}images @ {kind}s.T{bias}")


def load_lines(config: dict[str, Any], encoder: nn.Module) -> str:
    """Python that makes ``encoder`` of the folder FOLDER, with timm and safetensors alone."""
    if not config["architecture"].endswith(SMALL_STEM):
        return _LOAD
    first: Any = encoder.get_submodule("conv1")
    stem = "encoder.conv1[0].stride = (1, 1)"
    if not isinstance(first, nn.Sequential):
        stem = f"encoder.conv1 = torch.nn.Conv2d({first.in_channels}, {first.out_channels}, 3, padding=1, bias=False)"
    keys = ("mean", "std", "input_size", "crop_pct", "interpolation")
    return _LOAD_SMALL_STEM.format(
        name=config["architecture"].removesuffix(SMALL_STEM),
        stem=stem,
        asked={key: config["pretrained_cfg"][key] for key in keys},
    )


def _kind(encoder: nn.Module) -> str:
    words = {"token": "the class token", "map": "its own attention pooling"}
    return words.get(str(getattr(encoder, "global_pool", "")), "the average over the image")


def _width(encoder: Any) -> int:
    """Of what ``encoder(images)`` gives: some heads widen what the last block does."""
    return getattr(encoder, "head_hidden_size", None) or encoder.num_features


def _notes(config: dict[str, Any], encoder: nn.Module) -> str:
    said = []
    if hasattr(encoder, "num_prefix_tokens"):
        said.append(_TOKENS)
    if config["architecture"].endswith(SMALL_STEM):
        said.append("timm has no name for this stem, so `local-dir:` does not load the folder: the lines above do.")
    else:
        said.append("To fine-tune it, add `num_classes=10` to `create_model`: the classifier is then drawn at random.")
    return "\n\n".join(said)


def _numbers(results: list[Result]) -> str:
    if not results:
        return "None: it was released without an evaluation."
    lines = [
        "| protocol | data | what | encoder | 95 % interval | random weights |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for place, result in enumerate(results):
        if result.role != "encoder":
            continue
        following = results[place + 1] if place + 1 < len(results) else None
        twin = following.all_scores() if following is not None and following.role == "random" else {}
        for name, score in result.all_scores().items():
            share = score.interval is not None and name != RMSE
            ends = [_shown(end, share=share) for end in score.interval or ()]
            before = _shown(twin[name].value, share=share) if name in twin else ""
            cells = [
                result.protocol,
                result.data,
                name,
                _shown(score.value, share=share),
                " to ".join(ends),
                before,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    settings = {
        f"{r.protocol}: `{r.metric}`, {r.chosen()}, {r.tested} ({r.split})" for r in results if r.role == "encoder"
    }
    said = "\n".join(f"- {line}" for line in sorted(settings))
    return "\n".join(lines) + f"\n\n{said}\n\n{_ABOUT_NUMBERS}"


def _shown(value: float, share: bool) -> str:
    return f"{value:.2%}" if share else f"{value:.3f}"


def _training(provenance: dict[str, Any], origin: Origin) -> str:
    run, data, code = origin.run, provenance["data"], provenance["code"]
    images = (
        f"{data['name']}, {plural(data['num_images'], 'image')}"
        if "name" in data
        else "the shards are no longer at hand"
    )
    machine = provenance["hardware"]
    where = ", ".join([*sorted(set(machine.get("gpus", []))), machine.get("cpu", "")][:1]) or "not recorded"
    processes = f"{provenance['world_size']} process{'es' if provenance['world_size'] > 1 else ''}"
    commit = code["git_commit"] or "not recorded"
    changed = " with uncommitted changes" if code["dirty"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items()) or "not recorded"
    lines = {
        "data": f"{images} (manifest sha256 `{data['manifest_sha256']}`)",
        "labels": "seen in training" if origin.sees_labels() else "not seen in training",
        "length": f"{provenance['step']:,} of {plural(run.steps, 'step')},"
        f" {plural(provenance['samples_seen'], 'sample')} seen",
        "settings": f"recipe `{provenance['recipe']}`, batch {run.data.batch_size:,}, base rate {run.optim.lr:g},"
        f" seed {run.seed}, {run.precision}, engine {run.engine}; all of them in `provenance.json`",
        "hardware": f"{where}, {processes}",
        "code": f"eyespot {code['eyespot'] or 'not recorded'}, commit {commit}{changed}",
        "versions": versions,
    }
    if origin.weights == "ema":
        lines["weights"] = f"their moving average over the steps, of decay {run.optim.ema:g}"
    if origin.average:
        names = ", ".join(f"{each['checkpoint']} (`{each['recipe']}`, seed {each['seed']})" for each in origin.average)
        lines["weights"] = f"the uniform average of {plural(len(origin.average), 'checkpoint')}: {names}"
    if parents := provenance["parents"]:
        lines["first weights"] = "; ".join(", ".join(f"{k} {v}" for k, v in parent.items()) for parent in parents)
    if teacher := provenance.get("teacher"):
        digest = f", sha256 `{teacher.get('sha256')}`" if teacher.get("sha256") else ""
        lines["teacher"] = f"{teacher.get('origin')} ({teacher.get('architecture')}{digest})"
    if provenance.get("student"):
        lines["student"] = f"{provenance['student']}, one of several that learned from one look of the teacher"
    return "\n".join(f"- **{name}**: {text}" for name, text in lines.items())


def _limits(provenance: dict[str, Any], origin: Origin, side: int) -> str:
    data = provenance["data"].get("name", "its training data")
    judged = bool(origin.results())
    on = "what the table names and on nothing else" if judged else "nothing"
    said = [_LIMITS.format(data=data, side=side, measured=f"It was measured on {on}.")]
    if judged and len({each["run_key"] for each in origin.average or ()}) < 2:
        said.append("- The numbers are of one training run with one seed.")
    if provenance["step"] < origin.run.steps:
        said.append("- The run was not at its end: the learning rate had not come down yet.")
    if provenance["code"]["dirty"]:
        said.append("- The code that trained it had changes that no commit holds: nobody else can train it again.")
    return "\n".join(said)


def _citation(method: str) -> str:
    links = "".join(f"\n<https://arxiv.org/abs/{number}>" for number in paper_of(method))
    return f"{method}{links}"
