"""A plan for a person: tables at the terminal, and a picture of the scaling."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from eyespot.cluster.planning.planner import Plan
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.planning.memory import shard_ranks
from eyespot.pretrain.planning.meter import Number
from eyespot.pretrain.planning.speed import Scale, exchange_seconds


def print_plan(plan: Plan, console: Console) -> None:
    """All tables, the most asked first."""
    console.print(_summary(plan))
    for table in (_memory(plan), _batches(plan), _time(plan), _exchanges(plan), _scaling(plan)):
        console.print()
        console.print(table)
    console.print()
    console.print(Text("Assumptions", style="bold"))
    lines = Table.grid(padding=(0, 1))
    for line in assumptions(plan):
        lines.add_row("-", Text(line))
    console.print(lines)


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", no_wrap=bool(place))
    return table


def _gb(size: Number) -> str:
    return f"{size / 1e9:,.2f}" if size >= 1e7 else f"{size / 1e9:,.4f}"


def _duration(seconds: Number) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 600:
        return f"{seconds:.2f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _hours(hours: Number) -> str:
    """Not more digits than anybody can want."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _engine(plan: Plan) -> str:
    run = plan.run
    return {
        "ddp": "ddp",
        "fsdp": f"fsdp over {run.fsdp.shard_over}",
        "deepspeed": f"deepspeed, ZeRO-{run.deepspeed.stage}",
    }[run.engine]


def _summary(plan: Plan) -> Text:
    run, gpus = plan.run, plan.question.gpus
    sizes = plan.trace.sizes
    frozen = f", {sizes.frozen / 4e6:,.1f} million of teachers or frozen" if sizes.frozen >= 2e5 else ""
    text = Text()
    text.append(f"{plan.recipe}: {gpus} x {plan.card.name}, {_engine(plan)}\n", style="bold")
    text.append(f"{sizes.trainable / 4e6:,.1f} million trainable parameters{frozen}\n")
    parts = f" in {plan.accumulate} micro-batches of {plan.micro}" if plan.accumulate > 1 else ""
    text.append(
        f"batch {run.data.batch_size:,}: {plan.micro * plan.accumulate:,} {plan.trace.counted_as} per GPU{parts}"
    )
    if plan.accumulate > run.data.accumulate:
        text.append(f"; set --data.accumulate {plan.accumulate}, else it does not fit", style="yellow")
    speed = run.data.batch_size / plan.time.total
    text.append(f"\n{_duration(plan.time.total)} per step, {speed:,.0f} {plan.trace.counted_as}/s\n")
    text.append(
        f"{plural(run.steps, 'step')}: {_duration(plan.hours * 3600)}, {_hours(plan.hours * gpus)} GPU-hours",
        style="bold",
    )
    if plan.trace.measured_because:
        reason = plan.trace.measured_because
        text.append(
            f"\nmeasured on this CPU with a few images, without exchanges of the loss: {reason}", style="yellow"
        )
    return text


def _memory(plan: Plan) -> Table:
    table = _table("Memory per GPU", "what", "GB")
    for name, size in plan.memory.items():
        if size:
            table.add_row(f"{name}, {plan.micro} at once" if name == "activations" else name, _gb(size))
    total, fleet = sum(plan.memory.values()), plan.question.fleet(plan.question.gpus)
    table.add_section()
    table.add_row("needed", _gb(total))
    table.add_row(
        f"usable: {fleet.memory_gb:g} GB less {fleet.spare_share:.0%} to spare and {fleet.fixed_gb:g} fixed",
        _gb(fleet.usable_bytes),
    )
    return table


def _batches(plan: Plan) -> Table:
    table = _table(
        "Activations by micro-batch, GB", f"{plan.trace.counted_as} per GPU at once", "plain", "checkpointed"
    )
    for row in plan.activations:
        checkpointed = "-" if row.checkpointed is None else _gb(max(0.0, row.checkpointed))
        table.add_row(f"{row.images:,}", _gb(max(0.0, row.plain)), checkpointed)
    table.add_section()
    for name, times in (("most that fit per GPU", 1), ("most that fit over all GPUs", plan.question.gpus)):
        cells = [
            f"{plan.largest[kind] * times:,}" if kind in plan.largest else "-" for kind in ("plain", "checkpointed")
        ]
        table.add_row(name, *cells)
    return table


def _time(plan: Plan) -> Table:
    time, step = plan.time, plan.step
    table = _table("One step on each GPU", "what", "ms", "TFLOP")
    first = plan.accumulate * step.first_pass.flops if plan.accumulate > 1 else 0.0
    again = " (embeds twice)" if first else ""
    table.add_row(f"forward{again}", f"{time.forward * 1e3:,.1f}", _tera(plan.accumulate * step.forward.flops + first))
    recomputed = " (recomputes the encoder)" if plan.run.encoder.checkpointing else ""
    backward = plan.accumulate * step.backward.flops
    table.add_row(f"backward{recomputed}", f"{time.backward * 1e3:,.1f}", _tera(backward))
    table.add_row("optimiser, teachers, queues", f"{time.update * 1e3:,.1f}", "")
    table.add_row("waiting for the network", f"{time.exposed * 1e3:,.1f}", "")
    table.add_section()
    table.add_row("step", f"{time.total * 1e3:,.1f}", _tera(plan.flops))
    peak = plan.card.tflops(plan.run.precision) * 1e12
    table.add_row("share of the GPU's peak", f"{plan.flops / time.total / peak:.0%}", "")
    return table


def _tera(flops: Number) -> str:
    return f"{flops / 1e12:,.3g}"


