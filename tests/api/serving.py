"""A server in a process of its own, to be killed or attacked: python serving.py FOLDER PORT [quick]

A quick one makes films of one grey frame, whatever is asked for, and fetches nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import uvicorn

from t2v import jobs
from t2v.api.about import Downloads
from t2v.generate import Film
from t2v.hosts import Host
from t2v.request import VideoRequest
from t2v.video import FORMATS, next_path, write_film
from tests.api.conftest import Api


def grey(request: VideoRequest, _model: Any, host: Host, *_: Any) -> Iterator[Film]:
    """A film in no time."""
    for item in request.items()[:3]:
        path = next_path(host.outputs, "", item.seed, FORMATS[item.format].extension)
        yield Film(write_film([np.full((16, 16, 3), 128, np.uint8)], path, 8), item, "grey", 0.0, False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "quick" in sys.argv:
        jobs.generate = grey  # type: ignore[attr-defined,assignment]
        Downloads.begin = lambda *_: None  # type: ignore[assignment,method-assign]
    uvicorn.run(Api(Path(sys.argv[1])).app, port=int(sys.argv[2]), log_level="warning")
