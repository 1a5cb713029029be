//! The Python objects that the reactor calls, each looked up once.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Weak;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use rsgun_core::log::access;
use socket2::Socket;

use crate::asgi::awaitable;
use crate::asgi::cycle::Cycle;
use crate::asgi::scope::ScopeMaker;
use crate::glue;
use crate::rsgi::scope::Scope;
use crate::worker::callbacks::Callbacks;

/// First version of Python with eager tasks.
const EAGER_SINCE: (u8, u8) = (3, 12);

/// Everything that is called in Python, and the event loop.
pub(crate) struct Bridge {
    event_loop: Py<PyAny>,
    call_soon: Py<PyAny>,
    create_future: Py<PyAny>,
    tasks: Tasks,
    /// `run(app, scope, cycle)` of serve.py, possibly with hooks around it.
    run: Py<PyAny>,
    app: Py<PyAny>,
    pub(super) scopes: Scopes,
    /// Makes the error of a `send()` whose client is gone.
    gone: Py<PyAny>,
    serve_module: Py<PyAny>,
    /// `describe(task)` of stacks.py.
    describe_task: Py<PyAny>,
    /// Applications can ask for more time than `--request-timeout`.
    extends_timeouts: bool,
    /// The awaitable that is done.
    pub(crate) done: Py<PyAny>,
    pub(crate) turn: Py<PyAny>,
    pub(crate) answer_bell: Py<PyAny>,
    pub(crate) flush: Py<PyAny>,
    pub(crate) refuse: Py<PyAny>,
    pub(crate) refuse_retired: Py<PyAny>,
    pub(crate) drain_deadline: Py<PyAny>,
    pub(crate) end_streams: Py<PyAny>,
    pub(crate) stop_now: Py<PyAny>,
    pub(crate) expire: Py<PyAny>,
    pub(crate) beat: Py<PyAny>,
    accept: Py<PyAny>,
    look_again: Py<PyAny>,
    readers: RefCell<Vec<RawFd>>,
}

/// What applications learn of a request.
pub(crate) enum Scopes {
    Asgi(ScopeMaker),
    Rsgi,
}

/// How tasks are made.
enum Tasks {
    /// `asyncio.Task(coroutine, loop=..., eager_start=True)`: the first step runs at
    /// once, and a request that needs no other never meets the event loop.
    Eager {
        class: Py<PyAny>,
        arguments: Py<PyDict>,
    },
    /// `loop.create_task(coroutine)`: older Pythons, a task factory of the user, and
    /// nested event loops.
    Loop { create_task: Py<PyAny> },
}

/// What a bridge is made of.
pub(crate) struct Ends<'py> {
    pub(crate) event_loop: Bound<'py, PyAny>,
    /// `run(app, scope, cycle)` of serve.py, possibly with hooks around it.
    pub(crate) run: Py<PyAny>,
    pub(crate) app: Py<PyAny>,
    pub(crate) serve_module: Bound<'py, PyAny>,
    /// What the event loop calls.
    pub(crate) callbacks: Bound<'py, Callbacks>,
    /// stacks.py.
    pub(crate) stacks: Bound<'py, PyAny>,
    /// Applications can ask for more time than `--request-timeout`.
    pub(crate) extends_timeouts: bool,
    pub(crate) scopes: Scopes,
    /// Makes the error of a `send()` whose client is gone, from a text.
    pub(crate) gone: Py<PyAny>,
}

