"""What a push needs and can be known before: to be asked before anything is written or sent."""

import huggingface_hub
import huggingface_hub.constants as settings
from packaging.version import Version

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.hub.address import HubAddress, parse_address

OLDEST_CLIENT = "2.4"
"""Of the hub's client, as the extra "hub" asks for it; timm is content with an older one."""


def check_push(address: str, tag: str | None = None) -> HubAddress:
    """The branch to push to.

    Args:
        address: ``hf://ORG/NAME``, or ``hf://ORG/NAME@BRANCH``.
        tag: a tag for the commit.

    Raises:
        UserError: it is no branch, the tag is none, no hub may be asked, there is no token, or the client is too old.
    """
    to = parse_address(address)
    if to.commit or to.revision.startswith("refs/"):
        raise UserError(f"--to {to}: a push goes to a branch; leave out @{to.revision}, or name a branch")
    if tag is not None:
        parse_address(f"hf://{to.repo}@{tag}")
    if Version(huggingface_hub.__version__) < Version(OLDEST_CLIENT):
        raise UserError(
            f"--to {to}: needs huggingface_hub {OLDEST_CLIENT}, here is {huggingface_hub.__version__};"
            ' pip install "eyespot[hub]"'
        )
    if settings.HF_HUB_OFFLINE:
        raise UserError(f"--to {to}: HF_HUB_OFFLINE is set, so no hub is asked; unset it")
    if huggingface_hub.get_token() is None:
        raise UserError(f"--to {to}: which account? Set HF_TOKEN to a token that may write, or: hf auth login")
    return to
