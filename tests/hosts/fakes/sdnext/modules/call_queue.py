from fake_events import NotedLock

queue_lock = NotedLock()


def get_lock():
    return queue_lock
