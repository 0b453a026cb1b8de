"""Run: one typed value that says everything about an experiment, and how recipes make it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from annotated_types import Ge, Gt, Le, Lt

from eyespot.data_pipeline.augment.views import NO_FLAG, SAID_IF_SET
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.blocks.open_blocks import CACHE_GB
from eyespot.data_pipeline.loading.loader import READY_MB
from eyespot.data_pipeline.loading.nvjpeg import Decode, NvjpegConfig
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW
from eyespot.data_pipeline.patience import PATIENCE_SECONDS
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.stores.location import check_on_disk
from eyespot.pretrain.objective import Objective

if TYPE_CHECKING:
    pass

from dataclasses import field
from typing import Annotated, Literal, TypeVar

from eyespot.pretrain.distributed.arithmetic import Precision
from eyespot.pretrain.engine import DeepSpeedConfig, FSDPConfig, Settings
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.optim.optimizers import OptimConfig


@dataclass(kw_only=True, slots=True)
class StartConfig:
    """The encoder's first weights, where they are not drawn by the seed."""

    model: str = field(default="", metadata=SAID_IF_SET)
    """Encoder to go on with: a timm name (its published weights, or those of start.weights), a release, a run or one of
    its checkpoints, a folder that timm saved, models:/NAME@ALIAS or hf://ORG/NAME. It sets encoder.name, patch_size and
    small_stem, the image size where that is fixed, data.mean and data.std, but for what you say yourself."""
    weights: Path | None = None
    """File of an encoder's weights (safetensors, or a checkpoint of torch's, or a run's checkpoint); None = random
    ones, or those of start.model."""
    prefix: str = ""
    """What stands before the encoder's names in that file ("module.encoder_q."); empty = what is found, if one is."""
    sha256: str = ""
    """Of that file, which is refused if it has another; empty = not checked."""
    origin: str = ""
    """Where the weights come from, for the record."""
    freeze_steps: Annotated[int, Ge(0)] = field(default=0, metadata=SAID_IF_SET)
    """Steps at the start in which the encoder stays as it is, in every copy, and what is new learns alone."""
    lora_rank: Annotated[int, Ge(0)] = field(default=0, metadata=SAID_IF_SET)
    """The encoder's weights stay, and a step of this rank learns beside each linear layer of its blocks (LoRA); 0 = all
    of it learns."""
    guard: str = field(default="", metadata={**SAID_IF_SET, "names_data": True})
    """Labelled shards of what these weights know, on which --monitor-every measures drift; empty = the run's own."""

    def __post_init__(self) -> None:
        check_ranges(self, "start.")


