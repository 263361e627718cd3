"""What a request comes to with a model: every name looked up, every file found, nothing left open."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from t2v.companions import Companions
from t2v.errors import RequestError
from t2v.inputs import Inputs, inputs
from t2v.memory import MemoryPlan
from t2v.models import Model
from t2v.request import VideoRequest
from t2v.sampling import Sampler, find_sampler
from t2v.schedule import find_spacing
from t2v.video import check_film
from t2v.windows import StartNoise, Windows, find_noise, windows_of

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """One pass over a film; `then` is the plan of the next, which makes it larger."""

    request: VideoRequest
    model: Model
    beside: Companions
    sampler: Sampler
    sigmas: Tensor
    cfg_scale: float
    shape: tuple[int, int, int, int, int]  # of the latents, 1 c f h w
    fps: float
    extension: str
    inputs: Inputs
    windows: Windows
    noise: StartNoise
    memory: MemoryPlan = field(default_factory=MemoryPlan)
    stage: str = "denoise"
    then: "Plan | None" = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return given(self.request.width, "width"), given(self.request.height, "height")


def planned(request: VideoRequest, model: Model, beside: Companions, found: Inputs | None = None) -> Plan:
    """RequestError for what only registries, files and the model can tell, before any work is done.

    found: the inputs, where another pass over the film has looked for them already.
    """
    fps, factor = given(request.fps, "fps"), model.vae.factor
    plan = Plan(
        request=request,
        model=model,
        beside=beside,
        sampler=find_sampler(given(request.sampler, "sampler")),
        sigmas=find_spacing(given(request.spacing, "spacing"))(model.schedule, given(request.steps, "steps")),
        cfg_scale=given(request.cfg_scale, "cfg_scale"),
        shape=(1, model.unet.config.in_dim, given(request.frames, "frames"),
               given(request.height, "height") // factor, given(request.width, "width") // factor),
        fps=fps,
        extension=check_film(request.format, request.smooth_fps or fps, request.soundtrack).extension,
        inputs=Inputs(),
        windows=windows_of(request, model.defaults["frames"]),
        noise=find_noise(request.noise),
    )
    if request.smooth_fps and request.smooth_fps <= fps:
        raise RequestError("smooth_fps", f"must be more than the {fps:g} of the film, or 0 for none in between")
    if request.cfg_until <= request.cfg_from:
        raise RequestError("cfg_until", f"must be more than the {request.cfg_from:g} where guidance begins; "
                                        "a CFG scale of 1 is none at all")
    if request.reuse > 1 and request.jitter and plan.windows.several(plan.shape[2]):
        raise RequestError("reuse", "has nothing to use again where windows jitter; take 1, or no jitter")
    return replace(plan, inputs=inputs(request) if found is None else found)


def given(value: T | None, name: str) -> T:
    """The value of a setting that by now must have one."""
    if value is None:
        raise RequestError(name, "is not set, and the model has no default for it")
    return value
