"""Compiles kernels for GPUs that are not here."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eyespot.data_pipeline.augment.view_kernels import EXACT

COLORS = {f"{name}{channel}": "fp32" for name in ("offset", "factor") for channel in range(3)}
FLOATS = dict.fromkeys(("weights", "amounts", "noise", "kept", "given", "found"), "*fp32")
TYPES = {"pixels": "*u8", "area": "i32", "size": "i32", "num_noise": "i32", **FLOATS, **COLORS}


def compiled(kernel, capability: int, shape: dict[str, int]) -> str:
    """Its PTX, which has gone through the assembler, too."""
    types = {name: TYPES.get(name, "*bf16" if name == "out" else "*i32") for name in kernel.arg_names}
    types |= {name: "constexpr" for name in shape if name in types}
    constants = {name: value for name, value in shape.items() if name in types}
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(ASTSource(kernel, types, constants), target=target, options=EXACT)
    assert made.asm["cubin"] and made.metadata.shared <= 48 * 1024
    return made.asm["ptx"]
