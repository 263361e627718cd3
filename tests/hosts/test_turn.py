"""A job's turn in a web UI: what happens in which order, and that everything is as it was, whatever went wrong."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from t2v import jobs
from t2v.jobs import Job, Runner, State
from tests.hosts.house import HOST, MANAGERS, House
from tests.hosts.orders import made, ordered, until

Arrange = Callable[..., None]
RESTORES = HOST == "a1111"  # the others bring back by themselves what they need, when they need it
END = ["finish", "end", "unlock"]


@pytest.fixture(autouse=True)
def as_much_as_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What jobs need: then all hosts make room by all they can."""
    monkeypatch.setattr(jobs, "need_of", lambda *_: None)


@pytest.fixture
def watched(runner: Runner, house: House, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """The runner, with its own doings among the events of the host."""
    def note(step: Callable[..., None]) -> None:
        def noted(*args: object) -> None:
            house.events.happen(step.__name__)
            step(*args)

        monkeypatch.setattr(runner, step.__name__, noted)

    note(runner.make)
    note(runner.park)
    return runner


def left_behind(house: House) -> list[str]:
    """What a job that is over has left in the host."""
    state, progress = house.state, house.modules.progress
    buttons = ("interrupted", "skipped", "stopping_generation", "paused")
    flags = [name for name in buttons if getattr(state, name, False)]
    return [*flags, *(["lock"] if house.modules.call_queue.queue_lock.locked() else []), *progress.pending_tasks,
            *filter(None, [progress.current_task, state.job]), *["jobs"] * state.job_count]


def test_everything_happens_in_its_order(watched: Runner, house: House) -> None:
    house.load("first", "second")
    made(watched)
    evicted = [event for event in house.seen if event.startswith("evict")]
    assert sorted(evicted) == ["evict first", "evict second"]
    restored = ["restore second", "restore first"] if RESTORES else []
    assert house.seen == ["queue", "lock", "begin", "start", *evicted, "make", "park", *restored, *END]
    assert left_behind(house) == []


def test_films_are_offered_to_the_browser(watched: Runner, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.shared, "demo", SimpleNamespace(temp_file_sets=[set()]))
    film = made(watched).films[0].path
    watched.host.offer(film)  # as the tab does when it shows one
    assert house.shared.demo.temp_file_sets == [{str(film)}]


# ---- the host's models ----


def test_the_models_are_back_where_they_were(runner: Runner, house: House, at_tick: Arrange) -> None:
    models = house.load("first", "second")
    during: set[str] = set()
    at_tick(lambda job, stage, done: during.update(model.device.type for model in models))  # noqa: ARG005
    made(runner)
    if HOST != "sdnext":  # which drops them, and loads them again when it needs them
        assert during == {"cpu"}
    assert [model.device.type for model in models] == (["cuda"] * 2 if RESTORES else [*during] * 2)


@pytest.mark.only("a1111")
def test_a_model_that_the_user_has_sent_away_stays_away(runner: Runner, house: House) -> None:
    (model,) = house.load("first", device="cpu")
    made(runner)
    assert not [event for event in house.seen if event.startswith(("evict", "restore"))]
    assert model.device.type == "cpu"


@pytest.mark.only("a1111")
def test_a_model_that_comes_piece_by_piece_makes_room_too(runner: Runner, house: House) -> None:
    house.load("first", device="cpu", lowvram=True)
    made(runner)
    assert [event for event in house.seen if event.startswith(("evict", "restore"))] == [
        "evict first", "restore first"]


@pytest.mark.only(*MANAGERS)
@pytest.mark.parametrize(("need", "evicted"), [
    (2**30, []), (3 * 2**30, ["evict second"]), (5 * 2**30, ["evict second", "evict first"]),
    (None, ["evict second", "evict first"])])
def test_no_more_is_evicted_than_is_needed(
    runner: Runner, house: House, monkeypatch: pytest.MonkeyPatch, need: int | None, evicted: list[str]
) -> None:
    monkeypatch.setattr(jobs, "need_of", lambda *_: need)
    house.load("first", "second")
    made(runner)
    assert [event for event in house.seen if event.startswith("evict")] == evicted


def test_nothing_is_loaded_that_was_not(runner: Runner, house: House) -> None:
    made(runner)
    assert house.seen == ["queue", "lock", "begin", "start", *END]


# ---- the host's buttons ----


def at_first_step(action: Callable[[], object]) -> Callable[[Job, str, int], None]:
    return lambda job, stage, done: action() and None if (stage, done, job.item) == ("denoise", 1, 0) else None


def test_the_hosts_interrupt_ends_the_job(runner: Runner, house: House, at_tick: Arrange) -> None:
    at_tick(at_first_step(lambda: house.state.interrupt()))
    job = made(runner, batch_count=2)
    assert (job.state, len(job.films)) == (State.INTERRUPTED, 1)
    assert job.films[0].interrupted
    assert left_behind(house) == []


def test_the_hosts_skip_gives_up_one_film(runner: Runner, house: House, at_tick: Arrange) -> None:
    at_tick(at_first_step(lambda: house.state.skip()))
    job = made(runner, batch_count=3)
    assert job.state is State.DONE
    assert [film.request.seed for film in job.films] == [8, 9]
    assert left_behind(house) == []


@pytest.mark.only("a1111", *MANAGERS)
def test_asked_to_stop_after_this_one_it_finishes_the_film_at_hand(
    runner: Runner, house: House, at_tick: Arrange
) -> None:
    at_tick(at_first_step(lambda: house.state.stop_generating()))
    job = made(runner, batch_count=3)
    assert (job.state, len(job.films)) == (State.INTERRUPTED, 1)
    assert not job.films[0].interrupted
    assert left_behind(house) == []


def test_our_own_interrupt_does_not_reach_the_hosts_next_job(
    runner: Runner, house: House, at_tick: Arrange
) -> None:
    at_tick(at_first_step(lambda: runner.interrupt(runner.running)))
    assert made(runner).state is State.INTERRUPTED
    assert left_behind(house) == []


def test_what_was_asked_of_an_earlier_job_is_not_asked_of_ours(runner: Runner, house: House) -> None:
    for button in ("interrupt", "skip", "stop_generating"):
        getattr(house.state, button, lambda: None)()
    job = made(runner, batch_count=2)
    assert (job.state, len(job.films)) == (State.DONE, 2)


@pytest.mark.only("sdnext")
@pytest.mark.parametrize("then", ["pause", "interrupt"])
def test_paused_it_waits(runner: Runner, house: House, at_tick: Arrange, then: str) -> None:
    at_tick(at_first_step(lambda: house.state.pause()))
    job = ordered(runner)
    until(lambda: house.state.paused)
    until(lambda: job.step == 1)
    threading.Event().wait(0.3)
    assert (job.stage, job.step, house.state.sampling_step) == ("denoise", 1, 1)
    getattr(house.state, then)()
    until(lambda: runner.worker is None)
    assert job.state is (State.DONE if then == "pause" else State.INTERRUPTED)
    assert left_behind(house) == []


# ---- what the host shows ----


def test_progress_is_shown_by_the_hosts_own_means(runner: Runner, house: House, at_tick: Arrange) -> None:
    shown: list[float] = []

    def look(job: Job, stage: str, done: int) -> None:
        page = house.progress(job.id)
        assert (page.active, page.queued, page.completed) == (True, False, False)
        assert page.textinfo == job.text
        assert (house.state.job, house.state.job_count, house.state.job_no) == ("Text2Video", 2, job.item)
        if stage == "denoise":
            assert (house.state.sampling_step, house.state.sampling_steps) == (done, 3)
        assert house.state.current_latent is None  # the host would decode it with a network of its own
        shown.append(page.progress)

    at_tick(after=look)
    job = made(runner, batch_count=2)
    assert job.state is State.DONE
    assert min(shown) == 0 < max(shown) <= 1
    page = house.progress(job.id)
    assert (page.active, page.queued, page.completed) == (False, False, True)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_picture_that_emerges_is_shown_where_the_host_shows_such(
    runner: Runner, house: House, enabled: bool
) -> None:
    house.option(preview=True)
    house.shared.opts.data["live_previews_enable"] = enabled
    made(runner)
    assert house.events.seen.count("show a picture") == (3 if enabled else 0)
    if enabled:
        assert house.state.current_image.size[0] > 0


def test_what_others_do_to_the_state_is_put_right_at_the_next_tick(
    runner: Runner, house: House, at_tick: Arrange
) -> None:
    def others(job: Job, stage: str, done: int) -> None:  # noqa: ARG001
        """The end of a job in another tab, as it may reach us late."""
        house.state.job, house.state.job_count, house.state.job_no = "", 0, 0
        house.state.sampling_steps = house.state.sampling_step = 0
        house.state.textinfo = None

    def look(job: Job, stage: str, done: int) -> None:  # noqa: ARG001
        assert 0 <= house.progress(job.id).progress <= 1
        assert (house.state.job, house.state.textinfo) == ("Text2Video", job.text)
        assert house.state.job_count > 0
        assert house.state.sampling_steps > 0  # the host's API divides by both

    at_tick(others, look)
    job = made(runner, batch_count=2)
    assert (job.state, job.error) == (State.DONE, "")


# ---- waiting ----


def test_it_waits_for_what_the_host_is_doing(runner: Runner, house: House) -> None:
    with house.modules.call_queue.queue_lock:
        job = ordered(runner)
        threading.Event().wait(0.2)
        assert job.state is State.QUEUED
        assert house.progress(job.id).queued
        assert house.seen == ["lock", "queue"]
    until(lambda: runner.worker is None)
    assert job.state is State.DONE


def test_cancelled_while_it_waits_it_never_begins(runner: Runner, house: House) -> None:
    with house.modules.call_queue.queue_lock:
        job, other = ordered(runner), ordered(runner)
        runner.interrupt(job)
        runner.interrupt(other)
        page = house.progress(job.id)
        assert (job.state, page.queued, page.completed) == (State.INTERRUPTED, False, True)
    until(lambda: runner.worker is None)
    assert "begin" not in house.seen
    assert left_behind(house) == []


def test_waiting_jobs_stand_in_the_hosts_list(runner: Runner, house: House, at_tick: Arrange) -> None:
    pending: list[list[str]] = []
    at_tick(after=lambda job, stage, done: pending.append(list(house.modules.progress.pending_tasks)))  # noqa: ARG005
    with house.modules.call_queue.queue_lock:
        queued = [ordered(runner, steps=1, frames=1) for _ in range(3)]
    until(lambda: all(job.over for job in queued))
    ids = [job.id for job in queued]
    assert all(job.id.startswith("task(") and job.id.endswith(")") for job in queued)
    assert [pending[0], pending[-1]] == [ids[1:], []]


# ---- what goes wrong ----


def test_an_error_of_ours_leaves_nothing_behind(watched: Runner, house: House, at_tick: Arrange) -> None:
    def fail() -> None:
        raise ValueError("boom")

    house.load("first")
    at_tick(at_first_step(fail))
    assert made(watched).state is State.FAILED
    restored = ["restore first"] if RESTORES else []
    assert house.seen == [
        "queue", "lock", "begin", "start", "evict first", "make", "park", *restored, *END]
    assert left_behind(house) == []


@pytest.mark.parametrize("event", ["begin", "start", "evict second"])
def test_what_the_host_cannot_do_fails_the_job_and_no_other(runner: Runner, house: House, event: str) -> None:
    models = house.load("first", "second")
    house.events.broken.add(event)
    job = made(runner)
    assert job.state is State.FAILED
    assert f"the host cannot {event}" in job.error
    assert left_behind(house) == []
    if RESTORES:
        assert {model.device.type for model in models} == {"cuda"}  # what had gone already is back
    assert ("end" in house.seen) == (event != "begin")
    house.events.broken.clear()
    assert made(runner).state is State.DONE
    assert left_behind(house) == []


@pytest.mark.parametrize("event", ["restore first", "finish", "end"])
def test_what_goes_wrong_afterwards_keeps_nobody_from_the_rest(
    runner: Runner, house: House, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    if event.startswith("restore") and not RESTORES:
        return
    house.load("first", "second")
    house.events.broken.add(event)
    job = made(runner)
    assert (job.state, len(job.films)) == (State.DONE, 1)
    assert f"the host cannot {event}" in caplog.text
    assert [event for event in house.seen if event in END] == END
    assert not house.modules.call_queue.queue_lock.locked()
    house.events.broken.clear()
    assert made(runner).state is State.DONE
    assert left_behind(house) == []


def test_a_job_that_fails_before_its_turn_no_longer_waits(
    runner: Runner, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:  # noqa: ARG001
        raise ValueError("boom")

    monkeypatch.setattr(jobs, "need_of", fail)
    job = made(runner)
    assert job.state is State.FAILED
    assert not house.progress(job.id).queued
    assert left_behind(house) == []
