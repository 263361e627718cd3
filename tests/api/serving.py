"""A server in a process of its own, to be killed: python serving.py FOLDER PORT [USER PASSWORD]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402
import uvicorn  # noqa: E402

from tests.api.conftest import Api  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    users = dict([sys.argv[3:5]]) if len(sys.argv) > 3 else {}
    uvicorn.run(Api(Path(sys.argv[1]), users).app, port=int(sys.argv[2]), log_level="warning")
