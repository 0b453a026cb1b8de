"""``eyespot.loader`` and ``eyespot.objective``: the parts of a run, for a training loop of one's own."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch.utils.data import IterableDataset, get_worker_info

from eyespot.cluster.python_api.plain_errors import plain_errors, refuse_kind
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.devices import own_device
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import open_data
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.run_record import RunRecord


class SampleLoader(IterableDataset[Batch]):
    """The endless stream of a run's batches: an iterator, and an iterable dataset of torch's, with a state.

    A batch's views lie on the loader's device. ``DataLoader(loader, batch_size=None)``, and torchdata's
    ``StatefulDataLoader`` in the same way, take it as it is; it makes batches ahead in threads of its own, so without
    their worker processes.
    """

    def __init__(self, spec: LoaderSpec, rank: int, num_ranks: int, state: Mapping[str, int] | None) -> None:
        super().__init__()
        self._of = spec, rank, num_ranks
        self._loader = make_loader(spec, rank, num_ranks, None if state is None else dict(state))

    def __iter__(self) -> "SampleLoader":
        if get_worker_info() is not None:
            raise UserError("num_workers: the loader has threads of its own; set num_workers to 0")
        return self

    def __next__(self) -> Batch:
        return next(self._loader)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands behind the last batch; a few integers, the same on all ranks."""
        return self._loader.state_dict()

    @plain_errors
    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on behind the batch after which ``state`` was taken, with whatever batch size and number of ranks.

        Raises:
            UserError: it is of other shards, another seed or other samples.
        """
        refuse_kind("state", state, Mapping, "give what state_dict() returned")
        made = make_loader(*self._of, dict(state))
        self.close()
        self._loader = made

    def close(self) -> None:
        """Ends the threads; the garbage collector does so, too."""
        self._loader.close()


@plain_errors
def loader(
    source: Run | str | Path,
    *,
    views: ViewSpec | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    rank: int | None = None,
    num_ranks: int | None = None,
    device: str = "cpu",
    state: Mapping[str, int] | None = None,
) -> SampleLoader:
    """Batches of shards as training sees them, in a loop of one's own: shuffled, augmented, the same on every machine.

    Args:
        source: a Run, or the folder of one: its shards, views, seed and batch; or a shard folder.
        views: what to make of each sample: of a Run's method by default; ``eyespot.objective(run).views()`` has them.
        batch_size: samples of one batch over all ranks; by default the run's micro-batch, of shards 256.
        seed: of the order and of all that is drawn; by default the run's, of shards 0.
        rank: which of the processes this one is; by default as torchrun says.
        num_ranks: how many there are; each gets its equal part of the same batches.
        device: where the views are made: "cpu", "cuda" or "auto".
        state: of an earlier loader's ``state_dict()``: goes on behind it.

    Raises:
        UserError: the shards, the views, the batch or the state is wrong.
        Outage: the file system does not answer.
    """
    refuse_kind("source", source, (Run, str, Path), "give a run of eyespot.recipe, a run folder or shards")
    refuse_kind("views", views, (ViewSpec, type(None)), "give what eyespot.objective(run).views() returns")
    for name, number in (("batch_size", batch_size), ("seed", seed), ("rank", rank), ("num_ranks", num_ranks)):
        refuse_kind(name, number, (int, type(None)), "give a whole number")
    refuse_kind("state", state, (Mapping, type(None)), "give what state_dict() returned")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r}: choose auto, cpu or cuda")
    count = int(os.environ.get("WORLD_SIZE", 1)) if num_ranks is None else num_ranks
    place = int(os.environ.get("RANK", 0)) if rank is None else rank
    if not 0 <= place < count:
        raise UserError(f"rank {place}: there are {count} ranks; it lies in 0..{count - 1}")
    world = World(rank=place, size=count, device=own_device(device, int(os.environ.get("LOCAL_RANK", 0))))
    frame = None
    if not isinstance(source, Run) and RunRecord.path(Path(source)).is_file():
        frame = RunRecord.read(RunRecord.path(Path(source))).lane_frame
        source = load_run(Path(source))[1]
    if isinstance(source, Run):
        spec = _of_run(source, views, batch_size, world, frame)
    elif views is None:
        raise UserError(f"views: of shards ({source}) alone nobody knows them; give views, or a run")
    else:
        shards = find_shards(str(source))
        spec = LoaderSpec(shards=shards, views=views, batch_size=batch_size or 256, device=str(world.device))
    return SampleLoader(spec if seed is None else replace(spec, seed=seed), place, count, state)


def _of_run(run: Run, views: ViewSpec | None, batch_size: int | None, world: World, frame: int | None) -> LoaderSpec:
    """Of a run, whose lanes stay what they were whatever the batch is here."""
    data = open_data(run, world)
    if batch_size is not None:
        run = replace(run, data=replace(run.data, batch_size=batch_size, accumulate=1))
    data = replace(data, run=run, lane_frame=frame or data.lane_frame)
    return data.loader_spec(fresh_objective(run).views() if views is None else views)


@plain_errors
def objective(run: Run) -> Objective:
    """A run's method as a plain module: encoder, heads, teachers and the loss, freshly drawn from torch's generator.

    ``objective(batch)["loss"]`` is the loss of one batch; ``objective.after_step(done)`` comes after each step of the
    optimiser, with the share of the training that is done, 0..1; ``objective.encoder`` is what is trained to be kept.

    Raises:
        UserError: the encoder or the method cannot be made as the run says.
    """
    refuse_kind("run", run, Run, "make it with eyespot.recipe(NAME)")
    if run.data.shards is None:
        return fresh_objective(run)
    world = World(rank=0, size=1, device=own_device("cpu", 0))
    return fresh_objective(run, open_data(run, world).sample_ids)
