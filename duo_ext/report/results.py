"""A folder's results.json: what is in it, how it is read and written.

A folder holds one results.json, hence one judge; results of different judges are never merged.
"""

import json
import math
from dataclasses import dataclass

from duo_ext import Refused
from duo_ext.files import opened, write_whole

METRICS = ("genppl", "genppl_low", "genppl_high", "entropy", "unigram_kl", "bigram_tv")
SAMPLER = ("sampler", "grid", "predictor", "noise_removal", "precision")
SETTINGS = ("sampler", "grid", "predictor", "noise_removal", "temperature", "nucleus", "precision")
SETTINGS += ("samples", "seed")
PEERS = ("family", *SAMPLER)  # rows compare only where these agree
MEASURED = (*METRICS, "seconds")
OTHERS = ("mauve", "energy", "word_length", "known_words", "known_long_words")  # rows may lack them
OTHERS += ("accuracy", "accuracy_low", "accuracy_high")
ROW_KEYS = {"model", "name", "algo", "steps", "evaluations", "seconds", *SETTINGS, *METRICS}
ROW_KEYS -= {"sampler", "grid"}  # of rows from before there was a choice: the host's
WORDS = ("name", "algo", "sampler", "grid", "predictor", "noise_removal", "precision")
TRAINING = ("updates", "seconds", "updates_per_second", "kept_pair")
MODELS = ("teacher", "student", "judge")


@dataclass(frozen=True)
class Row:
    """A row of results.json as an evaluation writes it.

    Rows are read as dicts: files of earlier versions have fewer keys, those of benchmarks more
    (``family``, ``after``, ``distillation_seed``).
    """

    model: str  # teacher, student or judge
    name: str  # what the report calls it
    algo: str  # the algorithm that made the checkpoint
    host: str  # the tree that it was sampled in, as hosting.trees names it
    steps: int
    evaluations: int  # of the network, for a sample
    sampler: str  # "host" or a name of core.samplers
    grid: str  # of times, as core.samplers.grids reads it, or "auto"
    times: list[float] | None  # at which a sampler of the core evaluates the network
    predictor: str  # the host's
    noise_removal: str  # the last step
    temperature: float
    nucleus: float
    precision: str  # in which tokens are drawn
    samples: int
    seed: int
    seconds: float  # of sampling, on one device
    tokens_per_second: float
    checkpoint: str  # its path, seen from the file
    checkpoint_sha256: str
    genppl: float  # under the judge, with the ends of its 95 % interval
    genppl_low: float
    genppl_high: float
    entropy: float  # of a sample's tokens, in nats
    unigram_kl: float  # from the held-out text's unigrams, in nats
    bigram_tv: float  # total variation from its bigrams, 0 to 1
    distinct_2: float  # share of different n-grams
    distinct_3: float
    distinct_4: float
    mauve: float | None  # None where mauve-text is not installed
    energy: float  # distance from the held-out text by the judge's features, 0 to 1
    word_length: float  # mean, in letters
    known_words: float | None  # share that the training text has; None where it is no folder
    known_long_words: float | None  # of words of four letters and more
    accuracy: float | None = None  # share of right answers, where the data is pairs with a score
    accuracy_low: float | None = None  # the ends of its 95 % interval
    accuracy_high: float | None = None


def load(folder: str) -> dict:
    """The results in ``folder``/results.json (a path or any URL that fsspec opens), checked.

    A metric that is null or infinite becomes nan; a row without ``sampler`` is the host's. Raises
    Refused when the file is missing, is not JSON or lacks something that the table needs.
    """
    path = f"{folder}/results.json"
    try:
        with opened(path) as file:
            results = json.load(file)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist; an evaluation writes it") from None
    except ValueError as error:
        raise Refused(f"{path} is not JSON ({error})") from None
    _check(results, path)
    results["judge"]["heldout_ppl"] = _finite(results["judge"]["heldout_ppl"])
    for row in results["rows"]:
        row.setdefault("sampler", "host")
        row.setdefault("grid", "host")
        row.update({key: math.nan for key in MEASURED if not finite(row, key)})
    return results


def save(results: dict, folder: str) -> None:
    """Write ``folder``/results.json whole or not at all; nan and infinities become null.

    ``folder`` is a path or any URL that fsspec writes; it is made where it is missing.
    """
    text = json.dumps(_finite(results), indent=1, allow_nan=False)
    write_whole(f"{folder}/results.json", text.encode())


def _check(results, path: str) -> None:
    """Refused unless ``results`` has the parts of the schema that this module reads."""
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list):
        raise Refused(f"{path} has no list of rows; it must be the results of an evaluation")
    if not results["rows"]:
        raise Refused(f"{path} has no rows; an evaluation writes at least one")
    judge = results.get("judge")
    present = {*results, *(f"judge.{key}" for key in judge)} if isinstance(judge, dict) else results
    missing = {"judge.name", "judge.heldout_ppl", "hardware", "command"}.difference(present)
    if missing:
        raise Refused(f"{path} lacks {', '.join(sorted(missing))}")
    if not _is_number(judge["heldout_ppl"], or_null=True):
        raise Refused(
            f"{path} has judge.heldout_ppl {judge['heldout_ppl']!r}; wanted: a positive number"
        )
    if not _are_trainings(results.get("distillations", [])):
        raise Refused(
            f"{path} has distillations; wanted: a list of objects, each with a name and numbers"
        )
    for number, row in enumerate(results["rows"]):
        missing = ROW_KEYS - row.keys() if isinstance(row, dict) else ROW_KEYS
        if missing:
            raise Refused(f"{path}: row {number} lacks {', '.join(sorted(missing))}")
        if row["model"] not in MODELS:
            raise Refused(
                f"{path}: row {number} has model {row['model']!r}; wanted: {', '.join(MODELS)}"
            )
        _check_row(row, f"{path}: row {number}")


def _check_row(row: dict, named: str) -> None:
    """Refused unless what a row has is of the types that this module and ``overview`` read."""
    for key in WORDS:
        if not isinstance(row.get(key, ""), str):
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: a text")
    for key in ("family", "after"):
        if not isinstance(row.get(key), str | None):
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: a text")
    if not isinstance(row.get("distillation_seed"), str | int | float | None):
        raise Refused(f"{named} has distillation_seed {row['distillation_seed']!r}; wanted: one")
    for key in ("steps", "temperature", "nucleus", "evaluations", "samples"):
        if not _is_number(row[key]):
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: a positive number")
    for key in (*MEASURED, *OTHERS, "seed"):
        positive = key.startswith("genppl") or key == "seconds"
        if not _is_number(row.get(key), positive, or_null=key != "seed"):
            wanted = "a positive number" if positive else "a number"
            raise Refused(f"{named} has {key} {row[key]!r}; wanted: {wanted}")


def _is_number(value, positive: bool = True, or_null: bool = False) -> bool:
    """Whether a value is a number; one that is not finite stands for null."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value is None and or_null
    return not (positive and value <= 0) and (or_null or math.isfinite(value))


def _are_trainings(entries) -> bool:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return False
    return all(
        isinstance(entry.get("name"), str)
        and all(_is_number(entry.get(key), positive=False, or_null=True) for key in TRAINING)
        for entry in entries
    )


def finite(row: dict, *keys: str) -> bool:
    """Whether a row has a number for each of the keys."""
    return all(row.get(key) is not None and math.isfinite(row[key]) for key in keys)


def _finite(value):
    """``value`` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
