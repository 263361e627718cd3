"""What holds for a job in every host, and in none."""

import gc
import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from t2v import jobs
from t2v.errors import T2VError
from t2v.hosts import Host
from t2v.jobs import Job, Runner, State
from t2v.video import probe, read_infotext
from tests.hosts.orders import made, ordered, until

Arrange = Callable[..., None]


def at(stage: str, done: int, action: Callable[[Job], object]) -> Callable[[Job, str, int], None]:
    """Does `action` at one tick."""
    return lambda job, now, count: action(job) and None if (now, count) == (stage, done) else None


def fail(error: BaseException) -> Callable[[Job], object]:
    def raising(job: Job) -> object:  # noqa: ARG001
        raise error

    return raising


@pytest.mark.parametrize("format", ["mp4", "gif"])
def test_a_job_makes_a_film(runner: Runner, host: Host, format: str) -> None:
    job = made(runner, format=format)
    assert (job.state, job.error, job.fraction) == (State.DONE, "", 1.0)
    (film,) = job.films
    assert film.path.is_file()
    assert film.path.is_relative_to(host.outputs)
    assert film.path.is_absolute()
    assert probe(film.path).frames == 2
    assert "a red circle moving right" in read_infotext(film.path)
    assert 0 < job.created <= job.started <= job.ended


def test_the_same_seed_makes_the_same_film(runner: Runner) -> None:
    first, second = made(runner), made(runner)
    assert first.films[0].path.read_bytes() == second.films[0].path.read_bytes()


def test_progress_only_grows(runner: Runner, at_tick: Arrange) -> None:
    seen: list[float] = []
    at_tick(after=lambda job, stage, done: seen.append(job.fraction))  # noqa: ARG005
    made(runner, batch_count=2)
    assert seen == sorted(seen)
    assert seen[0] == 0 < seen[-1] <= 1
    assert len(set(seen)) > 6


def test_an_error_fails_the_job_and_no_other(
    runner: Runner, at_tick: Arrange, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context():
        at_tick(at("denoise", 1, fail(ValueError("boom"))))
        job = made(runner)
        assert job.state is State.FAILED
        assert "boom" in job.error
        assert len(job.error.splitlines()) == 1
        assert not job.films
        assert "Traceback" in caplog.text
    at_tick()
    assert made(runner).state is State.DONE


@pytest.mark.parametrize(("stage", "error"), [
    ("encode", torch.cuda.OutOfMemoryError("CUDA out of memory.")),
    ("denoise", RuntimeError("MPS backend out of memory")), ("decode", MemoryError())])
def test_a_shortage_is_told_in_plain_words(
    runner: Runner, at_tick: Arrange, stage: str, error: BaseException
) -> None:
    at_tick(at(stage, 1, fail(error)))
    job = made(runner)
    assert job.state is State.FAILED
    assert job.error.startswith("not enough memory for 2 frames of 32x32 with the model demo")
    at_tick()
    assert made(runner).state is State.DONE


def test_a_job_without_a_model_is_refused(runner: Runner) -> None:
    with pytest.raises(T2VError, match="no such model"):
        ordered(runner, model="no such model")
    assert not runner.jobs


def test_interrupted_it_makes_a_film_of_what_there_is(runner: Runner, at_tick: Arrange) -> None:
    at_tick(at("denoise", 1, lambda job: runner.interrupt(job)))
    job = made(runner, batch_count=3)
    assert (job.state, job.error) == (State.INTERRUPTED, "")
    (film,) = job.films
    assert film.interrupted
    assert probe(film.path).frames == 2


def test_skipped_it_goes_on_with_the_next(runner: Runner, at_tick: Arrange) -> None:
    at_tick(at("denoise", 1, lambda job: job.item == 0 and runner.skip(job)))
    job = made(runner, batch_count=2)
    assert job.state is State.DONE
    assert [film.request.seed for film in job.films] == [8]


def test_jobs_are_made_in_order_one_at_a_time(runner: Runner, at_tick: Arrange) -> None:
    at_once: list[int] = []
    at_tick(after=lambda job, stage, done: at_once.append(  # noqa: ARG005
        sum(other.state is State.RUNNING for other in runner.jobs.values())))
    queued = [ordered(runner, seed=seed, steps=1, frames=1) for seed in range(5)]
    until(lambda: all(job.over for job in queued))
    assert {job.state for job in queued} == {State.DONE}
    assert sorted(queued, key=lambda job: job.started) == queued
    assert all(first.ended <= second.started for first, second in pairwise(queued))
    assert set(at_once) == {1}


def test_a_job_that_waits_can_be_cancelled(runner: Runner, at_tick: Arrange) -> None:
    go = threading.Event()
    at_tick(at("load", 0, lambda _: go.wait(60)))
    first, second, third = (ordered(runner) for _ in range(3))
    until(lambda: runner.running is first)
    assert runner.waiting == [second, third]
    runner.interrupt(second)
    assert (second.state, second.error) == (State.INTERRUPTED, "")
    go.set()
    until(lambda: runner.worker is None)
    assert [job.state for job in (first, second, third)] == [State.DONE, State.INTERRUPTED, State.DONE]
    assert (second.films, second.started) == ([], 0)


def test_no_more_than_so_many_may_wait(
    runner: Runner, at_tick: Arrange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "QUEUE", 2)
    go = threading.Event()
    at_tick(at("load", 0, lambda _: go.wait(60)))
    first = ordered(runner)
    until(lambda: runner.running is first)
    taken = [ordered(runner), ordered(runner)]
    with pytest.raises(T2VError, match="2 films are waiting already"):
        ordered(runner)
    go.set()
    until(lambda: runner.worker is None)
    assert {job.state for job in (first, *taken)} == {State.DONE}
    assert len(runner.jobs) == 3


def test_old_jobs_are_forgotten(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HISTORY", 2)
    done = [made(runner, steps=1, frames=1) for _ in range(4)]
    assert list(runner.jobs.values()) == done[-3:]


def test_the_thread_ends_when_there_is_nothing_to_do(runner: Runner) -> None:
    made(runner)
    until(lambda: not any(thread.name == "text2video" for thread in threading.enumerate()))
    assert made(runner).state is State.DONE


def test_close_ends_every_job_and_lets_go_of_the_model(runner: Runner, at_tick: Arrange) -> None:
    going = threading.Event()
    at_tick(at("denoise", 1, lambda _: going.set()))
    first, second = ordered(runner, steps=1000), ordered(runner)
    assert going.wait(60)
    runner.close()
    assert (first.state, second.state) == (State.INTERRUPTED, State.INTERRUPTED)
    assert first.films
    assert runner.shelf.model is None
    assert made(runner).state is State.DONE  # as after a reload of the page


@pytest.mark.only("standalone")
def test_a_hundred_jobs_leave_nothing_behind(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def footprint() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def many(times: int) -> None:
        for number in range(times):
            made(runner, frames=1, steps=1, cfg_scale=1, format="mp4" if number % 10 == 0 else "gif")

    many(10)
    before, memory = footprint(), resident()
    many(100)
    assert footprint() == before
    assert resident() - memory < 20 * 2**20
    assert not list(temporary.iterdir())
