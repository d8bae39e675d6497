"""The overhead's measurement: shares, CPU time, roles of processes, and the page's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gpu.pipeline.sources import caption_source
from bench.overhead.__main__ import RESULTS
from bench.overhead.alone import RATE, Rate, main
from bench.overhead.command import Run, cpu_between
from bench.overhead.family import role_of
from bench.overhead.report import (
    MEMORY,
    SHARES,
    Results,
    Round,
    Shares,
    bound,
    cpu_share,
    dump_results,
    memory_report,
    read_results,
    share,
    shares_report,
)

ROOT = Path(__file__).parents[3]


def run(items_s: float | None = 380, cpu_s: float | None = 0.005, **peaks_mib: float) -> Run:
    return Run(items=8000, seconds=40, items_s=items_s, cpu_s=cpu_s, peaks_mib=peaks_mib)


def one_round(embed: Run) -> Round:
    return Round(
        inputs=Rate(items_s=1000, cpu_s=0.002),
        engine=Rate(items_s=1000 / 1.5, cpu_s=0.0025),
        embedder=Rate(items_s=390, cpu_s=0.005),
        embed=embed,
    )


RESULTS_OF_IMAGES = Results(
    shares=[
        Shares(
            tower="img",
            source="JPEGs of 500x375",
            model="demo img",
            rounds=[one_round(run(s)) for s in (380, 376, 352)],
        )
    ],
    memory=[run(command=158.7, decoder=36.1)],
    machines={"shares": "2 cores.", "memory": "2 cores."},
)


def test_parts_that_share_the_cores_need_the_sum_of_their_times() -> None:
    assert bound(1000, 1000 / 1.5) == pytest.approx(400)
    assert share(one_round(run(380))) == pytest.approx(0.95)
    assert cpu_share(one_round(run(cpu_s=0.005))) == pytest.approx(0.9)


def test_the_table_says_whether_the_shares_are_large_enough() -> None:
    lines = shares_report(RESULTS_OF_IMAGES).splitlines()
    assert "| **both, which share the cores** | 400 (400–400) | 4.50 (4.50–4.50) |" in lines
    assert "| `clipfleet embed`, steady | 376 (352–380) | 5.00 (5.00–5.00) |" in lines
    verdict = "94% (88%–95%): met (at least 90%) | 90% (90%–90%): met (at least 90%)"
    assert lines[-1] == f"| **share of both that the command reaches** | {verdict} |"
    slow = [one_round(run(300, cpu_s=0.006))]
    images = Shares(tower="img", source="JPEGs", model="demo img", rounds=slow)
    missed = shares_report(Results(shares=[images], memory=[], machines={})).splitlines()[-1]
    assert missed.count("**missed**") == 2


def test_a_role_that_a_job_has_not_has_no_figure() -> None:
    assert memory_report(RESULTS_OF_IMAGES).splitlines()[-1] == ("| 8,000 | 159 | – | – | 36 | – |")


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "overhead.json"
    assert read_results(path).shares == []
    path.write_text(dump_results(RESULTS_OF_IMAGES))
    assert read_results(path) == RESULTS_OF_IMAGES


def test_cpu_time_between_two_samples_lies_on_a_line() -> None:
    samples = [(10.0, 1.0), (11.0, 3.0), (12.0, 3.5)]
    assert cpu_between(samples, 10.5, 11.5) == pytest.approx(3.25 - 2.0)
    assert cpu_between(samples, 9.0, 13.0) == pytest.approx(2.5)
    assert cpu_between(samples, 11.0, 12.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("words", "role"),
    [
        ("python -m clipfleet worker --tower img --model m", "worker"),
        ("python -c from billiard.spawn import spawn_main; spawn_main()", "engine process"),
        ("python -m clipfleet.workers.images.decoder_process 17 10", "decoder"),
        ("/usr/bin/redis-server unixsocket:/tmp/redis.sock", "Redis"),
        ("sh -c true", None),
    ],
)
def test_a_process_has_the_role_of_its_command(words: str, role: str | None) -> None:
    assert role_of(words, is_root=False) == role
    assert role_of(words, is_root=True) == "command"


def test_a_part_alone_is_measured_on_the_items_of_a_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = caption_source(tmp_path, 40)
    main(["inputs", str(captions.path), str(ROOT / "examples/demo/model/demo.txt.fp32.onnx")])
    rate = RATE.validate_json(capsys.readouterr().out)
    assert rate.items_s > 0
    assert rate.cpu_s >= 0


def test_the_documentation_has_the_tables_of_the_kept_results() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    results = read_results(RESULTS)
    assert SHARES.insert(page, shares_report(results)) == page
    assert MEMORY.insert(page, memory_report(results)) == page
    assert max(run.items for run in results.memory) >= 1_000_000
