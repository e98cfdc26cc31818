"""The detector's test on a photograph: by default, on another one, by workers, and declined."""

import hashlib
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import HostedCluster, Outcome, call_main, run_cli
from PIL import Image

from evalsuite.config import BenchmarkSpec, data_root, load_spec
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, UsageError
from evalsuite.pipeline.geneval_run import open_geneval
from evalsuite.pipeline.geneval_scorer import FolderSource
from evalsuite.pipeline.judging import JudgeJob, JudgeWorker, stage_of
from evalsuite.pipeline.known_pictures import KnownPicture, known_picture
from evalsuite.pipeline.numerics import numerics_id
from evalsuite.pipeline.outside import numerics_there
from evalsuite.pipeline.row_file import read_rows
from evalsuite.pipeline.t2i_networks import load_detector
from evalsuite.t2i.geneval import GenevalOptions

sys.path.insert(0, str(Path(__file__).parent))
from prompted_run import make_drawn_run
from tiny_scorers import NAMES, save_detector, write_lines, write_names

CPU = torch.device("cpu")
GENEVAL = load_spec(BenchmarkSpec, "geneval")
PICTURE = data_root() / "configs" / "benchmarks" / "chelsea.jpg"
PROMPT = "a photo of a cat"


class Kit:
    """A run of one prompt, and a random detector whose classes are called in two ways.

    What it finds best in the picture that is shipped is a cat by one list of names, and something
    else by the other: so one passes and one does not, as right and wrong weights would.
    """

    def __init__(self, root: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
        self.root, self.run = root, make_drawn_run(root / "run", [PROMPT], images)
        self.detector = save_detector(root / "m2f")
        network = load_detector(self.detector, NAMES, CPU).network
        (found,) = network.detect([np.asarray(Image.open(PICTURE))])
        best = max(found.found, key=lambda one: one.score)
        assert best.score > GenevalOptions().threshold
        place = NAMES.index(best.class_name)
        named = [*NAMES[:place], "cat", *NAMES[place + 1 :]]
        self.right_names = tuple(named)
        self.wrong_names = tuple(named[-1:] + named[:-1])
        self.taken_for = self.wrong_names[place]
        self.right = write_names(root / "right.txt", self.right_names)
        self.wrong = write_names(root / "wrong.txt", self.wrong_names)
        asked = [{"class": "cat", "count": 1}]
        records = [{"tag": "counting", "prompt": PROMPT, "include": asked}]
        self.metadata = write_lines(root / "evaluation_metadata.jsonl", records)

    @property
    def command(self) -> tuple[object, ...]:
        """Of one image."""
        options = ("--metadata", self.metadata, "--num-samples", 1, "--detector", self.detector)
        return ("t2i", "geneval", self.run.root, *options)

    def geneval(self, names: Path, *options: object) -> Outcome:
        return call_main(*self.command, "--object-names", names, "--device", "cpu", *options)

    def refusal(self, score: str = r"\d\.\d\d") -> str:
        """What the detector of other weights is told, as a pattern."""
        return (
            rf"on a picture of cat \(chelsea\.jpg\) it finds {self.taken_for} \({score}\), at a"
            r" threshold of 0\.3: its weights, --object-names or its kernels are wrong"
        )


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Not to be changed but by verdicts."""
    return Kit(tmp_path_factory.mktemp("known"))


def test_the_shipped_picture_is_what_the_benchmark_says() -> None:
    shipped = GENEVAL.known_picture
    assert shipped is not None
    content = PICTURE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == shipped.sha256
    assert len(content) <= 120_000
    assert Image.open(PICTURE).size == (451, 300)
    notice = PICTURE.with_suffix(".md").read_text(encoding="utf-8")
    assert shipped.licence in notice
    assert "Stéfan van der Walt" in notice


def test_random_weights_are_refused_before_anything_is_judged(kit: Kit) -> None:
    """Without a word from the person who runs it."""
    done = kit.geneval(kit.wrong)
    assert (done.code, done.stdout) == (6, "")
    (line,) = [one for one in done.stderr.splitlines() if "images are to be judged" not in one]
    assert re.search(kit.refusal(), line)
    assert line.endswith("; with --known-picture none the score says that it was not tested")
    assert not (kit.run.root / "verdicts").exists()
    assert not (kit.run.root / "detections").exists()


def test_who_finds_the_cat_is_scored_and_the_record_says_on_what(kit: Kit, tmp_path: Path) -> None:
    done = kit.geneval(kit.right, "--output", tmp_path / "v.jsonl")
    assert done.code == 0, done.stderr
    assert "not tested" not in done.stdout
    shipped = GENEVAL.known_picture
    assert shipped is not None
    expected = {"picture": "chelsea.jpg", "sha256": shipped.sha256, "found": ["cat"]}
    for path in (tmp_path / "v.jsonl", *(kit.run.root / "verdicts").glob("*.jsonl")):
        assert read_rows(path)[0]["tested_by"] == {**expected, "threshold": 0.3}
    again = kit.geneval(kit.right, "--known-picture", "none")  # what was once passed stays said
    assert (again.code, again.stdout) == (0, done.stdout)


def test_one_that_hardly_finds_it_is_refused(kit: Kit) -> None:
    """At the threshold of the scoring: below it no object would count."""
    network = load_detector(kit.detector, kit.right_names, CPU).network
    picture = KnownPicture("chelsea.jpg", PICTURE.read_bytes(), ("cat",), 0.3)
    picture.check(network)
    strict = KnownPicture("chelsea.jpg", PICTURE.read_bytes(), ("cat",), 0.9999)
    with pytest.raises(EnvironmentProblem, match=r"it finds cat \(\d\.\d\d\), at a threshold of 0"):
        strict.check(network)


def test_a_worker_looks_at_the_picture_wherever_it_stands(kit: Kit) -> None:
    """It travels with its bytes: a node of a cluster need not have the file."""
    own = kit.root / "own.jpg"
    own.write_bytes(PICTURE.read_bytes())
    numerics = numerics_id(numerics_there("cpu"))
    given = open_geneval(kit.run.root, kit.metadata, 1)
    jobs = []
    for names in (kit.right_names, kit.wrong_names):
        known = known_picture(f"{own}=cat", GENEVAL, names, 0.3)
        scorer = given.scorer(FolderSource(kit.detector, names, None, known), GenevalOptions())
        judgements = given.images.judgements(stage_of(scorer))
        job = JudgeJob(given.images, scorer, judgements, "cpu", numerics)
        assert len(repr(job)) < 20_000  # no bytes of pictures in lines that a person reads
        jobs.append(pickle.dumps(job))
    own.unlink()
    right, wrong = (JudgeWorker(pickle.loads(job)) for job in jobs)
    assert right.load()["device"] == "cpu"
    with pytest.raises(EnvironmentProblem, match=rf"\(own\.jpg\) it finds {kit.taken_for}"):
        wrong.load()


@pytest.mark.ray
@pytest.mark.slow  # one process shows the same in a tenth of the time, in the test above
def test_workers_of_a_cluster_refuse_random_weights(
    cluster: HostedCluster, kit: Kit, tmp_path: Path
) -> None:
    """With the line of one process, and without a score."""
    where = ("--address", cluster.address, "--num-workers", 1, "--device", "cpu")
    done = run_cli(*kit.command, "--object-names", kit.wrong, *where, cwd=tmp_path)
    assert (done.code, done.stdout) == (6, "")
    assert re.search(kit.refusal(), done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_pictures_that_cannot_be_taken_are_refused(kit: Kit, tmp_path: Path) -> None:
    assert known_picture("none", GENEVAL, NAMES, 0.3) is None
    with pytest.raises(UsageError, match="a picture of cat, which --object-names does not name: g"):
        known_picture(None, GENEVAL, NAMES, 0.3)
    shapes = load_spec(BenchmarkSpec, "shapes")
    asked = known_picture(None, shapes, kit.right_names, 0.3)
    assert asked is not None
    assert asked.name == "chelsea.jpg"
    for text in ("cup,bird", "x=", "=cup", f"{kit.right}=cup,unicorn", "nowhere.jpg=cup"):
        with pytest.raises(UsageError, match="--known-picture"):
            known_picture(text, GENEVAL, NAMES, 0.3)
    with pytest.raises(DataError, match=r"right\.txt"):
        known_picture(f"{kit.right}=cup", GENEVAL, NAMES, 0.3)
    found = known_picture(f"{PICTURE}=cup, bird", GENEVAL, NAMES, 0.3)
    assert found is not None
    assert found.expected == ("cup", "bird")
    Image.new("RGB", (64, 64)).save(tmp_path / "chelsea.jpg")
    moved = GENEVAL.model_copy(update={"path": tmp_path / "geneval.yaml"})
    with pytest.raises(CorruptionError, match=r"chelsea\.jpg is not the picture that .* names by"):
        known_picture(None, moved, kit.right_names, 0.3)
