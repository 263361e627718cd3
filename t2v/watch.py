"""How whoever asked for a film follows its making, and stops it."""

from torch import Tensor


class Watch:
    """How a caller follows a generation and stops it.

    Setting `stopped` ends everything within one step or frame, with a film of what there is by then. Setting `skipped`
    gives up the item at hand and goes on with the next.
    """

    stopped = False
    skipped = False
    notes: tuple[str, ...] = ()  # on the film at hand: what had to be done differently, and why

    def begin(self, item: int, items: int) -> None:
        """Item number `item` of `items` is next; they count from 0."""

    def note(self, words: str) -> None:
        """Something about the film at hand had to be done differently."""
        if words not in self.notes:
            self.notes = (*self.notes, words)

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:
        """`done` of `total` parts of a stage are over; `x0` is the latest estimate of the latents, 1 c f h w.

        The stages of a film: encode, and read where it starts from pictures or films; denoise; where there is a second
        pass, enlarge, these again, and refine; decode.
        """
