"""Texts, by transformers models; the only file that imports transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.geometry.classifier import Classifier
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder import MAX_TOKENS, SAMPLE_TEXT, PreparedInputs, parameter_bytes
from stitchwork.models.openvino_backend import ForwardPass, compile_if_faster
from stitchwork.resources import Item, Modality, TextEncoder

CHARACTERS_PER_TOKEN: Final = 200
"""A text of more characters than this for each token it may have is refused unread."""
DEFAULT_LENGTH: Final = 512
SANE_LENGTH: Final = 1_000_000
"""Tokenizers without a limit of their own name an absurd one."""
TRIED_LENGTH: Final = 512
"""Models that take longer texts are not compiled, since that is tried at their full length."""

ONLY_FILES: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}

transformers.utils.logging.disable_progress_bar()
# What it says goes where all else is said, in the same form.
transformers.utils.logging.disable_default_handler()
transformers.utils.logging.enable_propagation()


class TransformersEncoder:
    """A transformers model that pools one hidden layer.

    Args:
        spec: What it is.
        device: Where it runs.
        folder: Its files.
        max_tokens: Tokens that a text may have, if the model takes as many.
        compile_models: Whether its pass may be compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed from recordings, on a GPU.
    """

    modality: Modality = "text"

    def __init__(
        self,
        spec: TextEncoder,
        device: torch.device,
        folder: Path,
        max_tokens: int = MAX_TOKENS,
        compile_models: bool = True,
        cuda_graphs: bool = False,
    ) -> None:
        self._spec = spec
        self.device = device
        _check_code(spec, folder)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **ONLY_FILES)
        model = _opened(folder).eval()
        config = model.config
        layers = int(config.num_hidden_layers)
        if not -layers - 1 <= spec.layer <= layers:
            raise InvalidInputError(
                f"layer: {spec.model} has layers 0 to {layers}, got {spec.layer}"
            )
        most, usual = _limits(folder, self._tokenizer, config)
        least = self._tokenizer.num_special_tokens_to_add() + 1
        if spec.max_length is not None and not least <= spec.max_length <= most:
            raise InvalidInputError(
                f"max_length: {spec.model} takes {least} to {most} tokens, got {spec.max_length}"
            )
        own = spec.max_length or usual
        self._limit = min(own, max_tokens)
        self._takes = f"{spec.model} takes {own} tokens"
        if own > max_tokens:
            self._takes = f"expected at most {max_tokens} tokens (max_text_tokens)"
        self.dim = int(config.hidden_size)
        self.nbytes = parameter_bytes(model)
        pooled = _Pooled(model, spec).to(device)
        self._pass: ForwardPass = pooled
        if compile_models and device.type == "cpu" and self._limit <= TRIED_LENGTH:
            self._pass = compile_if_faster(pooled, spec.model, self._samples())
        elif cuda_graphs and device.type == "cuda":
            self._pass = CudaGraphPass(pooled, spec.model, self._limit)

    def prepare(self, items: Sequence[Item], *, truncate: bool | None = None) -> PreparedInputs:
        """Tokenise texts.

        Raises:
            InvalidInputError: If a text is empty, or has more tokens than the model takes and is
            not to
                be cut.
        """
        cut = self._spec.truncate if truncate is None else truncate
        texts = [self._checked(item, i, cut) for i, item in enumerate(items)]
        found: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        shortened = {i for i, item in enumerate(items) if len(texts[i]) < len(item)}
        too_long = [i for i, ids in enumerate(found) if len(ids) > self._limit]
        if too_long and not cut:
            i = too_long[0]
            raise InvalidInputError(
                f"{self._takes}, the text has {len(found[i])}; ask for truncate to cut it",
                pointer=f"/items/{i}",
                code=ErrorCode.TOO_MANY_TOKENS,
            )
        for i in too_long:
            found[i] = self._tokenizer(
                texts[i], truncation=True, max_length=self._limit, verbose=False
            )["input_ids"]
        return PreparedInputs(
            [torch.tensor(ids) for ids in found], tuple(sorted(shortened.union(too_long)))
        )

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of token ids; padding to the longest has no effect."""
        return self._pass(*(part.to(self.device) for part in self._padded(inputs)))

    def _padded(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (n, t) int64 of token ids."""
        lengths = torch.tensor([len(ids) for ids in inputs])
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.nn.utils.rnn.pad_sequence(list(inputs), batch_first=True, padding_value=pad)
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        return ids, mask.long()

    def _samples(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of several sizes, up to the longest text that is taken."""
        longest = self.prepare([SAMPLE_TEXT * self._limit], truncate=True).inputs[0]
        few = longest[: max(1, self._limit // 2)]
        return [
            self._padded(batch)
            for batch in ([few[:9], few[:4]], [few[:3]], [few[:2], few[:17], few[:5]], [longest])
        ]

    def _checked(self, item: Item, i: int, cut: bool) -> str:
        pointer = f"/items/{i}"
        if not isinstance(item, str) or not item.strip():
            raise InvalidInputError("expected a text that is not empty", pointer=pointer)
        most = self._limit * CHARACTERS_PER_TOKEN
        if len(item) <= most:
            return item
        if cut:
            return item[:most]
        raise InvalidInputError(
            f"{self._takes}, the text has {len(item)} characters; ask for truncate to cut it",
            pointer=pointer,
            code=ErrorCode.TOO_MANY_TOKENS,
        )


def _opened(folder: Path) -> Any:
    """A model with torch's own attention, or with the plain one where it knows no other.

    Named in either case, so that a config cannot ask for a kernel of the hub.
    """
    try:
        return AutoModel.from_pretrained(
            folder, use_safetensors=True, attn_implementation="sdpa", **ONLY_FILES
        )
    except ValueError:
        return AutoModel.from_pretrained(
            folder, use_safetensors=True, attn_implementation="eager", **ONLY_FILES
        )


class _Pooled(torch.nn.Module):
    """Token ids and mask (n, t) to embeddings (n, dim) float32."""

    def __init__(self, model: Any, spec: TextEncoder) -> None:
        super().__init__()
        self.model = model
        self._spec = spec
        self._is_last = spec.layer in (-1, int(model.config.num_hidden_layers))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=not self._is_last
        )
        spec = self._spec
        hidden = output.last_hidden_state if self._is_last else output.hidden_states[spec.layer]
        rows = pool(hidden.float(), mask, mask.sum(dim=1), spec.pooling)
        return torch.nn.functional.normalize(rows, dim=1) if spec.normalize else rows


def pool(hidden: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """One row for each text.

    Args:
        hidden: (n, t, d) hidden states, right-padded.
        mask: (n, t), 1 at tokens, else 0.
        lengths: (n,) numbers of tokens.
        how: `mean` over the tokens, the first one's (`cls`), or the `last` one's.

    Returns:
        (n, d); padding has no effect.
    """
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), lengths - 1]
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def text_classifier(spec: TextEncoder, folder: Path) -> tuple[Classifier, list[str]]:
    """The classifier of a pretrained model, for embeddings pooled as it pools them itself.

    Args:
        spec: The model; its pooling must be the one that the classifier was trained on.
        folder: Its files.

    Returns:
        A classifier of the spec's embeddings, float32 numpy, and its labels.

    Raises:
        InvalidInputError: If the head is none of the known forms, or was trained on another
        pooling.
    """
    _check_code(spec, folder)
    model: Any
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        folder,
        use_safetensors=True,
        output_loading_info=True,
        # It never runs, and a config cannot ask for a kernel of the hub.
        attn_implementation="eager",
        **ONLY_FILES,
    )
    # What a file lacks is filled with random numbers, and a random head must never be served.
    if loaded["missing_keys"]:
        raise InvalidInputError(f"{spec.model} has no trained classifier")
    head = getattr(model, "classifier", None)
    base = getattr(model, model.base_model_prefix)
    layers, activation = _known_form(head, base)
    if layers is None:
        raise InvalidInputError(
            f"the classifier of {spec.model} is a {type(head).__name__}, not a known linear form"
        )
    if spec.pooling != "cls" or spec.normalize or spec.layer != -1:
        raise InvalidInputError(
            f"the classifier of {spec.model} reads the first token of the last layer; the space's "
            "encoder must have pooling cls, layer -1 and no normalize"
        )
    names = model.config.id2label
    arrays = tuple(
        (layer.weight.detach().float().numpy(), layer.bias.detach().float().numpy())
        for layer in layers
    )
    return Classifier(arrays, activation), [str(names[i]) for i in range(len(names))]


