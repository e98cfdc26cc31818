"""Logs a made-up run, and then the steps of a training in two invocations, to all three tools.

In the current directory; prints what was imported.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "report"))

from evalsuite.runtime.observing.loggers import Loggers, check_installed, parse_target
from evalsuite.runtime.progress import Progress


def log_series(targets: list, records: list, steps: tuple[int, ...], said: list[str]) -> None:
    """What a watch does in one invocation."""
    loggers = Loggers(targets, "watched", {"model": "digits"}, said.append, "ab12" * 16)
    for step in steps:
        loggers.records(records, step)
    loggers.close(failed=False)


def main() -> None:
    from run_builder import make_scored_run

    from evalsuite.artifacts.records import Record

    run = make_scored_run(Path("made"), num_images=32)
    records = [Record.model_validate(content) for content in run.read_json_folder("results")]
    targets = [parse_target(text) for text in sys.argv[1:]]
    check_installed(targets)
    said: list[str] = []
    loggers = Loggers(targets, "made", {"plan_id": run.manifest.plan_id}, said.append)
    for done in (10, 5, 90):
        loggers.progress(Progress(done, 90, 2, 0, loading=False))
    loggers.records([r for r in records if r.protocol.num_samples == 90], 90)
    loggers.close(failed=False)
    for steps in ((200, 100), (300,)):
        log_series(targets, records[:1], steps, said)
    loaded = {name.partition(".")[0] for name in sys.modules}
    sys.stderr.write(json.dumps({"said": said, "loaded": sorted(loaded)}) + "\n")


if __name__ == "__main__":
    main()
