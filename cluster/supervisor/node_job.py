"""What a job runs on each node: a supervisor of the node's ranks. Decision 0009 says why. It imports no torch."""

import os
from dataclasses import dataclass

from eyespot.cluster.processes import Place
from eyespot.cluster.slurm import node_names
from eyespot.cluster.supervisor.supervisor import Orders, Supervisor
from eyespot.data_pipeline.terminal import filter_output
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.redaction import mask_tracebacks


@dataclass(kw_only=True, slots=True)
class NodeJob(Orders):
    """One task of a job: what submitit pickles, and calls on each node."""

    def __call__(self) -> None:
        """Runs the ranks of this node, through restarts, until the job is over.

        Raises:
            SystemExit: the run is not done; the code is that of ``eyespot pretrain``, so that SLURM's state tells.
        """
        filter_output()
        mask_tracebacks()
        trusted_recipes.take(list(self.words))  # doctor's probes read the run, too
        code = Supervisor(self, here(self.processes)).run()
        if code:
            raise SystemExit(code)


def here(processes: int) -> Place:
    """The place that SLURM has given to this task."""
    env = os.environ
    array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    return Place(
        index=int(env["SLURM_NODEID"]),
        nodes=tuple(node_names(env["SLURM_JOB_NODELIST"])),
        processes=processes,
        job=f"{array}_{task}" if array and task else env["SLURM_JOB_ID"],
        requeues=int(env.get("SLURM_RESTART_COUNT", 0)),
    )
