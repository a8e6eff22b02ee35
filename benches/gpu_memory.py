"""Memory of the first GPU as the driver sees it: the same for every program, its pools and its context included."""
import subprocess
import threading

QUERY = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]


def used_bytes():
    found = subprocess.run(QUERY, capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0]) << 20


class Watch:
    """The most memory in use while it is open, beyond what was in use before; `samples` keeps what it saw."""

    def __enter__(self):
        self.before = used_bytes()
        self.samples = [0]
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self):
        while not self.ended.wait(0.2):
            self.samples.append(used_bytes() - self.before)

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    @property
    def peak(self):
        return max(self.samples)
