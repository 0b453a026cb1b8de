"""Layers: the linear probe of `linear` on every block's features; which block counts is chosen on held-out train.

What predicts pixels may know the classes best in its middle, for its last blocks see to the pixels again (Chen et al.
2020, "Generative pretraining from pixels", figure 2). Each block's features are those after the encoder's final norm,
as timm hands them out; of an encoder made of stages that shrink the image, a stage is a block.
"""

from eyespot.eval.protocols import linear
from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.tables import block_metric

NUM_BLOCKS = 1000
"""All: more than any encoder has."""


def candidates(task: Task) -> list[Candidate]:
    """One probe per block and kind of features, the last block first; what the encoder itself pools is no block's."""
    kinds = {kind: int(kind.partition("-")[2] or 1) for kind in task.train if kind != "pool"}
    num_blocks = max(kinds.values())
    found: list[Candidate] = []
    for kind, from_last in kinds.items():
        probe, name, block = linear.probe(task, kind), kind.partition("-")[0], num_blocks + 1 - from_last
        if num_blocks == 1:  # raw pixels have none
            probe.metric = f"layers/{kind}"
        else:
            probe.metric = block_metric(block, name)
            probe.settings |= {"features": name, "block": f"{block} of {num_blocks}"}
        found.append(probe)
    return found
