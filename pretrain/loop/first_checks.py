"""What can be said against a run before anything of it is on disk: by what was asked for, and by this machine."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import torch
from timm.layers.patch_embed import PatchEmbed

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.bands.band_views import RGB
from eyespot.data_pipeline.loading.loader import check_decode, check_enough, check_views
from eyespot.data_pipeline.loading.members.sound_views import check_sounds
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.sample_files import check_files
from eyespot.data_pipeline.order.stream_state import check_lanes
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.weight_files import check_file
from eyespot.pretrain.config import Run, engine_settings, optim_settings
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.distributed.rendezvous import restarted
from eyespot.pretrain.engine import check_engine
from eyespot.pretrain.loop.initial_weights import check_first_weights, fresh_objective
from eyespot.pretrain.loop.run_data import (
    Opened,
    check_bands,
    check_colours,
    check_dealt,
    check_which_labels,
    open_shards,
    patience_seconds,
)
from eyespot.pretrain.networks.adapters.lora import adapt
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.learning_encoder import learning_encoder
from eyespot.pretrain.optim.stages import check_stages
from eyespot.pretrain.run_record import RunRecord


def before_folder(run: Run, world: World, shards: Opened) -> Opened:
    """Refuses a new run that could not begin, so that it leaves no folder behind; one that goes on has its folder.

    Args:
        run: what was asked for.
        world: this process; the first, which alone makes the folder, alone looks.
        shards: the run's, where they are open already.

    Returns:
        The shards, opened by now where this process has looked at them.

    Raises:
        UserError: a setting cannot be had on this machine, with these ranks, or together with another; or there are no
            such shards, first weights or checkpoint to branch off from.
        Outage: the file system does not give them.
    """
    if world.rank != 0 or restarted() or RunRecord.path(run.run_dir).exists():
        return shards
    check_decode(run.data.decode, str(world.device))
    check_dealt(run.data, world.size)
    shards, objective = check_beginning(run, shards, patience_seconds(run, world))
    if objective is not None:
        check_sounds(objective.views(), run.data.batch_size // run.data.accumulate // world.size)
        check_engine(run.engine, objective, world, engine_settings(run, world.size), run.optim.name)
    return shards


def check_beginning(run: Run, shards: Opened, seconds: float) -> tuple[ShardFolder, Objective | None]:
    """Refuses a new run that could begin on no machine that sees these files.

    The objective is made on torch's meta device, in a fraction of a second and no memory; first weights are read whole.
    What only the contents of the data tell is found out later: which labels there are, say.

    Args:
        run: what was asked for.
        shards: the run's, where they are open already.
        seconds: how long shards that are away for the moment are waited for.

    Returns:
        The shards; the objective without its numbers, None where it cannot be made so.

    Raises:
        UserError: a setting cannot be had, alone or together with another; or there are no such shards, first weights
            or checkpoint to branch off from, or they do not fit.
        Outage: the file system does not give them.
    """
    check_lanes(run.data.lanes, run.data.batch_size // run.data.accumulate)
    branches = run.resume not in ("never", "auto")
    _check_start(run, branches=branches)
    if branches:
        checkpoint.read_meta(Path(run.resume))
    elif run.start.weights is not None:
        check_file(run.start.weights)
    if shards is None or not shards.is_named(run.data.shards):
        shards = open_shards(run.data, patience_seconds=seconds)
    if run.data.ids is None:
        check_enough(run.data.batch_size // run.data.accumulate, shards.manifest.num_samples, shards)
    if run.encoder.channels != RGB:  # a method of red, green and blue alone cannot be made for others
        alike = objective_of(replace(run, encoder=replace(run.encoder, channels=RGB)))
        if alike is not None:
            check_bands(run, alike, shards)
    objective = objective_of(run)
    if objective is not None:
        _check_objective(run, objective, shards)
        if not branches:
            check_first_weights(objective, run)
        if run.start.lora_rank:
            adapt(learning_encoder(objective), run.start.lora_rank)
    return shards, objective


def _check_objective(run: Run, objective: Objective, shards: ShardFolder) -> None:
    """What the method asks of the data and of other settings."""
    check_which_labels(run.data, run.objective, type(objective).__name__)
    check_bands(run, objective, shards)
    check_colours(objective.views(), run.data)
    check_views(objective.views())
    check_sizes(objective)
    check_files(objective.views(), shards, shards.manifest.num_samples)
    if stages := optim_settings(run).stages:
        check_stages(objective, stages, run.optim.stage_blocks)


def guard_shards(guard: str, *, hashes: bool = False) -> ShardFolder:
    """What drift is measured on besides the run's own samples.

    Raises:
        UserError: there are no such shards.
    """
    try:
        return find_shards(guard, hashes=hashes)
    except UserError as error:
        raise UserError(f"start.guard: {error}") from error


def _check_start(run: Run, *, branches: bool) -> None:
    """Raises a UserError where there are no weights to spare or to be watched, or not in this way."""
    start = run.start
    if not (run.monitor_every and (start.weights or start.model)):
        lacks = "--start.model NAME (or --start.weights)" if run.monitor_every else "--monitor-every N"
        if run.stop_on_drift:
            raise UserError(f"stop_on_drift True: nothing measures it; add {lacks}, or leave it out")
        if start.guard:
            raise UserError(f"start.guard {start.guard}: nobody looks at it; add {lacks}, or leave it out")
    elif start.guard:
        guard_shards(start.guard)
    for name, value in (("freeze_steps", start.freeze_steps), ("lora_rank", start.lora_rank)):
        if value and not (branches or start.model or start.weights):
            raise UserError(f"start.{name} {value}: there are no weights to keep; add --start.model NAME")
    for name, value in (("prefix", start.prefix), ("sha256", start.sha256)):
        if value and not (branches or start.weights):
            raise UserError(f"start.{name} {value}: there is no file that it is of; add --start.weights FILE")
    if start.freeze_steps and (run.optim.stages or start.freeze_steps >= run.steps):
        why = "optim.stages says so, too" if run.optim.stages else f"the run has {run.steps} steps"
        raise UserError(f"start.freeze_steps {start.freeze_steps}: {why}; leave it out, or lower it")
    if start.lora_rank and run.engine == "deepspeed" and run.deepspeed.stage == 3:
        raise UserError(
            f"start.lora_rank {start.lora_rank}: ZeRO-3 cuts weights anywhere; use --deepspeed.stage 2 or --engine fsdp"
        )


def check_sizes(objective: Objective) -> None:
    """Whether whole views go through the encoder, where it is bound to one size.

    Raises:
        UserError: one is of another size.
    """
    patches = getattr(objective.encoder, "patch_embed", None)
    if objective.cuts_views or not isinstance(patches, PatchEmbed) or not patches.strict_img_size:
        return
    own = patches.img_size[0] if isinstance(patches.img_size, tuple) else 0
    config = getattr(objective, "config", None)
    for field in fields(config) if is_dataclass(config) else ():
        view = getattr(config, field.name)
        if own and isinstance(view, RandomView) and view.size not in (0, own):
            raise UserError(
                f"objective.{field.name}.size {view.size}: the encoder sees images of {own} pixels only; leave it out,"
                f" or set encoder.image_size to {view.size}, too"
            )


def objective_of(run: Run) -> Objective | None:
    """Without its numbers; None where that goes wrong in a way that the start itself should tell."""
    try:
        with torch.device("meta"):
            return fresh_objective(run)
    except Exception:  # some are built in earnest only, and a refusal may be of the meta device
        try:
            return fresh_objective(run)
        except UserError:
            raise
        except Exception:
            return None
