"""How the hooks of a gunicorn.conf.py are called, and what is noted when their moments come.

What a hook raises is logged, and stops neither the server nor a worker; SystemExit does
where gunicorn lets a hook decide whether the process is to start.
"""

import os
import traceback

from rsgun._arbiter import Server, Worker, here
from rsgun._conf import hooks as functions
from rsgun._loader import LoadError


def configure(native, settings, generation, pid, num_workers):
    """Makes the Server. `settings` are the values of Config."""
    here.server = Server(native, settings, generation, pid, num_workers)


def call(name, *arguments, may_exit=False):
    """Calls a hook, if the file has it. What it raises is logged, and goes no further.

    The SystemExit of one that `may_exit` is no accident, and is returned.
    """
    function = functions.get(name)
    if function is None:
        return None
    try:
        function(*arguments)
    except BaseException as error:
        if may_exit and isinstance(error, SystemExit):
            return error
        frames = error.__traceback__.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
        here.server.log.error("the hook %s has raised\n%s", name, text.rstrip())
    return None


def _words(decision):
    """Returns what a SystemExit says, for a message."""
    code = decision.code
    return f"sys.exit({'' if code is None else code})" if _has_code(decision) else str(code)


def _has_code(decision):
    return decision.code is None or isinstance(decision.code, int)


def before_fork(native, number, slot):
    """Notes that a worker is about to be forked."""
    here.server.worker_age = number
    for former in _workers_of(slot):
        # It leaves its place to the new one, and what else it has.
        former.alive = False
    here.workers[number] = Worker(native, number, slot)
    call("pre_fork", here.server, here.workers[number])


def _workers_of(slot):
    return [worker for worker in here.workers.values() if worker.slot == slot]


def forked(number, pid):
    """Notes that the worker exists."""
    here.workers[number].pid = pid
    here.server.WORKERS[pid] = here.workers[number]


def not_forked(number):
    """Notes that there is no such worker after all."""
    _forget(number)


def _forget(number):
    """Forgets a worker, and returns it if it was known."""
    worker = here.workers.pop(number, None)
    if worker is not None:
        here.server.WORKERS.pop(worker.pid, None)
        worker.alive = False
        # One that was to be replaced by it stays.
        for former in _workers_of(worker.slot)[-1:]:
            former.alive = True
    return worker


def after_fork(native, number, slot):
    """Notes that this process is the worker."""
    # One that was started by exec has not inherited it.
    worker = here.workers.get(number) or Worker(native, number, slot)
    worker.pid = os.getpid()
    here.worker = worker
    here.server.WORKERS[worker.pid] = worker
    _call_at_start("post_fork", here.server, worker)


def _call_at_start(name, *arguments):
    """Calls a hook of a worker that starts, and that it may end."""
    decision = call(name, *arguments, may_exit=True)
    if decision is not None:
        text = f"the hook {name} has ended the worker: {_words(decision)}"
        raise LoadError("Declined", text, None)


def died(native, number, pid):
    """Notes the end of a worker.

    Another fork server may have forked it. `pid` is None if the master has never heard
    of it.
    """
    dead = _forget(number)
    if dead is None and pid is not None:
        dead = Worker(native, number, None)
        dead.pid = pid
        dead.alive = False
    if dead is not None:
        call("child_exit", here.server, dead)


def workers_changed(new, old):
    """Notes that there are to be more workers, or fewer."""
    here.server.num_workers = new
    call("nworkers_changed", here.server, new, old)


def moment(name):
    """Calls a hook that has only the server as an argument."""
    call(name, here.server)


def starting():
    """Calls on_starting. Returns an exit code and the reason if that ends the start."""
    decision = call("on_starting", here.server, may_exit=True)
    if decision is None:
        return None
    code = (decision.code or 0) & 0xFF if _has_code(decision) else 1
    return code, f"the hook on_starting has ended the start: {_words(decision)}"


def application():
    """Returns the application, which is imported if it was not yet."""
    return here.server.app.wsgi()


def loaded(app):
    """Notes that this worker has its application; returns what it is to serve."""
    here.worker.wsgi = app
    here.worker.booted = True
    _call_at_start("post_worker_init", here.worker)
    return here.worker.wsgi


def interrupted():
    """Notes that this worker is told to end quickly."""
    if here.worker.alive:
        here.worker.alive = False
        call("worker_int", here.worker)


def aborted():
    """Notes that this worker is about to be killed."""
    here.worker.alive = False
    here.worker.aborted = True
    call("worker_abort", here.worker)
    leaving()


def leaving():
    """Notes that this worker is about to end."""
    here.worker.alive = False
    call("worker_exit", here.server, here.worker)
