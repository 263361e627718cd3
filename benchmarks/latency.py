"""How fast the API answers while films are made: `python -m benchmarks.latency URL [--beside /sdapi/v1/progress]`.

Keeps a server busy with films of the demo model, asks for the status of one of them again and again, by turns with a
route of the host, and prints the percentiles of both in milliseconds. `--waiting N` has N more callers wait for films
of their own meanwhile, as many as an app has threads and more.
"""

import argparse
import threading
import time
import urllib.request

from t2v.client import ApiError, Client

FILM = {"prompt": "a red circle moving right", "model": "demo", "frames": 16, "width": 128, "height": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--beside", default="", help="a route of the host to measure by turns")
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--waiting", type=int, default=0)
    args = parser.parse_args()
    client = Client(args.url, args.user, args.password)
    busy = client.submit(**FILM, steps=1000, seed=1)
    callers = [threading.Thread(target=waits, args=(client,), daemon=True) for _ in range(args.waiting)]
    for caller in callers:
        caller.start()
    while busy.refresh().status["stage"] != "denoise":
        time.sleep(0.05)
    paths = [f"/t2v/v1/jobs/{busy.id}", *([args.beside] if args.beside else [])]
    times: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(args.calls):
        for path in paths:
            times[path].append(timed(client, path))
        time.sleep(0.005)
        if busy.refresh().state != "running":
            busy = client.submit(**FILM, steps=1000, seed=1)
    for job in client.jobs():
        job.cancel()
    for path, found in times.items():
        print(path, "  ".join(f"p{part} {percentile(found, part):.1f} ms" for part in (50, 90, 99, 100)))


def waits(client: Client) -> None:
    """A caller who wants a film, and does not mind if there is none."""
    try:
        client.call("POST", "/t2v/v1/generate", {**FILM, "steps": 1, "frames": 1})
    except (ApiError, OSError):
        return


def timed(client: Client, path: str) -> float:
    """Milliseconds until a path has answered."""
    request = urllib.request.Request(client.url + path, headers=client.headers)
    since = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - since)


def percentile(values: list[float], part: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * part // 100)]


if __name__ == "__main__":
    main()