def _known_form(head: Any, base: Any) -> tuple[list[torch.nn.Linear] | None, str]:
    linear = torch.nn.Linear
    pooler = getattr(getattr(base, "pooler", None), "dense", None)
    if isinstance(head, linear):
        # BERT's pooler is a linear layer and tanh on the first token, in front of the classifier.
        return ([pooler, head], "tanh") if isinstance(pooler, linear) else ([head], "identity")
    dense, out = getattr(head, "dense", None), getattr(head, "out_proj", None)
    if isinstance(dense, linear) and isinstance(out, linear):
        return [dense, out], "tanh"
    return None, ""


def _check_code(spec: TextEncoder, folder: Path) -> None:
    """Refuse a model that brings code, or that would be patched by one that lies elsewhere."""
    config = AutoConfig.from_pretrained(folder, **ONLY_FILES)
    if getattr(config, "auto_map", None):
        raise JobFailedError(f"{spec.model} wants to run code of its own, which is never done")
    if (folder / "adapter_config.json").exists():
        raise JobFailedError(f"{spec.model} is an adapter of another model, which is not fetched")


def _limits(folder: Path, tokenizer: Any, config: Any) -> tuple[int, int]:
    """Most tokens the model can take, and how many it takes unless the spec says otherwise."""
    known = [int(tokenizer.model_max_length), getattr(config, "max_position_embeddings", None)]
    most = min((limit for limit in known if limit and limit < SANE_LENGTH), default=DEFAULT_LENGTH)
    trained = folder / "sentence_bert_config.json"
    if trained.is_file():
        return most, min(most, json.loads(trained.read_text()).get("max_seq_length") or most)
    return most, most
