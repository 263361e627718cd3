"""The API over a real net: clients that go away, servers that are killed, and the client of the package."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

from t2v.client import ApiError, Client
from t2v.video import probe
from tests.api.conftest import LONG, TINY, Api, until

SERVING = Path(__file__).with_name("serving.py")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(client: Client) -> bool:
    try:
        return bool(client.get("version"))
    except ApiError:
        return True
    except OSError:
        return False


@pytest.fixture
def serve() -> Iterator[Callable[[Api], str]]:
    """Has an API answer at the URL that is returned."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(api: Api) -> str:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(api.app, port=port, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        url = f"http://127.0.0.1:{port}"
        until(lambda: server.started)
        return url

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def client(api: Api, serve: Callable[[Api], str]) -> Client:
    return Client(serve(api))


def test_the_client_makes_a_film_and_saves_it(client: Client, tmp_path: Path) -> None:
    (film,) = client.generate(prompt="a red circle", **TINY)
    path = film.save(tmp_path / "saved")
    assert probe(path).frames == 2
    assert (film.seed, path.name) == (3, film.name)
    assert "a red circle" in film.infotext
    assert client.job(client.jobs()[0].id).state == "done"


def test_the_client_follows_cancels_and_deletes(client: Client) -> None:
    job = client.submit(prompt="a red circle", **LONG)
    until(lambda: bool(job.refresh().status["preview"]))
    assert Image.open(io.BytesIO(job.preview())).format == "WEBP"
    parts = [status["progress"] for status in job.cancel().follow(0.05)]
    assert (job.state, parts[-1]) == ("interrupted", 1.0)
    job.delete()
    with pytest.raises(ApiError) as caught:
        job.refresh()
    assert caught.value.status == 404


def test_the_client_says_what_is_wrong(client: Client) -> None:
    with pytest.raises(ApiError, match="is steps meant") as caught:
        client.submit(prompt="x", stepps=3)
    assert caught.value.status == 422
    with pytest.raises(OSError, match="refused"):
        Client(f"http://127.0.0.1:{free_port()}", timeout=5).get("version")


def test_the_client_sends_files_and_names_itself(make_api: Callable[..., Api], serve: Callable[[Api], str],
                                                 tmp_path: Path) -> None:
    api = make_api(users={"anna": "ü:1"})
    url = serve(api)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    job = Client(url, "anna", "ü:1").submit(prompt="x", pictures=tmp_path / "a.png", **TINY).wait(0.05)
    assert job.status["request"]["pictures"] == "pictures-1"
    with pytest.raises(ApiError, match="Incorrect"):
        Client(url, "anna", "u:1").get("version")


@pytest.mark.parametrize(("key", "state"), [("", "interrupted"), ("Idempotency-Key: k\r\n", "done")])
def test_who_goes_away_leaves_no_work_behind_unless_it_has_a_key(
    api: Api, client: Client, key: str, state: str
) -> None:
    """With a key it may come back for the film."""
    steps = 60
    body = f"prompt=x&frames=2&width=16&height=16&steps={steps}&model=demo"
    port = int(client.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(f"POST /t2v/run?{body} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 0\r\n\r\n".encode())
        until(lambda: api.runner.running is not None)
    job = next(iter(api.runner.jobs.values()))
    until(lambda: job.over)
    assert job.state.value == state


def test_a_job_whose_events_nobody_reads_any_more_goes_on(client: Client) -> None:
    job = client.submit(prompt="x", **{**TINY, "steps": 60})
    port = int(client.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(f"GET {job.status['events']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"200" in caller.recv(1000)
    assert job.wait(0.05).state == "done"


def test_the_status_answers_at_once_while_films_are_made_and_many_wait(api: Api, client: Client) -> None:
    """More callers wait than an app has threads. The figures are in the benchmark; this is far above them."""
    long = client.submit(prompt="x", **LONG)
    port = int(client.url.rpartition(":")[2])
    callers = []
    for _ in range(45):
        caller = socket.create_connection(("127.0.0.1", port))
        caller.sendall(b"POST /t2v/v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"x\"}")
        callers.append(caller)
    until(lambda: len(api.runner.waiting) == 45)
    times = []
    for _ in range(40):
        since = time.monotonic()
        long.refresh()
        times.append(time.monotonic() - since)
    for caller in callers:
        caller.close()
    until(lambda: not api.runner.waiting)
    long.cancel()
    assert sorted(times)[len(times) // 2] < 0.5


def test_a_gigabyte_is_refused_before_it_is_sent(client: Client) -> None:
    port = int(client.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(b"POST /t2v/run HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                       b"Content-Length: 1000000000\r\n\r\n--b\r\n")
        caller.settimeout(10)
        assert caller.recv(100).startswith(b"HTTP/1.1 413")


def test_a_server_that_was_killed_knows_its_jobs(tmp_path: Path) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}")
    command = [sys.executable, str(SERVING), str(tmp_path), client.url.rpartition(":")[2]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment)
    try:
        until(lambda: answers(client), 120)
        done = client.submit(prompt="a red circle", **TINY).wait(0.05)
        running = client.submit(prompt="a red circle", **LONG)
        until(lambda: running.refresh().status["stage"] == "denoise")
        queued = client.submit(prompt="a red circle", **TINY)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        second = subprocess.Popen(command, env=environment)
        try:
            until(lambda: answers(client), 120)
            assert {job.id: job.state for job in client.jobs()} == {
                done.id: "done", running.id: "interrupted", queued.id: "interrupted"}
            assert "the server stopped" in running.refresh().status["error"]
            assert client.job(done.id).films[0].read()
            assert client.generate(prompt="a red circle", **TINY)
        finally:
            second.kill()
            second.wait(10)
    finally:
        first.kill()
        first.wait(10)
