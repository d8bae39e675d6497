"""Build several engines of one ONNX file at the same time and keep the fastest.

TensorRT chooses kernels by timing each of them a few times. Two builds of one file may differ by
a quarter in items a second. Which batch size is the fastest depends on the GPU and the model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from clipfleet.convert.tensorrt.builder_process import Progress, run_builder
from clipfleet.convert.tensorrt.options import BuildRequest, BuildResult
from clipfleet.errors import ClipfleetError, EngineError, GpuLostError

MIN_GAIN = 1.03  # times the items a second, for a larger batch

_POLL_S = 0.5  # the longest time until an interrupt is seen


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine that was built, at `plan`; `batch` is its largest batch."""

    plan: Path
    batch: int
    result: BuildResult


_Ended = Candidate | ClipfleetError | OSError  # how one build ended


def build_fastest(
    requests: Sequence[BuildRequest],
    *,
    count: int,
    progress: Progress,
    limit_s: float | None = None,
) -> BuildResult:
    """Build `count` engines of each request at the same time, and leave the best at their `plan`.

    The requests differ in their batch sizes only. The best engine is the fastest in items a
    second, but one with a larger batch must gain 3 %.

    The builds share no timing cache, which would make them choose the same kernels. Each has its
    own log: a number is added to the log's name. Builds may fail as long as one succeeds; the
    result has the number of engines that were built.

    Raises:
        ConversionError: No engine was built; the message is of the first failure.
        EngineError: No engine that was built runs on this GPU.
        OSError: No builder can be started.
    """
    first = requests[0]
    if len(requests) * count == 1:
        return run_builder(first, progress=progress, limit_s=limit_s)
    alone = [replace(each, timing_cache=None) for each in requests for _ in range(count)]
    built = _build_all(alone, progress, limit_s)
    best = _best(built, progress)
    if len(requests) > 1:
        progress(f"batch {best.batch} is kept")
    best.plan.replace(first.plan)
    for candidate in built:
        candidate.plan.unlink(missing_ok=True)
    return replace(best.result, candidates=len(built))


def _build_all(
    requests: Sequence[BuildRequest], progress: Progress, limit_s: float | None
) -> list[Candidate]:
    stop, count = threading.Event(), len(requests)

    def build(number: int, request: BuildRequest) -> _Ended:
        plan = Path(f"{request.plan}.{number}")
        log = f"{request.log}.{number}" if request.log else None

        def say(line: str) -> None:
            progress(f"{line} (candidate {number} of {count})")

        try:
            result = run_builder(
                replace(request, plan=str(plan), log=log),
                progress=say,
                limit_s=limit_s,
                stop=stop,
            )
        except (ClipfleetError, OSError) as error:
            say(f"not built: {error}")
            return error
        return Candidate(plan=plan, batch=request.largest, result=result)

    with ThreadPoolExecutor(count, thread_name_prefix="candidate") as pool:
        try:
            ended = _results([pool.submit(build, *each) for each in enumerate(requests, 1)])
        except BaseException:  # an interrupt: end the builders
            stop.set()
            raise
    built = [one for one in ended if isinstance(one, Candidate)]
    if not built:
        raise next(one for one in ended if not isinstance(one, Candidate))
    return built


def _results(builds: Sequence[Future[_Ended]]) -> list[_Ended]:
    """Return the results of all builds; raise the first exception.

    The wait is cut into short ones. An interrupt just before a wait, or in another thread, does
    not end the wait: Python handles it afterwards, and a build takes many minutes.
    """
    running = set(builds)
    while running:
        ended, running = wait(running, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
        for build in ended:
            build.result()
    return [build.result() for build in builds]


def _best(built: Sequence[Candidate], progress: Progress) -> Candidate:
    fastest: dict[int, tuple[float, Candidate]] = {}  # by batch
    failures: list[EngineError] = []
    for candidate in built:
        try:
            speed = _speed(candidate, progress)
        except GpuLostError:  # noqa: PERF203 - a few engines
            raise
        except EngineError as error:
            progress(f"{candidate.plan.name} does not run: {error}")
            failures.append(error)
        else:
            known = fastest.get(candidate.batch)
            if known is None or speed > known[0]:
                fastest[candidate.batch] = speed, candidate
    if not fastest:
        raise failures[0]
    items_s, best = fastest[min(fastest)]
    for batch in sorted(fastest):
        speed, candidate = fastest[batch]
        if speed >= items_s * MIN_GAIN:
            items_s, best = speed, candidate
    return best


def _speed(candidate: Candidate, progress: Progress) -> float:
    """Return an engine's items a second, measured as a worker runs it."""
    from clipfleet.workers.engines.tensorrt.open import open_engine
    from clipfleet.workers.engines.tensorrt.runner import Runner

    with (
        open_engine(None, candidate.plan, allow_unverified=True) as file,
        Runner(file) as runner,
    ):
        if runner.items_s is None:
            raise EngineError(f"{candidate.plan} was not measured")
        progress(
            f"{candidate.plan.name}: {runner.items_s:,.0f} items/s at batch {candidate.batch}, "
            f"{runner.contexts} in flight"
        )
        return runner.items_s