C = TypeVar("C")
NAMES_DATA: Mapping[str, bool] = {"names_data": True}
"""Of a text that is a path, or the address of a store: records keep it whole, wherever a run began."""
Deviation = Annotated[float, Gt(0)]
Mean = Annotated[float, Ge(-1000), Le(1000)]


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where the samples come from and how many make a step."""

    shards: str | None = field(default=None, metadata=NAMES_DATA)
    """Shard folder (see eyespot shards pack), or a folder with train/ inside: a path, or the address of one in an
    object store, s3://bucket/in1k (gs, az, http, https, hf). Several are mixed: a:0.7,b:0.3, or a mix.toml."""
    batch_size: Annotated[int, Ge(1)] = 256
    """Images per optimiser step, over all ranks and micro-batches: the same on 1 or 64 processes."""
    ids: Path | None = None
    """Text file of sample ids, one a line: the run learns from these alone; None = from all."""
    labeled_ids: Path | None = None
    """Text file of sample ids, one a line: the run sees the labels of these alone; None = of all that have one."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Micro-batches per step: less memory, the same gradient."""
    normalize: Literal["imagenet", "dataset"] = "imagenet"
    """Whose per-channel mean and standard deviation: ImageNet's, or those in the shards' manifest. Images of bands
    (eyespot shards pack --bands) have those of their manifest either way."""
    mean: tuple[Mean, ...] | None = None
    """Per-channel mean to subtract, of values in 0..1, in place of those; for an encoder that was trained with it."""
    std: tuple[Deviation, ...] | None = None
    """Per-channel standard deviation to divide by; goes with the mean."""
    num_threads: Annotated[int, Ge(0), Le(1024)] = 0
    """Threads of the data pipeline per process; 0 = the cores this process may use, shared among its neighbours."""
    decode: Decode = "auto"
    """Who decodes the images of a run on a GPU: gpu = nvJPEG; auto = nvJPEG, and the CPU those batches that it refuses
    (refused_samples); cpu = the CPU, which also resizes: for a GPU, driver or MIG slice on which nvJPEG fails."""
    nvjpeg: NvjpegConfig = field(default_factory=NvjpegConfig)
    ready_mb: Annotated[int, Ge(1)] = READY_MB
    """Memory of each process, MB, for finished micro-batches that wait for the step: three at most, one at least."""
    max_bad_fraction: Annotated[float, Ge(0), Lt(1)] = 0.01
    """Share of samples that may be damaged before the run stops."""
    read_patience_seconds: Annotated[float, Ge(0)] = PATIENCE_SECONDS
    """For how long reads that fail are tried again, a file server's restart, before the ranks fail and are started
    again; at most four fifths of --rank-timeout-seconds, after which the other ranks give up."""
    cache_dir: Path | None = field(default=None, metadata=SAID_IF_SET)
    """Folder on a disk of each node's own, where its ranks share what they fetch of the shards: an object store's, or a
    network file system's. None = local shards are read in place, and of remote ones each rank holds its part in memory.
    It stays for the next start, and may serve many runs."""
    cache_gb: Annotated[float, Gt(0), Le(1e9)] = field(default=CACHE_GB, metadata=SAID_IF_SET)
    """What that folder may have, 10^9 bytes; what was not asked for the longest goes first. At least two shuffle
    windows of a node; where all shards fit, they are fetched once."""
    shuffle_window: Annotated[int, Ge(1)] = SHUFFLE_WINDOW
    """Samples that are shuffled together, in blocks of 256 that lie side by side in the tars. A wider window mixes tars
    that are sorted by class, and reads from more places at once."""
    lanes: Annotated[int, Ge(1)] = field(default=1, metadata=SAID_IF_SET)
    """Equal parts of a micro-batch whose samples come from tars of their own, each shuffled in its own window: nodes
    then read different parts of the data set, and tars that are sorted by class are mixed. A multiple of the nodes that
    divides the micro-batch; 1 = all of it comes from one window."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.")
        if self.cache_dir is not None:
            check_on_disk(self.cache_dir, "data.cache_dir", "what is fetched of a store is")
        if self.shards is not None:
            self.shards = str(self.shards)  # who writes recipes may give a path
        if len(self.mean or ()) != len(self.std or ()):
            raise UserError(f"data.std {self.std}: data.mean and data.std go together, and std must be above 0")


NOT_RECORDED: Mapping[str, bool] = {**SAID_IF_SET, **NO_FLAG, "not_recorded": True}
"""Of a field that says where a run comes from and is no setting: it has no flag, and run.json says it elsewhere."""


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything about one pretraining run."""

    objective: Objective.Config
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    start: StartConfig = field(default_factory=StartConfig)
    steps: Annotated[int, Ge(1)] = 1000
    """Optimiser steps of the whole run; the learning rate's schedule ends there."""
    stop_after: Annotated[int, Ge(1), "must be 1 or more; leave it out to run all steps"] | None = None
    """Stop, with a checkpoint, once this step is done; the schedule stays that of --steps."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the data order, augmentation, masks and initial weights."""
    run_dir: Path = Path("runs/run")
    """Folder of this run: metrics, checkpoints, logs, pictures, results."""
    resume: str = "never"
    """never = the run folder must be new; auto = go on in it, or start where it is empty; or the path of a checkpoint
    of another run, to branch off from its step."""
    engine: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """How the step runs on several processes: ddp = each holds everything; fsdp = parameters, gradients and optimiser
    state are cut over them; deepspeed = ZeRO, see --deepspeed.stage. A checkpoint moves between them."""
    fsdp: FSDPConfig = field(default_factory=FSDPConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    compile: bool = False
    """Compile the encoder's blocks, heads and contrastive losses: faster steps after a slow start."""
    cuda_graph: bool = False
    """Capture a step's two passes once, and launch them as one CUDA graph from then on: for small encoders, images or
    batches, whose step is shorter than the host takes to launch its kernels one by one (nvidia-smi shows a GPU that is
    not busy, and time_share/data is small). Long steps gain nothing. One process, engine ddp, one micro-batch, no
    compile; takes the memory of a step twice."""
    rank_timeout_seconds: Annotated[float, Ge(1), Le(999_999)] = 600.0
    """A process that is silent for longer makes the others stop."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one; one that torch cannot use stops the command. cpu = the CPU is meant."""
    precision: Precision = "bf16"
    """bf16 = autocast around the forward pass; parameters, optimiser and loss stay fp32. tf32 = a GPU rounds what it
    multiplies to TF32, in matrix products and convolutions; fp32 = in neither. On a CPU tf32 is fp32."""
    deterministic: bool = False
    """On a GPU: the same bits again, from the start and after a resume, on the same GPUs, software and number of
    processes. Slower; what torch cannot do so ends the run with a line. On a CPU bits repeat anyway."""
    log_every: Annotated[int, Ge(1)] = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: Annotated[int, Ge(1)] = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[int, Ge(2), "must be 2 or more, the newest may be damaged"] = 2
    """Newest checkpoints that are kept."""
    picture_every: Annotated[int, Ge(0)] = 1000
    """Steps between two pictures; 0 = none."""
    monitor_every: Annotated[int, Ge(0)] = 0
    """Steps between two looks at the encoder: similarities, effective rank, kNN and probe where there are labels; 0 =
    none."""
    stop_on_drift: bool = field(default=False, metadata=SAID_IF_SET)
    """End a run that began with given weights when its encoder falls below them by more than the interval: kNN or probe
    on labelled samples, every --monitor-every."""
    max_skipped_steps: Annotated[int, Ge(0)] = 0
    """Steps in a row whose loss or gradient is not finite that are skipped before the run stops."""
    track: bool = True
    """Bring metrics to MLflow: MLFLOW_TRACKING_URI, or a sqlite file beside the run folder."""
    experiment: str = "eyespot"
    """MLflow's experiment."""
    tensorboard: bool = field(default=False, metadata=SAID_IF_SET)
    """Write TensorBoard's event files, too: RUN/tensorboard. Needs the extra eyespot[tensorboard]."""
    wandb: str = field(default="", metadata=SAID_IF_SET)
    """Bring metrics to this project of W&B, too; WANDB_MODE=offline keeps them in RUN/wandb. Needs the extra
    eyespot[wandb]. Empty = no W&B."""
    recipe: str = field(default="", repr=False, compare=False, metadata=NOT_RECORDED)
    """What it was made by, where ``eyespot.recipe`` made it."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_on_disk(self.run_dir, "run_dir", "runs are")
        self.objective.check_batch(self.data.batch_size)


def optim_settings(run: Run) -> OptimConfig:
    """The optimiser's, in which ``start.freeze_steps`` are a stage of the head's."""
    return replace(run.optim, stages=(run.start.freeze_steps / run.steps,)) if run.start.freeze_steps else run.optim


def engine_settings(run: Run, world_size: int) -> Settings:
    """What the run's engine is told of it."""
    return Settings(
        accumulate=run.data.accumulate,
        micro_batch_size=run.data.batch_size // (run.data.accumulate * world_size),
        clip=run.optim.clip,
        precision=run.precision,
        deterministic=run.deterministic,
        compile=run.compile,
        cuda_graph=run.cuda_graph,
        fsdp=run.fsdp,
        deepspeed=run.deepspeed,
    )
