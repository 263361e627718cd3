from fake_events import NotedLock


class FIFOLock(NotedLock):
    def acquire(self, blocking=True):
        return super().acquire(blocking)

    def release(self):
        super().release()
