"""Models of the Open Inference Protocol: a verb of this service, and what it is applied to.

    embed:space                 raw inputs → embeddings
    embed:space:target          raw inputs → embeddings in another space
    stitch:space:head           raw inputs → predictions
    translate:source:target     embeddings → embeddings in another space
    classify:head               embeddings of the head's own space → predictions
    classify:space:head         embeddings of another space → predictions

Ids have no colon, so that a name has one reading; and a colon may stand in a path as it is.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from stitchwork.api.dependencies import AppState
from stitchwork.errors import UnknownResourceError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE
from stitchwork.inference.translator import check_pair
from stitchwork.resources import Head, Space, check_id, digest

Verb = Literal["embed", "stitch", "translate", "classify"]

FORMS: Final[dict[tuple[str, int], str]] = {
    ("embed", 1): "embed:space",
    ("embed", 2): "embed:space:target",
    ("stitch", 2): "stitch:space:head",
    ("translate", 2): "translate:source:target",
    ("classify", 1): "classify:head",
    ("classify", 2): "classify:space:head",
}
PLATFORM: Final = "stitchwork"
ROWS: Final = "embeddings"
ITEMS: Final = "items"
PREDICTIONS: Final = ("labels", "scores", "confidence")


@dataclass(frozen=True, slots=True)
class Name:
    """A model's name, taken apart.

    Attributes:
        text: The name.
        verb: What it does.
        ids: What it is applied to.
    """

    text: str
    verb: Verb
    ids: tuple[str, ...]

    @property
    def takes_items(self) -> bool:
        """Whether it takes raw inputs, which go to a worker, rather than embeddings."""
        return self.verb in ("embed", "stitch")


@dataclass(frozen=True, slots=True)
class Served:
    """The records a model stands for, at the versions that serve now.

    Attributes:
        name: Its name.
        source: The space that inputs are, or are embedded, in.
        target: The space they are translated into, if they are; a head's is that of the head.
        head: What classifies them, if anything does.
        stale: Whether these are only the last known.
    """

    name: Name
    source: Space
    target: Space | None
    head: Head | None
    stale: bool

    @property
    def roles(self) -> dict[str, Space | Head]:
        """What is used, by its role."""
        roles = {"source": self.source, "target": self.target, "head": self.head}
        return {role: record for role, record in roles.items() if record}

    @property
    def version(self) -> str:
        """A digest of the versions of all that is used."""
        return digest({role: record.version for role, record in self.roles.items()})

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return PREDICTIONS if self.head else (ROWS,)

    def told(self) -> dict[str, str]:
        """How an answer names it."""
        return {"model_name": self.name.text, "model_version": self.version}

    def described(self) -> dict[str, Any]:
        """Its metadata, as the protocol has it; -1 is any number."""
        taken = _tensor(ITEMS, "BYTES", -1)
        if not self.name.takes_items:
            taken = _tensor(ROWS, "FP32", -1, self.source.dim)
        given = [_tensor(ROWS, "FP32", -1, (self.target or self.source).dim)]
        if self.head:
            given = [
                _tensor("labels", "BYTES", -1, -1),
                _tensor("scores", "FP32", -1, -1),
                _tensor("confidence", "FP32", -1),
            ]
        return {
            "name": self.name.text,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [taken],
            "outputs": given,
        }


def named(text: str) -> Name:
    """A model's name, taken apart.

    Raises:
        UnknownResourceError: If it is of none of the forms.
        InvalidInputError: If an id in it can be none.
    """
    verb, *ids = text.split(":")
    if (verb, len(ids)) not in FORMS:
        raise UnknownResourceError(
            f"no model {text[:80]!r}: a name is one of {', '.join(FORMS.values())}"
        )
    return Name(text, verb, tuple(check_id(id_) for id_ in ids))  # type: ignore[arg-type]


def find(state: AppState, name: Name, version: str | None = None) -> Served:
    """What a model stands for; waits for the registry.

    Raises:
        UnknownResourceError: If something in its name is not registered, it takes raw inputs and
        its
            space has no encoder, or another version serves.
        NotReadyError: If something in its name is still being prepared.
        AnchorSetMismatchError: If its spaces do not share an anchor set.
    """
    ids, head, stale = name.ids, None, False
    if name.verb in ("stitch", "classify"):
        (head,), stale = state.registry.heads.ready(ids[-1])
        ids = (*(ids[:-1] or (head.space,)), head.space)
    spaces, spaces_stale = state.registry.spaces.ready(*ids)
    source, target = spaces[0], spaces[1] if len(spaces) > 1 else None
    if name.takes_items and source.encoder is None:
        raise UnknownResourceError(f"no model {name.text}: space {source.id} has no encoder")
    if target:
        check_pair(source, target, DEFAULT_BRIDGE)
    found = Served(name, source, target, head, stale or spaces_stale)
    if version not in (None, found.version):
        raise UnknownResourceError(
            f"model {name.text} serves version {found.version}, got {version[:80]!r}"
        )
    return found


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}
