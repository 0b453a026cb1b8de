"""The state of a stream, a few integers: whether the stream that a run has now goes on where another stood."""

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW

NOT_SAID = {"mixture": 0, "shuffle_window": SHUFFLE_WINDOW, "lanes": 1}
"""What holds where a state does not name it."""


def checked_start(identity: dict[str, int], state: dict[str, int] | None) -> int:
    """The position at which a stream begins: that of the state, which must be one of the same stream.

    Args:
        identity: what tells the stream from others.
        state: ``samples_consumed`` and the identity of the stream that it is of; None = none yet.

    Raises:
        UserError: the state is of another stream.
    """
    if state is None:
        return 0
    names = [*identity, *(name for name in NOT_SAID if name in state)]
    for name in sorted(names, key=lambda name: name != "mixture"):  # which says most
        was, value = (values.get(name, NOT_SAID.get(name)) for values in (state, identity))
        if was != value and name == "mixture":
            raise UserError(
                "loader state: the sources of data.shards, or their proportions, are not those that the run began with,"
                " and it keeps them; give them as they were, or begin another run from its encoder (start.weights)"
            )
        if was != value:
            raise UserError(
                f"loader state: {name} {was} where this run has {value}; resume with the shards, the ids, the seed, the"
                " tokenizer, the shuffle window and the lanes that the run began with"
            )
    return state["samples_consumed"]


def frame_of(lanes: int, state: dict[str, int] | None, otherwise: int) -> int:
    """The samples that are dealt to the lanes: those of the state, whatever the micro-batch is now.

    Args:
        lanes: of the stream.
        state: of an earlier loader of it, or None.
        otherwise: samples where no state names any.

    Raises:
        UserError: the lanes do not divide them.
    """
    frame = (state or {}).get("lane_frame", otherwise)
    check_lanes(lanes, frame)
    return frame


def check_lanes(lanes: int, frame: int) -> None:
    """Raises a UserError where the lanes do not divide the samples that are dealt to them."""
    if lanes < 1 or frame % lanes:
        nearest = max(divisor for divisor in range(1, max(1, min(lanes, frame)) + 1) if frame % divisor == 0)
        raise UserError(
            f"data.lanes {lanes}: must divide the micro-batch, {frame:,} over all ranks; for instance {nearest}"
        )
