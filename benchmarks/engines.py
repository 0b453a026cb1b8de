"""Engines on two ranks of one core each: are they one run, what does a step cost, how much memory does a rank hold?

- Parity: 20 steps against one process that accumulates the same micro-batches. Largest difference of a loss, and of a
  weight tensor in norm, relative. The key third of qkv biases is left out: its true gradient is zero (a softmax ignores
  a shift), so what AdamW sees of it is the sign of rounding noise.
- Cost: our engine against a loop written by hand on the same parts, step by step in turn, in the same processes: the
  median of the steps' ratios. MAE with a ViT-S/16 at 224 px, fp32.
- Memory: state per rank (parameters, optimiser), and the peak of a step, each in processes of their own.
- Weak scaling: a step of one rank against a step of two with as many images each.

    python benchmarks/engines.py [--steps 12] [--batch 4] [--part parity|cost]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ranks import on_ranks
from results import write_results
from step_passes import take_passes
from torch import Tensor

ENGINES = ("ddp", "fsdp", "deepspeed 1", "deepspeed 2", "deepspeed 3")
PARITY_STEPS, LR = 20, 1e-3


def tiny_run(checkpointing: bool = False) -> Any:
    from eyespot.pretrain.recipe_lookup import make_run

    run = make_run("mae_tiny")
    run.encoder.checkpointing = checkpointing
    return run


def speed_run() -> Any:
    """MAE, ViT-S/16, with half of the paper's decoder: a step of seconds on a core."""
    from eyespot.pretrain.recipe_lookup import make_run

    run = make_run("mae_vitb16_in1k")
    run.encoder = replace(run.encoder, name="vit_small_patch16_224")
    run.objective = replace(run.objective, decoder_depth=4)
    return run


def make_objective(run: Any) -> Any:
    from eyespot.pretrain.loop.initial_weights import fresh_objective

    torch.manual_seed(0)
    return fresh_objective(run)


def make_engine(run: Any, world: Any, engine: str, **settings: Any) -> Any:
    from eyespot.pretrain.engine import DeepSpeedConfig, Settings
    from eyespot.pretrain.engine import make_engine as make
    from eyespot.pretrain.optim.optimizers import make_optimizer

    name, _, stage = engine.partition(" ")
    chosen = Settings(deepspeed=DeepSpeedConfig(stage=int(stage or 2)), **settings)  # pyright: ignore[reportArgumentType]
    return make(name, make_objective(run), world, lambda module: make_optimizer(module, run.optim), chosen)


