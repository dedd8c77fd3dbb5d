"""What a run writes down: plain, checked data, readable without torch.

`run.json` is a `RunRecord`. Every figure in it was measured on the file, or on the bytes that were then written to it.
Scores and shares lie in 0..1, sizes are bytes, times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """The base of all records: unknown fields are refused, so an old reader never guesses.

    JSON has no number for NaN and infinity: they are written as the words "NaN" and "Infinity", and read back.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Sizes(Record):
    """Bytes on disk of the same network in three forms; None where that form could not be written."""

    safetensors: int  # all tensors as float32 (integers as they are), the form that networks are shared in
    onnx: int | None = None
    rfy: int | None = None


class Quality(Record):
    """A metric of a file on the task's judging examples, with its 95 % interval."""

    metric: str  # "accuracy", or the task's own name
    value: float
    low: float
    high: float
    examples: int
    agreement: float | None = None  # share of examples with the same label as the original network
    engine: str = "onnxruntime"  # what computed it: "onnxruntime" (the exported file) or "torch"


class Timing(Record):
    """Milliseconds of one inference: median and 90th percentile."""

    median_ms: float
    p90_ms: float


class Latency(Record):
    """A file against the original network's file, timed in turns in the same process and engine."""

    this: Timing
    original: Timing
    ratio: float  # median of the paired ratios this / original
    low: float  # 95 % interval of that median
    high: float
    verdict: Literal["faster", "unchanged", "slower"]
    threads: int
    batch: int
    rounds: int
    engine: str = "onnxruntime"


class Energy(Record):
    """Joules of one inference."""

    joules: float
    original_joules: float | None = None
    source: Literal["cpu counters", "estimate"]
    method: str  # where the figure comes from, e.g. the table that the estimate uses


class Measurement(Record):
    """One network at one moment."""

    sizes: Sizes
    parameters: int  # weights that a plain network of this shape has
    nonzero: int
    macs: int | None = None  # multiply-accumulates of one example
    quality: Quality | None = None
    latency: Latency | None = None  # batch 1, one thread; after steps that changed the graph


class LayerNote(Record):
    """What one step did to one parameter, or why it left it."""

    parameter: str
    done: str | None = None  # e.g. "pruned 368,000 of 400,000 (92.0 %)"
    left: str | None = None  # the reason


class Epoch(Record):
    """One point of a training curve."""

    epoch: int
    loss: float
    lr: float
    seconds: float
    validation: float | None = None


class TeacherRecord(Record):
    """A network that a training step learnt from."""

    network: str  # as the recipe names it; "original" is the network that the run began with
    weights: str | None = None
    sha256: str  # of its tensors; of a mutual teacher, before it learnt too
    parameters: int
    score: float | None = None  # mean metric on the judging examples, where it is not the original


class StepRecord(Record):
    """One step that has finished."""

    index: int  # from 1
    name: str
    settings: dict[str, Any]
    plan: dict[str, Any]
    notes: list[LayerNote]
    curve: list[Epoch] = []
    seconds: float
    tensors: str  # file in the run folder, with the tensors after this step
    measurement: Measurement | None = None
    teachers: list[TeacherRecord] = []
    alone: Measurement | None = None  # the same student, trained from the same start without a teacher
    warnings: list[str] = []


class Histogram(Record):
    """Distribution of a weight's values before and after, on the same bins."""

    low: float
    high: float
    before: list[int]
    after: list[int]  # zeros are counted in `zeros`, not here
    zeros: int
    centroids: list[float] = []


class LayerRecord(Record):
    """One tensor of the shipped file. The bytes of all of them and of `graph` add up to the file."""

    tensor: str
    shape: list[int]
    elements: int
    zeros: int
    encoding: str  # e.g. "codebook of 16, zero pinned", "float32"
    bits: float  # bits per element in the pack
    bytes_before: int  # in the original's float32 file
    bytes_after: int  # in the pack
    reason: str | None = None  # why it is still as it was
    histogram: Histogram | None = None


class ClassRecord(Record):
    """Accuracy of one class before and after."""

    name: str
    examples: int
    before: float
    after: float


class ChangedExample(Record):
    """One judged example whose answer changed."""

    index: int
    name: str | None = None
    truth: str
    before: str
    after: str
    png: str | None = None  # base64 of a small picture


class Parity(Record):
    """The exported file against the network evaluated in torch."""

    examples: int
    max_difference: float  # all of ONNX Runtime's optimisations on
    max_difference_unoptimised: float
    agreement: float  # share of equal labels, the lower of the two
    agreement_unoptimised: float


class BinaryTiming(Record):
    """Binary layers of one shape, by themselves, against layers of that shape in other numbers."""

    shape: list[int]  # of the weight
    input: list[int]
    bits: int  # of the input
    count: int  # of such layers in the file
    float32: Latency
    int8: Latency


class Outcome(Record):
    """The end of a run: what is shipped, and everything claimed of it."""

    measurement: Measurement
    parity: Parity | None = None
    latency: list[Latency] = []
    memory_bytes: int | None = None  # peak of a fresh process that loads and runs the pack, above the bare engine
    original_memory_bytes: int | None = None
    energy: Energy | None = None
    binary: list[BinaryTiming] = []
    graph_bytes: int  # the pack's graph and headers
    layers: list[LayerRecord]
    classes: list[ClassRecord] = []
    changed: list[ChangedExample] = []
    changed_total: int = 0
    sha256: dict[str, str]  # of model.onnx and model.rfy
    warnings: list[str] = []


class Environment(Record):
    """Where a run was made."""

    machine: str  # CPU model
    cpu_features: list[str]
    cores: int
    threads: int
    system: str
    python: str
    versions: dict[str, str]
    processes: int = 1


class RunRecord(Record):
    """The whole of `run.json`."""

    format: Literal[1] = 1
    name: str
    model: str  # how to make the network again: a zoo name, `module:function`, or the class's name
    weights: str | None = None
    task: str  # one line: data, sizes, metric
    classes: list[str] = []
    recipe: dict[str, Any]
    seed: int
    command: str | None = None  # reproduces the run
    started: str  # ISO 8601, UTC
    environment: Environment
    fingerprint: str  # of the network and recipe that this folder belongs to
    original: Measurement | None = None
    trained_from_scratch: bool = False
    steps: list[StepRecord] = []
    outcome: Outcome | None = None
