"""The thread that computes: who has to wait, and what becomes of jobs."""

import concurrent.futures
import os

import pytest

from dnnlib.cli import UserError
from explorer import worker


def test_too_many_at_once_are_told_to_wait(monkeypatch):
    monkeypatch.setattr(worker, 'MAX_WAITING', 1)
    idle = worker.Worker()
    begin, end = (concurrent.futures.Future() for _ in range(2))

    def slow():
        begin.set_result(None)
        return end.result()
    running = idle.call(slow)
    begin.result()  # The queue is empty again.
    waiting = idle.call(lambda: 1)
    with pytest.raises(worker.Busy, match='busy'):
        idle.call(lambda: 2)
    waiting.cancel()
    end.set_result(7)
    assert running.result() == 7 and waiting.cancelled()
    idle.close()


def test_jobs_take_turns_with_calls_and_their_files_go_with_them(monkeypatch):
    monkeypatch.setattr(worker, 'MAX_RUNNING', 1)
    busy, order = worker.Worker(), []

    def parts(job):
        while not job.stop:
            order.append('job')
            yield
    job = worker.Job(10)
    busy.start(job, parts(job))
    while not order:
        pass
    busy.call(lambda: order.append('call')).result()
    with pytest.raises(worker.Busy, match='1 films and projections'):
        busy.start(worker.Job(1), parts(job))
    assert order[-1] == 'call' or 'job' in order[order.index('call'):]
    job.stop = True
    while job.state == 'running':
        pass
    assert job.state == 'stopped' and os.path.isdir(job.folder.name)
    assert busy.job(job.id) is job
    busy.close()
    assert not os.path.exists(job.folder.name)
    with pytest.raises(UserError, match='no longer there'):
        busy.job('other')


def test_a_job_that_nobody_asks_about_ends(monkeypatch):
    monkeypatch.setattr(worker, '_FORGOTTEN', 0.05)
    busy, job = worker.Worker(), worker.Job(10)

    def parts():
        while not job.stop:
            yield
    busy.start(job, parts())
    while job.state == 'running':
        pass
    assert job.state == 'stopped'
    busy.close()
