"""Several drivers on one run: what others have made is left out, whatever the size of a shard."""

from pathlib import Path

import pytest
from harness import wait_for
from run_maker import FEATURES, SPEC, make_shard, new_run, new_worker

from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory
from evalsuite.pipeline.company import Lookout, in_company
from evalsuite.pipeline.coverage import Demand
from evalsuite.pipeline.ranges import ShardTask


def looked(run: RunDirectory, keep: str = "all", num_samples: int = 100) -> Lookout:
    """A lookout on a run of which samples 0..59 stand, in shards of 20, that has looked once."""
    lookout = Lookout(run, Demand(num_samples, None, keep, (SPEC,)))  # type: ignore[arg-type]
    lookout.look()
    return lookout


@pytest.mark.parametrize(
    ("start", "stop", "left"),
    [(0, 20, []), (10, 50, []), (30, 80, [(60, 80)]), (60, 90, [(60, 90)]), (50, 60, [])],
)
def test_what_others_have_made_of_a_shard_is_left_out(
    finished: RunDirectory, start: int, stop: int, left: list[tuple[int, int]]
) -> None:
    stages = (IMAGES, FEATURES)
    rest = looked(finished).rest_of(ShardTask(start, stop, stages))
    assert rest == [ShardTask(*one, stages) for one in left]


def test_a_stage_that_others_have_not_made_is_still_to_make(folder: Path) -> None:
    """One who keeps no pixels has made the images; the pixels that are asked for are missing."""
    run = new_run(folder)
    make_shard(new_worker(run, keep="none"), 0, 20, [IMAGES])
    lookout = Lookout(run, Demand(40, None, "all", ()))
    lookout.look()
    assert lookout.rest_of(ShardTask(0, 20, (IMAGES,))) == [ShardTask(0, 20, (PIXELS,))]


def test_before_the_first_look_and_of_repairs_nothing_is_left_out(finished: RunDirectory) -> None:
    """A repair that must keep more than is asked now is nobody else's."""
    task = ShardTask(0, 20, (IMAGES,))
    demand = Demand(60, None, "none", ())
    assert Lookout(finished, demand).rest_of(task) == [task]
    repair = task._replace(keep="all")
    assert looked(finished, "none").rest_of(repair) == [repair]


def test_a_lookout_sees_what_comes(finished: RunDirectory) -> None:
    lookout = Lookout(finished, Demand(60, None, "all", ()), look_s=0.01)
    with lookout.looking():
        wait_for(lambda: lookout.num_looks > 1, 20)
    assert lookout.rest_of(ShardTask(0, 20, (IMAGES,))) == []


def test_drivers_meet_late() -> None:
    """The first goes forward, the second backward, a third at random but always the same."""
    tasks = [ShardTask(10 * i, 10 * i + 10, (IMAGES,)) for i in range(20)]
    assert in_company(tasks, 0, "a") == tasks
    assert in_company(tasks, 1, "a") == tasks[::-1]
    third = in_company(tasks, 2, "a")
    assert sorted(third) == tasks
    assert third not in (tasks, tasks[::-1])
    assert in_company(tasks, 2, "a") == third != in_company(tasks, 2, "b")
