"""What masking, and what our step, are worth: MAE on ViT-B/16 at 224 px, both sides of each ratio in one run.

- masked against full: the same encoder on 25 % of the patches and on all of them, alone and in the whole
  forward + backward.
- ours against the reference formulation written plainly: attention spelled out, decoder in image order predicting every
  patch and masking the loss, AdamW as a loop over parameters; the whole step, in fp32 and bf16.

    python benchmarks/mae_step.py [--batch-size 8] [--rounds 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from results import write_results
from torch import Tensor, nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import take
from eyespot.pretrain.networks.encoders import EncoderConfig, encode_visible, make_encoder
from eyespot.pretrain.networks.repeated_blocks import choose_attention
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer, parameter_groups


class PlainAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v, written out, on the weights of timm's attention."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, x: Tensor, **_: object) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (query * (dim // self.num_heads) ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class ReferenceMAE(MAE):
    """The formulation of the paper's figure 1, nothing saved: every patch is predicted, in image order."""

    def use_plain_attention(self) -> "ReferenceMAE":
        for block in (*self.encoder.blocks, *self.decoder_blocks):
            block.attn = PlainAttention(block.attn)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        order = self.mask_order(batch)
        restore = order.argsort(dim=1)
        tokens = self.decoder_embed(encode_visible(self.encoder, batch.views[0], order[:, : self.num_visible]))
        masked = self.mask_token.to(tokens.dtype).expand(len(order), self.num_patches - self.num_visible, -1)
        patches = take(torch.cat([tokens[:, 1:], masked], dim=1), restore) + self.decoder_positions
        tokens = self.decoder_blocks(torch.cat([tokens[:, :1], patches], dim=1))
        predicted = self.decoder_pred(self.decoder_norm(tokens))[:, 1:].float()
        errors = (predicted - self.targets(batch.views[0])).square().mean(dim=-1)
        mask = (restore >= self.num_visible).float()
        return {"loss": (errors * mask).sum() / mask.sum()}


class FullMAE(MAE):
    """The encoder sees all patches; the decoder then gets mask tokens in place of the masked ones."""

    def reconstruct(self, view: Tensor, order: Tensor) -> Tensor:
        tokens = self.decoder_embed(encode_visible(self.encoder, images, order))
        masked = self.mask_token.to(tokens.dtype).expand(len(order), self.num_patches - self.num_visible, -1)
        patches = torch.cat([tokens[:, 1 : 1 + self.num_visible], masked], dim=1)
        patches = patches + take(self.decoder_positions.expand(len(order), -1, -1), order)
        tokens = self.decoder_blocks(torch.cat([tokens[:, :1], patches], dim=1))
        return self.decoder_pred(self.decoder_norm(tokens[:, 1 + self.num_visible :]))


def build(kind: type[MAE]) -> MAE:
    """The same weights for every kind."""
    torch.manual_seed(0)
    return kind(MAE.Config(), make_encoder(EncoderConfig()), 224)


def autocast(precision: str) -> AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def gradient(objective: MAE, batch: Batch, precision: str) -> Callable[[], float]:
    """Forward + backward."""

    def once() -> float:
        objective.zero_grad(set_to_none=True)
        with autocast(precision):
            loss = objective(batch)["loss"]
        loss.backward()
        return float(loss.detach())

    return once


def encoder_gradient(objective: MAE, batch: Batch, precision: str, *, masked: bool) -> Callable[[], float]:
    """Forward + backward of the encoder alone."""
    order = objective.mask_order(batch)
    visible = order[:, : objective.num_visible] if masked else order

    def once() -> float:
        objective.zero_grad(set_to_none=True)
        with autocast(precision):
            loss = encode_visible(objective.encoder, batch.views[0], visible).float().square().mean()
        loss.backward()
        return float(loss.detach())

    return once


def whole_step(objective: MAE, optimizer: torch.optim.Optimizer, batch: Batch, precision: str) -> Callable[[], float]:
    """Forward + backward + AdamW, at a learning rate that leaves the weights as they are."""
    run = gradient(objective, batch, precision)

    def once() -> float:
        loss = run()
        optimizer.step()
        return loss

    return once


def loop_adamw(objective: MAE) -> torch.optim.Optimizer:
    groups = parameter_groups(objective, 0.05)
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=False, fused=False)


def fused_adamw(objective: MAE) -> torch.optim.Optimizer:
    optimizer = make_optimizer(objective, OptimConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def measure(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, in turn, after one warm-up of each."""
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            begun = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - begun)
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ids = torch.arange(options.batch_size)
    images = torch.randn(options.batch_size, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    batch = Batch(views=[images], ids=ids, epochs=ids * 0, labels=ids, seed=0)
    ours, full, plain = build(MAE), build(FullMAE), build(ReferenceMAE).use_plain_attention()
    fused_attention = build(MAE)
    for objective in (ours, full):
        choose_attention(objective, torch.device("cpu"))
    losses = [gradient(objective, batch, "fp32")() for objective in (ours, plain)]
    print(f"loss ours {losses[0]:.7f}, reference {losses[1]:.7f}")
    fused, loop = fused_adamw(ours), loop_adamw(plain)
    times = measure(
        {
            "encoder, all patches": encoder_gradient(ours, batch, "bf16", masked=False),
            "encoder, 25 % visible": encoder_gradient(ours, batch, "bf16", masked=True),
            "forward + backward, all patches": gradient(full, batch, "bf16"),
            "forward + backward, 25 % visible": gradient(ours, batch, "bf16"),
            "forward + backward, fused attention": gradient(fused_attention, batch, "bf16"),
            "reference step, fp32": whole_step(plain, loop, batch, "fp32"),
            "reference step, bf16": whole_step(plain, loop, batch, "bf16"),
            "our step, bf16": whole_step(ours, fused, batch, "bf16"),
        },
        options.rounds,
    )
    rows = [
        ("75 % masking, encoder", ratio(times, "encoder, all patches", "encoder, 25 % visible"), 3.0),
        (
            "75 % masking, forward + backward",
            ratio(times, "forward + backward, all patches", "forward + backward, 25 % visible"),
            2.0,
        ),
        (
            "plain attention instead of the fused kernel, on the CPU",
            ratio(times, "forward + backward, fused attention", "forward + backward, 25 % visible"),
            1.0,
        ),
        ("our bf16 step against the reference in fp32", ratio(times, "reference step, fp32", "our step, bf16"), 1.9),
        ("our bf16 step against the reference in bf16", ratio(times, "reference step, bf16", "our step, bf16"), 1.05),
    ]
    write_results(
        "mae_step",
        title=f"MAE step, ViT-B/16 at 224 px, batch {options.batch_size}, {options.rounds} rounds, median ratios",
        header=("what", "times faster", "target"),
        rows=[(what, f"{value:.2f}", f">= {target}") for what, value, target in rows],
        details={"seconds": times, "loss": {"ours": losses[0], "reference": losses[1]}},
    )


if __name__ == "__main__":
    main()
