"""Calls a server in every way that its OpenAPI document allows, and in many that it does not.

    python tests/api/attack.py [--python .venv-a1111/bin/python] [--examples 20] [--phases coverage,fuzzing]

The server runs in the Python that is named, with the packages that are there; schemathesis runs in this one. Films are
one grey frame, so that it is the API that is tried. Exit code 0: no answer was a 5xx, or other than the document says.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "unsupported_method")


def attack(python: str, examples: int, phases: str) -> int:
    """Exit code of schemathesis."""
    with socket.socket() as found, tempfile.TemporaryDirectory() as folder:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        server = subprocess.Popen([python, str(Path(__file__).with_name("serving.py")), folder, str(port), "quick"],
                                  env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}/openapi.json"
            await_answer(url)
            return subprocess.run(
                [str(Path(sys.executable).with_name("schemathesis")), "run", url, "--checks", ",".join(CHECKS),
                 "--phases", phases, "--max-examples", str(examples), "--seed", "1", "--no-color",
                 "--request-timeout", "300",
                 "--generation-database", "none"], check=False).returncode
        finally:
            server.kill()
            server.wait()


def await_answer(url: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urlopen(url, timeout=10).close()
            return
        except (URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--phases", default="coverage,fuzzing")
    args = parser.parse_args()
    sys.exit(attack(args.python, args.examples, args.phases))
