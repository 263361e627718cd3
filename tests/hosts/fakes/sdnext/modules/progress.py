import time
from types import SimpleNamespace

from fake_events import happen

from modules import shared

current_task = None
pending_tasks = {}
finished_tasks = []
recorded_results = []
recorded_results_limit = 2


def add_task_to_queue(id_job):
    happen("queue")
    pending_tasks[id_job] = time.time()


def start_task(id_task):
    global current_task
    happen("start")
    current_task = id_task
    pending_tasks.pop(id_task, None)


def finish_task(id_task):
    global current_task
    happen("finish")
    if current_task == id_task:
        current_task = None
    finished_tasks.append(id_task)
    del finished_tasks[:-16]


def record_results(id_task, res):
    recorded_results.append((id_task, res))
    del recorded_results[:-recorded_results_limit]


def api_progress(req):
    """How far the task is: the steps, times the part of the batch that is over."""
    state = shared.state
    step, steps = max(state.sampling_step, 0), max(state.sampling_steps, 1)
    batch = state.batch_no / state.batch_count if state.batch_no > 0 and state.batch_count > 0 else 1
    return SimpleNamespace(
        active=req.id_task == current_task, queued=req.id_task in pending_tasks,
        completed=req.id_task in finished_tasks, progress=round(min(1, step / steps * batch), 2),
        textinfo=state.textinfo)