def _exchanges(plan: Plan) -> Table:
    table = _table("Network, per GPU and step (received; as much is sent)", "what", "MB", "ms", "hidden behind")
    question = plan.question
    for exchange in plan.exchanges:
        seconds = exchange_seconds(exchange, question.gpus, question.links(), question.efficiency)
        size = f"{exchange.received_bytes / 1e6:,.1f}"
        table.add_row(exchange.name, size, f"{seconds * 1e3:,.1f}", exchange.beside)
    if not plan.exchanges:
        table.add_row("nothing: one GPU", "0", "0", "-")
    return table


def _scaling(plan: Plan) -> Table:
    micro = plan.micro * plan.accumulate
    counted_as = plan.trace.counted_as
    title = f"Scaling: batch {plan.run.data.batch_size:,} as it is | {micro:,} {counted_as} per GPU, batch grows"
    table = _table(title, "GPUs", *("ms/step", f"{counted_as}/s", "efficiency") * 2)
    table.columns[0].justify = "right"
    strong = {row.gpus: row for row in plan.strong}
    for row in plan.weak:
        table.add_row(f"{row.gpus:,}", *_cells(strong.get(row.gpus), plan.strong), *_cells(row, plan.weak))
    return table


def _cells(row: Scale | None, rows: list[Scale]) -> tuple[str, str, str]:
    if row is None:
        return "-", "-", "-"
    return f"{row.seconds * 1e3:,.1f}", f"{row.images_per_second:,.0f}", f"{efficiency(row, rows):.0%}"


def efficiency(row: Scale, rows: list[Scale]) -> Number:
    """Images per second and GPU, as a share of those of the fewest GPUs."""
    return row.images_per_second / row.gpus / (rows[0].images_per_second / rows[0].gpus)


def assumptions(plan: Plan) -> list[str]:
    """Everything that was taken for granted, one line each."""
    question, card, share = plan.question, plan.card, plan.question.efficiency
    run = plan.run
    peak = card.tflops(run.precision)
    shards = shard_ranks(run, question.gpus, question.node_gpus)
    per_node = run.data.batch_size / plan.time.total / question.gpus * min(question.node_gpus, question.gpus)
    lines = [
        f"{card.name}: {peak:g} TFLOP/s in {run.precision}, {card.memory_gb_s:,g} GB/s of memory,"
        f" {card.memory_gb:g} GB ({card.source}); GB are 10^9 bytes",
        f"a kernel takes the longer of its arithmetic at {share.arithmetic:.0%} of the peak and its memory traffic at"
        f" {share.memory:.0%}; a pass takes at least {share.launch_us:g} us per kernel; blocks are not compiled",
        f"links: {question.intra_gb_s:g} GB/s per GPU and direction within a node of {question.node_gpus},"
        f" {question.inter_gb_s:g} between nodes; collectives reach {share.links:.0%} and take {share.hop_us:g} us for"
        f" each of log2(ranks) hops",
        "rings: all-reduce 2 (W-1)/W of the bytes per GPU, all-gather and reduce-scatter (W-1)/W; all but the first or"
        " last block's hide behind the pass they run beside",
        "parameters, gradients and optimiser state are fp32; "
        + (
            f"what {_engine(plan)} cuts up is cut over {plural(shards, 'GPU')}"
            if shards > 1
            else "each GPU holds them whole"
        ),
        f"memory: the most that is alive at once in torch, the loader's ready batches (up to"
        f" {run.data.ready_mb:,} MB), the images in its decoder, and {question.fixed_gb:g} GB for CUDA, NCCL, cuDNN and"
        f" nvJPEG",
        "not counted: the statistics of batch norm that cross the network (kilobytes per layer; but a wait at each),"
        " logs, pictures, checkpoints, restarts",
        f"the loader keeps up: {per_node:,.0f} {plan.trace.counted_as}/s per node"
        + _decoded(plan.trace.files, per_node),
        "the learning rate is the recipe's for its batch; a batch that grows with the GPUs needs another",
    ]
    return lines


def _decoded(files: int, samples_per_second: float) -> str:
    """Where a sample is more than one image."""
    return f", which are {files} decoded ones each, {files * samples_per_second:,.0f}/s" if files > 1 else ""


def write_plot(plan: Plan, path: Path) -> None:
    """Draws images per second over GPUs, and the line that perfect scaling would follow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    batch, per_gpu = plan.run.data.batch_size, plan.micro * plan.accumulate
    lines = ((plan.weak, f"{per_gpu:,} {plan.trace.counted_as} per GPU", "o-"), (plan.strong, f"batch {batch:,}", "s-"))
    for rows, label, style in lines:
        axes.plot([row.gpus for row in rows], [row.images_per_second for row in rows], style, label=label)
        if rows and (last := rows[-1]):
            note = f"{efficiency(last, rows):.0%}"
            place = (last.gpus, last.images_per_second)
            axes.annotate(note, place, xytext=(8, -3), textcoords="offset points", fontsize=9)
    first = plan.weak[0]
    ideal = [first.images_per_second / first.gpus * row.gpus for row in plan.weak]
    axes.plot([row.gpus for row in plan.weak], ideal, "--", color="black", linewidth=1, label="perfect", zorder=5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([row.gpus for row in plan.weak], [f"{row.gpus:,}" for row in plan.weak])
    axes.set_xlim(right=plan.weak[-1].gpus * 1.6)
    axes.set_xlabel(f"GPUs ({plan.card.name}, {plan.question.node_gpus} per node)")
    axes.set_ylabel(f"{plan.trace.counted_as} per second, expected")
    axes.set_title(f"{plan.recipe}, {_engine(plan)}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
