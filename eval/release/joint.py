"""Both towers of a release, in one line."""

from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.release.verify import verified_towers


def load_joint(folder: Path) -> JointSpace:
    """Both towers of a release as they were trained, in evaluation mode.

    Args:
        folder: of the release; it is verified first.

    Raises:
        UserError: it does not match, or is of a method with one tower.
    """
    space = verified_towers(folder)[1]
    if space is None:
        raise UserError(f"release {folder}: has one tower, for images; load it with timm, as its card says")
    return space
