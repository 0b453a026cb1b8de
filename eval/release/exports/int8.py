"""The encoder in 8-bit integers, as ONNX with QDQ nodes: any runtime that reads ONNX runs it, on a CPU too.

Weights of convolutions and matrix products are rounded by output channel, what they multiply by the range that it had
on images of training. All else (norms, softmax, residual sums) stays float32: rounding that too costs accuracy and
hardly saves a byte. Weights take 7 of 8 bits, for processors without VNNI add up products in 16, which overflow
otherwise: what was measured on one machine then holds on others.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.errors import UserError

NUM_IMAGES = 256
"""Of training, by which ranges are measured."""
OPERATORS = ["Conv", "MatMul", "Gemm"]
_BATCH = 16


def quantize(model: Path, images: Float[Tensor, "n 3 h w"], path: Path) -> None:
    """Writes the 8-bit form of an ONNX encoder.

    Args:
        model: model.onnx.
        images: normalised; of training, for the ranges.
        path: of the file to write.

    Raises:
        UserError: onnxruntime cannot do it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands out the images batch by batch."""

        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.split(_BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """The next batch, None at the end."""
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    try:
        with tempfile.TemporaryDirectory() as room, _quiet():
            prepared = Path(room) / "prepared.onnx"
            quant_pre_process(str(model), str(prepared))
            quantize_static(
                str(prepared),
                str(path),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # the quantizer raises dozens of kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"--int8: onnxruntime cannot quantize this encoder ({reason}); leave --int8 out") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It prints and warns of what nobody can change."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
