"""Numbers over the frames of a film, as key frames: `0:(0), 8:(1)`."""

from t2v.errors import RequestError


def curve(text: str, frames: int, *, seed: int = 0, held: int | None = None, field: str = "picture_weights"
          ) -> list[float]:
    """The value of every frame of a film. `held`: how many frames `max_i_f` + 1 stands for, all unless told.

    RequestError, pointing at the place, where `text` makes no sense.
    """
    raise RequestError(field, f"{text} {frames} {seed} {held}")
