"""``eyespot pull ADDRESS [DIR]``."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.terminal import one_line


@dataclass(kw_only=True, slots=True)
class Pulling:
    """Fetches a release and verifies it: there is a whole, unchanged one in the end, or nothing.

    ADDRESS is a folder, a .tar, .tar.gz or .zip of one, the http(s) address of either, models:/NAME@ALIAS or
    models:/NAME/VERSION of MLflow's registry, or hf://ORG/NAME of a model hub, at a branch, a tag or a commit:
    hf://ORG/NAME@v1. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean to the hub's own client.

    Checked are the sha256 of every file, that there are no others, that weights, mean, standard deviation and licence
    are those of its provenance.json, that timm loads all of the weights, and that the golden images have the features
    that they had when the release was written. Nothing is unpickled.

    For example:

    eyespot pull https://models.example.org/digits.tar.gz

    eyespot pull models:/digits@production models/digits --sha256 8d2f...

    eyespot pull hf://my-lab/digits@v1 models/digits
    """

    address: Annotated[str, Positional, arg(metavar="ADDRESS")]
    """Where the release is."""
    folder: Annotated[Path | None, Positional, arg(metavar="DIR")] = None
    """The folder that it becomes, which must not exist; by default named as the address ends, here."""
    sha256: str | None = None
    """The digest that it must have, as eyespot release printed it."""
    uri: str | None = None
    """For models:/: MLflow's tracking URI; without it MLFLOW_TRACKING_URI."""
    allow_redirect: FlagCreatePairsOff[bool] = False
    """The server may send us to another host, as model hubs do. Never from https to http."""


def main(argv: list[str]) -> int:
    """Fetches the release, says what it is, and returns the exit code."""
    wanted = parse(Pulling, argv, "eyespot pull")
    with working("loading torch"):
        from eyespot.eval.release.fetch import fetched
        from eyespot.eval.release.hub.address import is_hub
        from eyespot.eval.release.hub.reading import pinned
        from eyespot.eval.release.layout import JOINT, PROVENANCE, digest_of, read_json

    at = str(pinned(wanted.address)) if is_hub(wanted.address) else wanted.address
    folder = fetched(
        at,
        wanted.folder or default_folder(wanted.address),
        sha256=wanted.sha256,
        uri=wanted.uri,
        allow_redirect=wanted.allow_redirect,
    )
    said = read_json(folder / PROVENANCE, str(folder))
    average = said.get("average")
    which = f"the average of {len(average)} checkpoints" if isinstance(average, list) else f"step {said['step']:,}"
    print(one_line(f"{said['name']} ({said['license']}), {said['recipe']}, {which}: verified"))
    print(f"sha256 {digest_of(folder)}")
    if is_hub(at):
        print(f"from {at}")
    if wanted.folder is None:
        print(f"written to {folder.resolve()}")
    print(f'timm.create_model("local-dir:{folder}", pretrained=True)')
    if (folder / JOINT).is_file():
        print(f'both towers: eyespot.eval.release.joint.load_joint(Path("{folder}"))')
    say_next((["eval", "linear", folder, "SHARDS"], "how good it is on your labels"))
    return ExitCode.DONE


def default_folder(address: str) -> Path:
    """The last part of an address, as a folder here: https://host/digits.tar.gz -> digits, models:/a@b -> a,
    hf://org/a@b -> a."""
    path = re.sub(r"[?#].*", "", address).rstrip("/")
    if path.startswith("models:/"):
        return Path(re.sub(r"[/@].*", "", path.removeprefix("models:").lstrip("/")) or "release")
    if path.startswith("hf://"):
        return Path(path.partition("@")[0].rpartition("/")[2] or "release")
    return Path(re.sub(r"\.(tar\.gz|tgz|tar|zip)$", "", path.rpartition("/")[2], flags=re.IGNORECASE) or "release")