impl Bridge {
    pub(crate) fn new(py: Python<'_>, ends: Ends<'_>) -> PyResult<Self> {
        let Ends {
            event_loop,
            run,
            app,
            serve_module,
            callbacks,
            stacks,
            extends_timeouts,
            scopes,
            gone,
        } = ends;
        Ok(Self {
            call_soon: event_loop.getattr("call_soon")?.unbind(),
            create_future: event_loop.getattr("create_future")?.unbind(),
            tasks: Tasks::new(py, &event_loop)?,
            run,
            app,
            scopes,
            gone,
            serve_module: serve_module.unbind(),
            done: awaitable::done(py)?,
            turn: callbacks.getattr("turn")?.unbind(),
            answer_bell: callbacks.getattr("answer_bell")?.unbind(),
            flush: callbacks.getattr("flush")?.unbind(),
            refuse: callbacks.getattr("refuse")?.unbind(),
            refuse_retired: callbacks.getattr("refuse_retired")?.unbind(),
            drain_deadline: callbacks.getattr("drain_deadline")?.unbind(),
            stop_now: callbacks.getattr("stop_now")?.unbind(),
            expire: callbacks.getattr("expire")?.unbind(),
            end_streams: callbacks.getattr("end_streams")?.unbind(),
            describe_task: stacks.getattr("describe")?.unbind(),
            extends_timeouts,
            beat: callbacks.getattr("beat")?.unbind(),
            accept: callbacks.getattr("accept")?.unbind(),
            look_again: callbacks.getattr("look_again")?.unbind(),
            event_loop: event_loop.unbind(),
            readers: RefCell::new(Vec::new()),
        })
    }

    /// Calls the application in a task of its own, which is returned. `cycle` has what the
    /// application is to be called with, and `fail` and `finish` for the end.
    pub(crate) fn start(
        &self,
        scope: Bound<'_, PyAny>,
        cycle: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let py = scope.py();
        let coroutine = self.run.bind(py).call1((&self.app, scope, cycle))?;
        let task = match &self.tasks {
            Tasks::Eager { class, arguments } => class
                .bind(py)
                .call((coroutine,), Some(arguments.bind(py)))?,
            Tasks::Loop { create_task } => create_task.bind(py).call1((coroutine,))?,
        };
        Ok(task.unbind())
    }

    /// Lets the application ask for more time, if requests have a time-out: adds the
    /// extension `rsgun.timeout` to the scope.
    pub(crate) fn offer_extension(
        &self,
        py: Python<'_>,
        scope: &Bound<'_, PyDict>,
        cycle: &Bound<'_, Cycle>,
    ) -> PyResult<()> {
        if !self.extends_timeouts {
            return Ok(());
        }
        let extension = PyDict::new(py);
        let extend = cycle.getattr(pyo3::intern!(py, "extend"))?;
        extension.set_item(pyo3::intern!(py, "extend"), extend)?;
        if let Some(extensions) = scope.get_item(pyo3::intern!(py, "extensions"))? {
            extensions.set_item(pyo3::intern!(py, "rsgun.timeout"), extension)?;
        }
        Ok(())
    }

    // === the event loop ===

    /// Calls `callback` when the descriptor can be read.
    pub(crate) fn add_reader(
        &self,
        py: Python<'_>,
        fd: BorrowedFd<'_>,
        callback: &Py<PyAny>,
    ) -> PyResult<()> {
        let number = fd.as_raw_fd();
        self.event_loop
            .call_method1(py, "add_reader", (number, callback))?;
        self.readers.borrow_mut().push(number);
        Ok(())
    }

    /// Calls the accept callback with `index` when the listener can be read.
    pub(crate) fn add_accept(
        &self,
        py: Python<'_>,
        listener: &Weak<Socket>,
        index: usize,
    ) -> PyResult<()> {
        if let Some(number) = number_of(listener) {
            self.event_loop
                .call_method1(py, "add_reader", (number, &self.accept, index))?;
        }
        Ok(())
    }

    /// Watches a listener no more.
    pub(crate) fn remove_accept(&self, py: Python<'_>, listener: &Weak<Socket>) {
        if let Some(number) = number_of(listener) {
            self.remove_reader(py, number);
        }
    }

    /// Watches none of the descriptors of [`Self::add_reader`] any more.
    pub(crate) fn remove_readers(&self, py: Python<'_>) {
        let readers = std::mem::take(&mut *self.readers.borrow_mut());
        for number in readers {
            self.remove_reader(py, number);
        }
    }

    fn remove_reader(&self, py: Python<'_>, number: RawFd) {
        self.ignore(
            py,
            self.event_loop.call_method1(py, "remove_reader", (number,)),
        );
    }

    /// Calls `callback` in the next iteration of the event loop.
    pub(crate) fn call_soon(&self, py: Python<'_>, callback: &Py<PyAny>) {
        self.ignore(py, self.call_soon.call1(py, (callback,)));
    }

