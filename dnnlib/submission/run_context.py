"""The original's RunContext: time of a run, and how far it is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from dnnlib.progress import format_time
from dnnlib.submission.submit import SubmitConfig


class RunContext:
    """Measures the time of a run, and prints how far it is when that is reported.

    Args:
        submit_config: Settings of the run. They have no effect.
        config_module: Has no effect; the original had this argument.
    """

    _instance: RunContext | None = None

    def __init__(self, submit_config: SubmitConfig | None = None, config_module: Any = None):
        self.submit_config = submit_config
        self.run_start_time = self.last_update_time = time.time()
        self.last_update_interval = 0.0
        RunContext._instance = self

    @staticmethod
    def get() -> RunContext:
        """The context that was made last; a new one if there is none."""
        return RunContext._instance or RunContext()

    def __enter__(self) -> RunContext:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None,
                 tb: TracebackType | None) -> None:
        self.close()

    def update(self, loss: Any = 0, cur_epoch: Any = 0, max_epoch: Any = None) -> None:
        """Note the time. The arguments have no effect: training reports them itself."""
        now = time.time()
        self.last_update_interval, self.last_update_time = now - self.last_update_time, now

    def should_stop(self) -> bool:
        """False: runs are stopped by Ctrl-C."""
        return False

    def should_pause(self) -> bool:
        """False."""
        return False

    def get_time_since_start(self) -> float:
        """Seconds since the context was made."""
        return time.time() - self.run_start_time

    def get_time_since_last_update(self) -> float:
        """Seconds since the last `update`."""
        return time.time() - self.last_update_time

    def get_last_update_interval(self) -> float:
        """Seconds between the last two calls of `update`."""
        return self.last_update_interval

    def save(self, *args: Any) -> None:
        """Does nothing: the folder of the run has all that the original saved here."""

    def close(self) -> None:
        """Forget this context."""
        if RunContext._instance is self:
            RunContext._instance = None

    def __str__(self) -> str:
        return f'RunContext, {format_time(self.get_time_since_start())} since its start'
