"""The whole chain, from a data folder to the texts of a checkout. Each step leaves something; what is there is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ctscan.errors import DataError
from ctscan.evaluation import studies
from ctscan.evaluation.cross_validation import CONTROLS, open_setting
from ctscan.evaluation.elsewhere import judge_patients
from ctscan.evaluation.gate import fit_gate
from ctscan.export import export_onnx
from ctscan.files import write
from ctscan.inference.classifier import load
from ctscan.model.checkpoint import read_checkpoint
from ctscan.results import report
from ctscan.results.ledger import read_ledger, update
from ctscan.results.records import Entry
from ctscan.results.summary import HEADLINE_THRESHOLD, STRICT_THRESHOLD
from ctscan.training.recipe import Recipe, read_recipe
from ctscan.training.trainer import Device, train


def reproduce(
    root: Path,
    data: Path,
    recipe: Recipe,
    *,
    pictures: Path | None = None,
    volumes: Path | None = None,
    patients: Path | None = None,
    init: Path | None = None,
    runs: Path = Path("runs"),
    draws: int = 1000,
    device: Device = "auto",
) -> Iterator[str]:
    """Do what is missing, in order.

    Args:
        root: Checkout whose checkpoint, metrics.json, README and cards are written.
        data, init, runs, draws, device: As for `open_setting`.
        recipe: How the model is trained.
        pictures: For the gate, with ct_chest/, ct_other/ and notct/; without them it is neither fitted nor measured.
        volumes: Scans for the maps, where there are any.
        patients: Slices of patients with known histology, as for `read_cases`, where there are any.

    Yields:
        A line for each step, when it is done.

    Raises:
        CtscanError: As the steps; what was done until then is kept, and the next call goes on from there.
    """
    checkpoint, ledger = root / "checkpoints" / "resnet18.safetensors", root / "checkpoints" / "metrics.json"
    manifest = ledger.with_name("manifest.json")
    setting = open_setting(data, manifest, runs=runs, draws=draws, device=device, init=init)

    def step(title: str, section: str, work: Callable[[], Entry | Sequence[Entry]], **about: object) -> str:
        """Put what `work` gives into the ledger, unless an entry of the section is about the same."""
        entries: Sequence[Entry] = getattr(read_ledger(ledger), section)
        if any(all(getattr(entry, name) == value for name, value in about.items()) for entry in entries):
            return f"{title}: is there"
        given = work()
        update(ledger, *([given] if isinstance(given, Entry) else given))
        return f"{title}: done"

    write(manifest, setting.manifest.to_json())
    yield step("audit", "audits", partial(studies.count_copies, setting.manifest), manifest=setting.manifest.digest)
    if not checkpoint.exists():
        train(data, recipe, checkpoint, init=init, runs=runs, device=device)
        yield f"{checkpoint}: written"
    elif read_recipe(read_checkpoint(checkpoint).card.recipe) == recipe:
        yield f"{checkpoint}: is there"
    else:
        raise DataError(f"{checkpoint} is of another recipe: move it away to train this one.")
    classifier = load(checkpoint)
    model_id, digest = classifier.card.model_id, recipe.digest
    yield step("training", "readings", partial(studies.reading, classifier.card), model_id=model_id)
    for threshold in (HEADLINE_THRESHOLD, STRICT_THRESHOLD):
        folds = partial(studies.grouped, replace(setting, threshold=threshold), recipe, classifier=classifier)
        yield step(f"folds at {threshold}", "cross_validations", folds, recipe=digest, threshold=threshold)
    for kind in CONTROLS:
        yield step(kind, "controls", partial(studies.control, setting, kind, recipe), recipe=digest, control=kind)
    calibrate = partial(studies.calibrate, setting, recipe, checkpoint=checkpoint)
    yield step("calibration", "confidences", calibrate, recipe=digest)
    if pictures:
        fit = partial(fit_gate, setting, checkpoint, pictures)
        yield step("gate", "gates", fit, model_id=model_id)
    test = partial(studies.published, setting, load(checkpoint))  # with the gate
    yield step("published test split", "evaluations", test, model_id=model_id)
    explain = partial(studies.explain, setting, checkpoint, volumes)
    yield step("maps", "map_tests", explain, model_id=model_id)
    if patients:
        read = partial(judge_patients, load(checkpoint), patients, draws)
        yield step("patients from elsewhere", "patient_readings", read, model_id=model_id)
    export_onnx(read_checkpoint(checkpoint), checkpoint.with_suffix(".onnx"), root / "examples", print)
    report.write(root)
    yield "README and cards: done"