    /// Calls `callback` after some seconds.
    pub(crate) fn call_later(&self, py: Python<'_>, seconds: f64, callback: &Py<PyAny>) {
        self.ignore(
            py,
            self.event_loop
                .call_method1(py, "call_later", (seconds, callback)),
        );
    }

    /// Polls a listener again after some seconds.
    pub(crate) fn resume_later(&self, py: Python<'_>, seconds: f64, index: usize) {
        let arguments = (seconds, &self.look_again, index);
        self.ignore(
            py,
            self.event_loop.call_method1(py, "call_later", arguments),
        );
    }

    /// A new future.
    pub(crate) fn future(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.create_future.call0(py)
    }

    /// Resolves a future with `None`, unless it is done or cancelled.
    pub(crate) fn resolve(&self, py: Python<'_>, future: &Py<PyAny>) {
        let resolved = (|| {
            if !future
                .call_method0(py, pyo3::intern!(py, "done"))?
                .is_truthy(py)?
            {
                future.call_method1(py, pyo3::intern!(py, "set_result"), (py.None(),))?;
            }
            Ok(py.None())
        })();
        self.ignore(py, resolved);
    }

    /// Logs what a call that should not fail has raised; a closed event loop at the
    /// end of a worker is the usual case.
    #[expect(clippy::unused_self, reason = "reads as part of the bridge")]
    pub(crate) fn ignore(&self, py: Python<'_>, result: PyResult<Py<PyAny>>) {
        if let Err(error) = result {
            tracing::debug!("a call of the event loop failed: {}", error.value(py));
        }
    }

    // === errors ===

    /// Whether an error comes from a client that has left.
    pub(crate) fn is_disconnect(&self, error: &Bound<'_, PyAny>) -> bool {
        glue::is_disconnect(&self.serve_module, error)
    }

    /// Logs what the application has raised for the request with this scope.
    pub(crate) fn report(&self, error: &Bound<'_, PyAny>, scope: &Bound<'_, PyAny>) {
        let request = match &self.scopes {
            Scopes::Asgi(scopes) => scopes.request(scope),
            Scopes::Rsgi => scope.cast::<Scope>().ok().map(|it| it.get().request()),
        };
        let request = request.map_or_else(String::new, |it| format!(", {}", access::name(&it)));
        let traceback = glue::describe(&self.serve_module, error);
        tracing::error!("exception in the application{request}\n{traceback}");
    }

    /// The stack of a task, for the log.
    pub(crate) fn describe_task(&self, py: Python<'_>, task: &Py<PyAny>) -> String {
        self.describe_task
            .call1(py, (task,))
            .and_then(|text| text.extract(py))
            .unwrap_or_else(|problem: PyErr| format!("(no stack: {problem})"))
    }

    /// The error of `send()` when the client is gone.
    pub(crate) fn disconnected_error(&self, py: Python<'_>) -> PyErr {
        match self
            .gone
            .call1(py, ("the client has closed the connection",))
        {
            Ok(error) => PyErr::from_value(error.into_bound(py)),
            Err(error) => error,
        }
    }
}

/// The number of a listener, unless this process has closed it.
fn number_of(listener: &Weak<Socket>) -> Option<RawFd> {
    listener.upgrade().map(|socket| socket.as_raw_fd())
}

impl Tasks {
    fn new(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let has_factory = !event_loop.call_method0("get_task_factory")?.is_none();
        let version = py.version_info();
        // With nest_asyncio an application may run the event loop from inside. In an eager
        // task it would do so within the callback that began it, and the loop could not
        // call that again.
        let is_nested = event_loop.hasattr("_nest_patched")?;
        if has_factory || is_nested || (version.major, version.minor) < EAGER_SINCE {
            return Ok(Self::Loop {
                create_task: event_loop.getattr("create_task")?.unbind(),
            });
        }
        let arguments = PyDict::new(py);
        arguments.set_item("loop", event_loop)?;
        arguments.set_item("eager_start", true)?;
        let class = py.import("asyncio")?.getattr("Task")?;
        Ok(Self::Eager {
            class: class.unbind(),
            arguments: arguments.unbind(),
        })
    }
}
