"""JointSpace: two towers of a release, and the space in which what belongs together is alike."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import AudioView, DepthView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.sound_views import log_mel
from eyespot.data_pipeline.loading.members.tokenizer import Tokenizer
from eyespot.pretrain.networks.encoders import features
from eyespot.pretrain.networks.towers.tower import TextTower, Tower


class JointSpace(nn.Module):
    """Embeds images, and what its second tower reads, as unit vectors of one space.

    Args:
        encoder: the image tower.
        kind: of view that the second tower reads: "text", "sound", "depth".
        config: how that tower is built.
        tower: it.
        projections: by kind, what brings a tower's vectors into the space; a kind that it lacks ends there by itself.
        scale: what cosines are multiplied by, (1,); None = the method learns no such number.
        bias: what is added to them then, (1,); None = nothing.
        tokenizer: of captions.
        view: how sounds or depth maps are seen.
    """

    def __init__(
        self,
        encoder: nn.Module,
        kind: str,
        config: Tower,
        tower: nn.Module,
        projections: nn.ModuleDict,
        *,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        tokenizer: Tokenizer | None = None,
        view: AudioView | DepthView | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.joint, self.config, self.projections = encoder, ("image", kind), config, projections
        self.tower, self.tokenizer, self.view = tower, tokenizer, view
        self.scale: Tensor | None
        self.bias: Tensor | None
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def embed_joint(self, kind: str, view: Tensor) -> Float[Tensor, "b d"]:
        """Unit vectors of views of one of ``joint``'s kinds, as the objective gave them."""
        found = features(self.encoder, view) if kind == "image" else self.config.read(self.tower, view)
        return nn.functional.normalize(self.projections[kind](found) if kind in self.projections else found, dim=-1)

    @torch.inference_mode()
    def embed_images(self, images: Float32[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Of normalised images, as timm's transform of ``encoder`` makes them."""
        return self.embed_joint("image", images)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "b d"]:
        """Of captions.

        Raises:
            UserError: the release has no text tower, or its tokenizer makes ids that the tower does not know.
        """
        if self.tokenizer is None or not isinstance(self.config, TextTower):
            raise self._other("text")
        ids = torch.from_numpy(self.tokenizer(texts))
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.num_tokens:
            raise UserError(f"tokenizer: makes ids beyond the {self.config.num_tokens:,} that the text tower knows")
        return self.embed_joint("text", ids.to(self._device()))

    @torch.inference_mode()
    def embed_sounds(self, waves: Sequence[Float32[Tensor, " _"]]) -> Float32[Tensor, "b d"]:
        """Of sounds of one channel, -1..1, at ``view.rate`` samples a second: the first ``view.seconds`` of each.

        Raises:
            UserError: the release has no sound tower.
        """
        if not isinstance(self.view, AudioView):
            raise self._other("sound")
        seen = torch.zeros(len(waves), *self.view.shape(()))
        for row, wave in zip(seen, waves, strict=True):
            heard = torch.zeros(self.view.num_samples)
            heard[: len(wave)] = wave[: len(heard)]
            row[0] = log_mel(heard, self.view)
        return self.embed_joint("sound", seen.to(self._device()))

    @torch.inference_mode()
    def embed_depths(self, maps: Float32[Tensor, "b 1 h w"]) -> Float32[Tensor, "b d"]:
        """Of depth maps: what is stored times ``view.scale``, cut and resized like the images.

        Raises:
            UserError: the release has no depth tower.
        """
        if not isinstance(self.view, DepthView):
            raise self._other("depth")
        return self.embed_joint("depth", maps)

    def _device(self) -> torch.device:
        return next(self.tower.parameters()).device

    def _other(self, kind: str) -> UserError:
        return UserError(f"release: has a tower for {self.joint[1]} beside that for images, and none for {kind}")