def make_batch(count: int, image_size: int, number: int) -> Any:
    from eyespot.data_pipeline.loading.batch import Batch

    generator = torch.Generator().manual_seed(number)
    ids = torch.arange(number * count, (number + 1) * count)
    images = torch.randn(count, 3, image_size, image_size, generator=generator)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def trajectory(
    world: Any, engine: str, parts: int, precision: str, checkpointing: bool, clip: float | None
) -> tuple[list[float], dict[str, Tensor]]:
    """20 steps, each of ``parts`` micro-batches over the ranks: the global losses, and the encoder's weights."""
    run = tiny_run(checkpointing)
    made = make_engine(run, world, engine, accumulate=parts // world.size, precision=precision, clip=clip)
    losses = []
    for step in range(PARITY_STEPS):
        own = range(step * parts + world.rank, (step + 1) * parts, world.size)
        batches = [(make_batch(4, run.encoder.image_size, number), number) for number in own]
        scalars = torch.stack([row["loss"].double() for row in take_passes(made, batches)])
        made.step(LR)
        losses.append(_mean_over_parts(scalars, world))
    weights = _whole_weights(made)
    made.close()
    return losses, weights


def _mean_over_parts(own: Tensor, world: Any) -> float:
    from eyespot.pretrain.distributed.collectives import in_batch_order

    return float(in_batch_order(own[:, None]).mean())


def _whole_weights(engine: Any) -> dict[str, Tensor]:
    from eyespot.pretrain.distributed.collectives import gather_objects_to_first

    tensors = {name: tensor for name, tensor in engine.save_tensors().items() if name.startswith("model.")}
    own = {name: getattr(tensor, "full_tensor", tensor.clone)().cpu().numpy() for name, tensor in tensors.items()}
    parts = gather_objects_to_first(own)
    return {name: tensor for part in parts or [] for name, tensor in part.items()}


def parity_rows() -> Iterator[list[str]]:
    settings = [
        ("fp32, 2 ranks", 2, ("fp32", False, None)),
        ("bf16 autocast, 2 ranks", 2, ("bf16", False, None)),
        ("fp32, 2 ranks, activation checkpointing", 2, ("fp32", True, None)),
        ("fp32, 2 ranks, clipped", 2, ("fp32", False, 0.05)),
        ("fp32, 4 ranks", 4, ("fp32", False, None)),
    ]
    for title, ranks, options in settings:
        ((losses, weights),) = on_ranks(trajectory, 1, "ddp", ranks, *options)
        row = [title]
        for engine in ENGINES:
            (found, state), *_ = on_ranks(trajectory, ranks, engine, ranks, *options)
            in_loss = max(abs(one - other) / other for one, other in zip(found, losses, strict=True))
            row.append(f"{_figure(in_loss)} / {_figure(_largest_difference(state, weights))}")
        yield row


def _largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    worst = 0.0
    for name, wanted in expected.items():
        one, other = torch.from_numpy(found[name]), torch.from_numpy(wanted)
        if name.endswith("qkv.bias"):
            query, key, _ = one.chunk(3)
            keep = torch.ones(len(one), dtype=torch.bool)
            keep[len(query) : len(query) + len(key)] = False
            one, other = one[keep], other[keep]
        worst = max(worst, float((one - other).norm() / other.norm().clamp_min(1e-30)))
    return worst


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def by_hand(run: Any, world: Any, engine: str, batch_size: int) -> Callable[[Any], None]:
    """A step as one would write it, without our code around it but the objective."""
    from eyespot.pretrain.networks.repeated_blocks import choose_attention
    from eyespot.pretrain.optim.optimizers import make_optimizer

    objective = make_objective(run)
    choose_attention(objective, world.device)
    name, _, stage = engine.partition(" ")
    if name == "deepspeed":
        import deepspeed

        zero = {"stage": int(stage), "memory_efficient_linear": False, "stage3_param_persistence_threshold": 0}
        config = {
            "train_micro_batch_size_per_gpu": batch_size,
            "gradient_clipping": 0.0,
            "zero_optimization": zero | {"reduce_bucket_size": 50_000_000},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": None,
        }
        made = deepspeed.initialize(
            model=objective, optimizer=make_optimizer(objective, run.optim), config=config, dist_init_required=False
        )[0]

        def deepspeed_step(batch: Any) -> None:
            made.backward(made(batch=batch)["loss"])
            made.step()

        return deepspeed_step
    if name == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for block in (*objective.encoder.blocks, *objective.decoder_blocks):
            fully_shard(block)
        call = fully_shard(objective)
    else:
        call = torch.nn.parallel.DistributedDataParallel(objective, forward_sync_buffers=False)
    optimizer = make_optimizer(objective, run.optim)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def step(batch: Any) -> None:
        call(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def paired_steps(world: Any, engine: str, batch_size: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of our step and of the one by hand, in turn, both at rate 0."""
    import torch.distributed

    run = speed_run()
    ours, hand = make_engine(run, world, engine, micro_batch_size=batch_size), by_hand(run, world, engine, batch_size)

    def our_step(batch: Any) -> None:
        take_passes(ours, [(batch, 0)])
        ours.step(0.0)

    pairs = []
    for number in range(steps + 1):
        batch = make_batch(batch_size, run.encoder.image_size, number * world.size + world.rank)
        seconds = []
        for take in (our_step, hand) if number % 2 else (hand, our_step):
            torch.distributed.barrier()
            torch.manual_seed(0)
            begin = time.perf_counter()
            take(batch)
            torch.distributed.barrier()
            seconds.append(time.perf_counter() - begin)
        pairs.append((seconds[0], seconds[1]) if number % 2 else (seconds[1], seconds[0]))
    return pairs[1:]


def memory(world: Any, engine: str, batch_size: int) -> tuple[float, float]:
    """MB of parameters and optimiser state on this rank, and of the peak of a step above what there was before."""
    from eyespot.pretrain.distributed.process_group import own_share

    run = speed_run()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if engine == "by hand":
        step = by_hand(run, world, "ddp", batch_size)
        made = None
    else:
        made = make_engine(run, world, engine, micro_batch_size=batch_size)

        def step(batch: Any) -> None:
            take_passes(made, [(batch, 0)])
            made.step(0.0)

    for number in range(2):
        step(make_batch(batch_size, run.encoder.image_size, number))
    held = 0
    if made is not None:
        seen: dict[int, int] = {}
        optimizer = made._optimizer if hasattr(made, "_optimizer") else made._zero.optimizer
        slots = [value for state in optimizer.state.values() for value in state.values()]
        for tensor in [*made.objective.parameters(), *slots]:
            storage = own_share(tensor).untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        held = sum(seen.values())
    return held / 1e6, (_status("VmHWM") - before) / 1e3


def _status(name: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def alone(world: Any, batch_size: int, steps: int) -> float:
    """Median seconds of a step of our DDP engine on so many ranks."""
    run = speed_run()
    engine, seconds = make_engine(run, world, "ddp", micro_batch_size=batch_size), []
    for number in range(steps + 1):
        batch = make_batch(batch_size, run.encoder.image_size, number * world.size + world.rank)
        begin = time.perf_counter()
        take_passes(engine, [(batch, 0)])
        engine.step(0.0)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="pairs of steps that are timed")
    parser.add_argument("--batch", type=int, default=4, help="images per rank")
    parser.add_argument("--part", choices=["parity", "cost"], help="one of the two tables; without it, both")
    options = parser.parse_args()
    if options.part != "cost":
        write_parity()
    if options.part != "parity":
        write_cost(options.batch, options.steps)


def write_parity() -> None:
    """The first table."""
    rows = list(parity_rows())
    write_results(
        "engine_parity",
        title="20 steps against one process that accumulates: largest relative difference of losses / of weights",
        header=["what", *ENGINES],
        rows=rows,
        details={},
        script="engines",
    )


def write_cost(batch: int, steps: int) -> None:
    """The second table."""
    rows, details = [], {}
    hand_peak = max(peak for _, peak in on_ranks(memory, 2, "by hand", batch))
    for engine in ENGINES:
        pairs = on_ranks(paired_steps, 2, engine, batch, steps)[0]
        held, peak = (max(values) for values in zip(*on_ranks(memory, 2, engine, batch), strict=True))
        ratio = statistics.median(ours / hand for ours, hand in pairs)
        print(f"{engine}: {ratio:.3f} times by hand, {held:.0f} MB held, {peak:.0f} MB at the peak", flush=True)
        details[engine] = {"pairs": pairs, "state_mb": held, "peak_mb": peak}
        share = held / details["ddp"]["state_mb"]
        seconds = statistics.median(ours for ours, _ in pairs)
        rows.append(
            [
                engine,
                f"{seconds:.2f}",
                f"{ratio:.3f}",
                f"{seconds / statistics.median(ours for ours, _ in details['ddp']['pairs']):.2f}",
                f"{held:,.0f} ({share:.2f})",
                f"{peak:,.0f} ({peak / hand_peak:.2f})",
            ]
        )
    one, two = (max(on_ranks(alone, ranks, batch, steps)) for ranks in (1, 2))
    rows.append(["weak scaling, 1 -> 2 ranks", f"{one:.2f} -> {two:.2f}", f"{one / two:.2f}", "", "", ""])
    write_results(
        "engines",
        title=f"A step of MAE, ViT-S/16 at 224 px with 4 decoder blocks, 2 ranks of one core, {batch} images each",
        header=[
            "engine",
            "seconds",
            "times the loop by hand (target <= 1.03)",
            "times ddp",
            "state per rank, MB (share of ddp's; fsdp, deepspeed 3: target <= 0.55)",
            "peak per rank, MB (share of plain DDP's)",
        ],
        rows=rows,
        details=details,
    )


if __name__ == "__main__":
    main()
