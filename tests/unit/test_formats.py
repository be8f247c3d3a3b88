"""The fields of what is stored or sent, together with the number of each format."""

from typing import Final

from stitchwork.queue import messages
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.registry import stored_records
from stitchwork.resources import (
    ActivationLayer,
    AnchorSet,
    BridgeParameters,
    DtypePrecision,
    Head,
    ImageEncoder,
    LeakyReluLayer,
    LinearLayer,
    NormalizeLayer,
    NormLayer,
    Record,
    Registration,
    Space,
    TextEncoder,
    VisionEncoder,
)

STORED: Final[tuple[type[Record], ...]] = (
    AnchorSet,
    Space,
    DtypePrecision,
    Head,
    ActivationLayer,
    LeakyReluLayer,
    LinearLayer,
    NormalizeLayer,
    NormLayer,
    Registration,
    BridgeParameters,
    TextEncoder,
    ImageEncoder,
    VisionEncoder,
)
SENT: Final[tuple[type[Record], ...]] = (
    messages.Job,
    WorkerStatus,
    Space,
    DtypePrecision,
    Head,
    ActivationLayer,
    LeakyReluLayer,
    LinearLayer,
    NormalizeLayer,
    NormLayer,
    BridgeParameters,
    TextEncoder,
    ImageEncoder,
    VisionEncoder,
)
STORED_FORMAT: Final = 7
MESSAGE_FORMAT: Final = 8
FIELDS: Final = {
    "AnchorSet": "id version modality size ids has_items warnings",
    "Space": (
        "id version anchor_set anchor_set_version dim size encoder files_digest "
        "declaration dtype precision label_names parameters rank condition_number norm_mean "
        "norm_std unit agreement checks warnings"
    ),
    "DtypePrecision": "dtype rows min_cosine same_nearest",
    "Head": (
        "id version space dim labels layers problem_type thresholds temperature source "
        "files_digest declaration train_rows train_accuracy"
    ),
    "LinearLayer": "kind inputs outputs",
    "NormLayer": "kind eps",
    "NormalizeLayer": "kind norm",
    "LeakyReluLayer": "kind negative_slope",
    "ActivationLayer": "kind",
    "Registration": "kind id version encoder parent declared status done total files_digest reason",
    "BridgeParameters": "shrinkage delta omega whitening landmarks",
    "TextEncoder": (
        "kind model revision dtype normalize modules dimensions matryoshka pooling layer "
        "max_length prompt prompt_name prompts lower_case truncate"
    ),
    "ImageEncoder": (
        "kind model weights revision dtype input_size mean std crop_pct interpolation in_chans "
        "normalize"
    ),
    "VisionEncoder": (
        "kind model revision dtype normalize modules dimensions matryoshka pooling input_size "
        "mean std"
    ),
    "Job": (
        "id reply_to encoder truncate input_type source target head bridge task special_tokens "
        "registration request_id traceparent"
    ),
    "WorkerStatus": "worker message_format device serves dtypes loaded model_bytes refused",
}
"""Names of the fields of each record, in the order of their definition."""


def test_record_with_other_fields_has_another_format_number() -> None:
    for format_, expected, name, records in (
        (stored_records.FORMAT, STORED_FORMAT, "registry.stored_records.FORMAT", STORED),
        (messages.FORMAT, MESSAGE_FORMAT, "queue.messages.FORMAT", SENT),
    ):
        for record in records:
            fields = " ".join(record.model_fields)
            assert fields == FIELDS[record.__name__], (
                f"the fields of {record.__name__} have changed, which older releases cannot read: "
                f"raise {name} above that of the last release, then update FIELDS here"
            )
        assert format_ == expected, (
            f"{name} is {format_}: update it here together with the fields that it stands for"
        )
