"""An encoder with the weights that timm publishes: in its cache, or downloaded where there is a network."""

import logging

import huggingface_hub.constants
import timm
from torch import nn

from eyespot.data_pipeline.errors import Outage, UserError, is_network_outage


def published_encoder(name: str, what: str, advice: str) -> nn.Module:
    """timm's encoder of that name with its published weights, all of them.

    Args:
        name: timm's.
        what: who names it, for the message: "start.model".
        advice: what to do without a network.

    Raises:
        UserError: there are none, or this machine has no network.
        Outage: the hub does not answer.
    """
    silenced = [logging.getLogger(place) for place in ("timm", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in silenced]
    try:
        for logger in silenced:
            logger.setLevel(logging.CRITICAL)
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises a dozen kinds, of three libraries, without a common base
        raise hub_failure(error)(
            f"{what} {name!r}: no published weights could be had ({_brief(error)}); {advice}"
        ) from error
    finally:
        for logger, level in zip(silenced, levels, strict=True):
            logger.setLevel(level)


def hub_failure(error: Exception) -> type[Exception]:
    """What the failure of the hub's client is to the user; who has told it to stay offline means it."""
    return Outage if is_network_outage(error) and not huggingface_hub.constants.HF_HUB_OFFLINE else UserError


def _brief(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
