"""The executor `ray`: each item is one task on a Ray cluster, the one at RAY_ADDRESS or one that is started here for the build.

Stands behind the same seam as processes of this machine (curate/executor.py). All machines of a cluster need this environment, and
have to see the sources and the root under the same names: a shared file system, or URLs. Decision: tasks are not retried by Ray, so
that a killed worker ends the build with the same word everywhere; running it again is the retry, and finished work is found. After
a fault or Ctrl-C, items on their way end with the connection. They are not cancelled one by one: in Ray 2.60, to cancel a task that
is just ending kills the process that asks (ray-project/ray pull request 54798 is of the same family).

Cost: some seconds to start a cluster, once a build and only where there is something to do; 2 ms an item.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from curate.executor import DIED, ITEMS_PER_WORKER, Run, Shown, WorkerDied, in_flight, local
from curate.recipe import DomainError

T = TypeVar("T")
_CONNECT_S = 10.0


@contextlib.contextmanager
def ray_cluster(workers: int, address: str | None = None) -> Iterator[Run]:
    """Lend a `run` on the cluster at an address (HOST:PORT or `auto`; else RAY_ADDRESS), with all of its CPUs, or where
    there is none on a cluster of this machine with so many CPUs.

    Connects or starts when the first item comes, and ends with the context what it started; in between, what is printed on
    stdout goes to stderr. Raises DomainError where Ray is not installed or nothing answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise DomainError(
            '--executor ray needs Ray, which is not installed; install it: pip install "gapless[ray]", or use --executor local'
        )
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check(address)
    with contextlib.ExitStack() as stack:
        connect = functools.cache(lambda: stack.enter_context(_connected(address, workers)))
        yield Shown(functools.partial(_each, connect), nearby=local(workers))


def _check(address: str) -> None:
    """Refuse an address where nothing listens, which Ray would try for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port) if port.isdecimal() else 0), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise DomainError(_unusable(address, error)) from None


def _unusable(address: str, error: Exception) -> str:
    return (
        f"RAY_ADDRESS {address!r} is no cluster that can be used ({error}); it takes HOST:PORT of a running one, or auto. "
        "Start one with ray start --head, or unset RAY_ADDRESS to start one for this build"
    )


@contextlib.contextmanager
def _connected(address: str, workers: int) -> Iterator[Any]:
    """Lend the module `ray`, connected. A connection that was there before is used and left."""
    with _environment(_own_settings() if address == "local" else {}):
        import ray  # on use: it takes some of its settings from the environment when it is imported

        if is_ours := not ray.is_initialized():
            _connect(ray, address, workers)
    try:
        # Ray prints what happens to its machines on stdout, where results belong.
        with contextlib.redirect_stdout(sys.stderr):
            yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str, workers: int) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        ray.init(address, num_cpus=workers, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise DomainError(_unusable(address, error)) from error


def _own_settings() -> dict[str, str]:
    """Give the settings of a cluster of this machine: it reports to nobody, listens on the loopback alone, and to us alone.

    The second is named after the systems where Ray does so by default. Without a token of ours, Ray would leave one in the home folder.
    """
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if "RAY_AUTH_MODE" not in os.environ:
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    return settings


@functools.cache
def _token() -> str:
    """Make the token of this process: Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _each(connect: Callable[[], Any], items: Sequence[T], fn: Callable[[T], object]) -> Iterator[int]:
    ray = connect()
    task = ray.remote(num_cpus=1, max_retries=0)(_call)
    shared = ray.put(fn)
    yield from in_flight(
        items,
        lambda item: task.remote(shared, item),
        wait=functools.partial(_ended, ray),
        # Asked for again and again, because a cluster may grow while it works.
        limit=lambda: ITEMS_PER_WORKER * int(ray.cluster_resources().get("CPU", 0)),
    )


def _ended(ray: Any, pending: Collection[Any]) -> Collection[Any]:
    done, _ = ray.wait(list(pending), num_returns=1)
    errors = ray.exceptions
    try:
        ray.get(done)
    except errors.RayTaskError as error:
        raise error.cause from error
    except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.LocalRayletDiedError):
        raise WorkerDied(DIED) from None
    return list(done)


def _call(fn: Callable[[T], object], item: T) -> None:
    fn(item)
