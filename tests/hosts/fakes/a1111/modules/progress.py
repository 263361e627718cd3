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


def progressapi(req):
    """How far the task is, from the state that everybody shares: parts that are over, and the steps of the one at hand.
    """
    state = shared.state
    over = 0.0
    if state.job_count > 0:
        over = state.job_no / state.job_count
        if state.sampling_steps > 0:
            over += state.sampling_step / state.sampling_steps / state.job_count
    return SimpleNamespace(
        active=req.id_task == current_task, queued=req.id_task in pending_tasks,
        completed=req.id_task in finished_tasks, progress=min(over, 1), textinfo=state.textinfo)
