"""Text encoders: transformers models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer
from torch.nn.functional import pad as pad_to
from torch.nn.utils.rnn import pad_sequence

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.models.compilation import CompilablePass
from stitchwork.models.cuda_graphs import CudaGraphPass
from stitchwork.models.encoder import (
    MAX_TOKENS,
    SAMPLE_TEXT,
    PreparedInputs,
    parameter_bytes,
    split_rows,
)
from stitchwork.models.matryoshka import output_width
from stitchwork.models.memory import to_device
from stitchwork.models.openvino_backend import ForwardPass
from stitchwork.models.parity import SAMPLE_TEXTS, check_rows, reference_rows
from stitchwork.models.pooling import build_modules
from stitchwork.models.precision import torch_dtype
from stitchwork.models.pretrained_weights import load_tokenizer
from stitchwork.models.text_cutting import TextCutter
from stitchwork.models.text_loading import load_text_model, needs_full_length, pooled_width
from stitchwork.models.text_models import UNPADDED_TYPES, TextModel
from stitchwork.models.text_settings import (
    length_limits,
    lower_case_first,
    pooling_modes,
    position_limit,
    prompt_tokens,
    resolve_spec,
)
from stitchwork.models.token_ids import TokenIdCheck
from stitchwork.models.tokenization import Tokenization
from stitchwork.resources import Item, Modality, PoolingMode, TextEncoder, TokenIds
from stitchwork.resources.prompts import Prompt, select_prompt

MAX_CHARACTERS_PER_TOKEN: Final = 200
"""Texts with more characters than this for each allowed token are refused before tokenising."""
UNPOOLED: Final = 1 << 32
"""Added to the ids of a prompt's tokens if these are not pooled."""
MAX_COMPILED_LENGTH: Final = 512
"""Models for longer texts are not compiled, since that is verified at their full length."""

transformers.utils.logging.disable_progress_bar()
# Its log records go through the logging configuration of the process.
transformers.utils.logging.disable_default_handler()
transformers.utils.logging.enable_propagation()


class TransformersEncoder:
    """A transformers model whose embeddings pool one hidden layer.

    Args:
        spec: The encoder.
        device: The device it runs on.
        folder: The folder of its files.
        max_tokens: Maximum tokens of a text, for models that accept more.
        compile_models: Whether its forward pass is to be compiled, on a CPU.
        cuda_graphs: Whether small batches are replayed as CUDA graphs, on a GPU.
        max_compiled_length: Models for longer texts are not compiled.
        prove: Whether its embeddings are compared with the library's, and refused if they differ.
        model: The transformer, if it is loaded already.
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
        max_compiled_length: int = MAX_COMPILED_LENGTH,
        prove: bool = True,
        model: Any = None,
    ) -> None:
        spec, files = resolve_spec(spec, folder)
        self._spec = spec
        self.device = device
        self.dtype = torch_dtype(spec)
        self._tokenizer: Any = load_tokenizer(spec.model, files.model_folder)
        self._token_id_check = TokenIdCheck(self._tokenizer, spec.model)
        self._lower_case = bool(spec.lower_case) and not lower_case_first(self._tokenizer)
        modes = pooling_modes(spec.pooling or "mean")
        if model is None:
            model = load_text_model(spec, files.model_folder, modes)
        model_limit, default_limit = length_limits(
            self._tokenizer, position_limit(model), files.max_length
        )
        self._prompt = spec.prompt or ""
        self.tokenization = Tokenization(
            spec.model, self._tokenizer, self._cased, self._select_prompt
        )
        self._pools_prompt = files.include_prompt
        self._prompt_tokens: dict[str, int] = {}
        prompt_length = self._prompt_length(self._prompt)
        special_tokens = self._tokenizer.num_special_tokens_to_add()
        min_tokens = max(special_tokens, prompt_length) + 1
        if spec.max_length is not None and not min_tokens <= spec.max_length <= model_limit:
            raise InvalidInputError(
                f"max_length: expected {min_tokens} to {model_limit} tokens for {spec.model}, got "
                f"{spec.max_length}"
            )
        own_limit = spec.max_length or default_limit
        self._limit = min(own_limit, max_tokens)
        self._padded_length = own_limit if needs_full_length(model.config, modes) else 0
        self._is_unpadded = model.config.model_type in UNPADDED_TYPES
        if self._prompt and self._limit < max(special_tokens, prompt_length) + 2:
            raise InvalidInputError(
                f"prompt: expected fewer than {self._limit} tokens, the maximum length, got "
                f"{prompt_length}; no token of a text would remain"
            )
        self._max_characters = self._limit * MAX_CHARACTERS_PER_TOKEN
        self._expectation = f"expected at most {own_limit} tokens for {spec.model}"
        if own_limit > max_tokens:
            self._expectation = f"expected at most {max_tokens} tokens (max_text_tokens)"
        self._cutter = TextCutter(
            self._token_ids,
            self._limit,
            keeps_start=self._tokenizer.truncation_side == "right",
        )
        takes_mask = "attention_mask" in self._tokenizer.model_input_names
        width = pooled_width(model, spec, modes, self.tokenize(SAMPLE_TEXT))
        modules, width = build_modules(spec.model, files.modules, width)
        self.dim = output_width(spec, width)
        self.nbytes = parameter_bytes(model) + parameter_bytes(modules)
        pooled = TextModel(model, modules, spec, modes, takes_mask)
        if prove:
            self._check_parity(pooled, modes, 0 if self._pools_prompt else prompt_length)
        self.forward_pass: ForwardPass = pooled.to(device)
        if compile_models and device.type == "cpu" and self._limit <= max_compiled_length:
            self.forward_pass = CompilablePass(
                pooled, spec.model, self._samples(), self.dtype, self._limit
            )
        elif cuda_graphs and device.type == "cuda":
            self.forward_pass = CudaGraphPass(pooled, spec.model, self._limit)

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        """Tokenise texts, and of those that are too long only what is kept; take token ids.

        Raises:
            InvalidInputError: If a text is empty, or is too long and may not be truncated; or if
                no prompt fits the input type, or that prompt leaves no token for a text. Also if
                token ids are of another tokenizer, or there is a prompt, which they would lack.
        """
        may_truncate = self._spec.truncate if truncate is None else truncate
        prompt = self._select_prompt(input_type)
        texts = [
            self._cased(prompt.text + self._check(item, i, may_truncate))
            for i, item in enumerate(items)
        ]
        parts, token_ids = self._cutter.tokenize(texts, progress)
        own = {i: item.ids for i, item in enumerate(items) if isinstance(item, TokenIds)}
        for i, own_ids in own.items():
            token_ids[i] = self._check_ids(own_ids, i, prompt)
        shortened = {i for i, text in enumerate(items) if len(text) > self._max_characters} - set(
            own
        )
        too_long = [i for i, ids in enumerate(token_ids) if len(ids) > self._limit]
        if too_long and not may_truncate:
            i = too_long[0]
            count = "more" if len(parts[i]) < len(texts[i]) else len(token_ids[i])
            raise InvalidInputError(
                f"{self._expectation}, got {count}; set truncate to cut the text",
                pointer=f"/items/{i}",
                code=ErrorCode.TOO_MANY_TOKENS,
            )
        for i in too_long:
            token_ids[i] = (
                self._token_id_check.cut(own[i], self._limit)
                if i in own
                else self._tokenizer(
                    parts[i], truncation=True, max_length=self._limit, verbose=False
                )["input_ids"]
            )
            progress()
        inputs = split_rows(token_ids)
        if prompt.text and not self._pools_prompt:
            for ids in inputs:
                ids[: self._prompt_length(prompt.text)] += UNPOOLED
        return PreparedInputs(inputs, tuple(sorted(shortened.union(too_long))), prompt.name)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of token ids; padding does not affect them."""
        return self._run(self.forward_pass, inputs)

    def _run(self, forward_pass: ForwardPass, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings of token ids as one batch, or as one batch for each length."""
        if not self._is_unpadded:
            return forward_pass(*(to_device(part, self.device) for part in self._padded(inputs)))
        groups: dict[int, list[int]] = {}
        for i, ids in enumerate(inputs):
            groups.setdefault(len(ids), []).append(i)
        parts = []
        for indices in groups.values():
            padded = self._padded([inputs[i] for i in indices])
            parts.append(forward_pass(*(to_device(part, self.device) for part in padded)))
        order = torch.tensor([i for indices in groups.values() for i in indices])
        return torch.cat(parts)[order.argsort().to(self.device)]

    def tokenize(self, text: str) -> Any:
        """All that the model's own tokenizer gives for one text, as a batch of one."""
        return self._tokenizer(
            self._cased(self._prompt + text),
            return_tensors="pt",
            truncation=True,
            max_length=self._padded_length or self._limit,
            padding="max_length" if self._padded_length else False,
            verbose=False,
        )

    @torch.no_grad()
    def _check_parity(
        self, pooled: TextModel, modes: Sequence[PoolingMode], prompt_length: int
    ) -> None:
        """Compare rows with those of the library's model and tokenizer, a text at a time."""
        inputs = self.prepare(SAMPLE_TEXTS, truncate=True).inputs
        rows = self._run(pooled, inputs)
        fields = [self.tokenize(text) for text in SAMPLE_TEXTS]
        if "projection" in modes:
            expected = torch.cat([pooled.projections(**text) for text in fields])
        else:
            states = [pooled.hidden_states(**text)[0].float() for text in fields]
            expected = reference_rows(states, modes, prompt_length)
        check_rows(self._spec.model, "transformers", rows, pooled.embeddings(expected))

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text's tokens, special tokens included, however many they are."""
        if not self._tokenizer.is_fast:
            token_ids: list[list[int]] = self._tokenizer(
                texts, add_special_tokens=True, return_attention_mask=False, verbose=False
            )["input_ids"]
            return token_ids
        # What else the library's tokenizer collects of each text takes half as long as its ids.
        backend: Tokenizer = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]

    def _cased(self, text: str) -> str:
        """The text in lower case, where the tokenizer itself cannot convert it."""
        return text.lower() if self._lower_case else text

    def _select_prompt(self, input_type: str | None) -> Prompt:
        """The prompt of an input type; without one, that of the spec."""
        if input_type is None:
            return Prompt(None, self._prompt)
        prompt = select_prompt(self._spec.model, self._spec.prompts or {}, input_type)
        length = self._prompt_length(prompt.text)
        if length + 1 >= self._limit:
            raise InvalidInputError(
                f"the prompt {prompt.name!r} of {self._spec.model} has {length} tokens: no token "
                f"of a text would remain of {self._limit}, the maximum length",
                pointer="/input_type",
            )
        return prompt

    def _prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt, special tokens before it included."""
        if prompt not in self._prompt_tokens:
            self._prompt_tokens[prompt] = prompt_tokens(self._tokenizer, self._cased(prompt))
        return self._prompt_tokens[prompt]

    def _padded(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded ids and mask, each (n, t) int64; the mask is that of `pool`.

        Ids are padded on the right, where no model with a mask attends to them; or, for models
        that pool the last position whatever it is, to the full length on the tokenizer's side.
        """
        pad = self._tokenizer.pad_token_id or 0
        side = self._tokenizer.padding_side if self._padded_length else "right"
        ids = pad_sequence(list(inputs), batch_first=True, padding_value=pad, padding_side=side)
        missing = self._padded_length - ids.shape[1]
        if missing > 0:
            ids = pad_to(ids, (missing, 0) if side == "left" else (0, missing), value=pad)
        lengths = torch.tensor([row.shape[0] for row in inputs])[:, None]
        positions = torch.arange(ids.shape[1])
        if side == "left":
            positions = positions.flip(0)
        mask = (positions < lengths).long()
        if self._pools_prompt:
            return ids, mask
        unpooled = (ids >= UNPOOLED).long()
        return ids - UNPOOLED * unpooled, mask + unpooled

    def _samples(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of several sizes, up to the longest allowed text."""
        longest = self.prepare([SAMPLE_TEXT * self._limit], truncate=True).inputs[0]
        half = longest[: max(1, self._limit // 2)]
        return [
            self._padded(batch)
            for batch in (
                [half[:9], half[:4]],
                [half[:3]],
                [half[:2], half[:17], half[:5]],
                [longest],
            )
        ]

    def _check_ids(self, ids: list[int], i: int, prompt: Prompt) -> list[int]:
        pointer = f"/items/{i}"
        if prompt.text:
            raise InvalidInputError(
                f"expected a text, got token ids: a prompt comes before each text of "
                f"{self._spec.model}",
                pointer=pointer,
                code=ErrorCode.TOKEN_IDS,
            )
        self._token_id_check.check(ids, pointer)
        return ids

    def _check(self, item: Item, i: int, may_truncate: bool) -> str:
        """The text of an item, truncated if its characters alone show that it is too long.

        Empty for token ids, which take its place.
        """
        if isinstance(item, TokenIds):
            return ""
        pointer = f"/items/{i}"
        if not isinstance(item, str) or not item.strip():
            raise InvalidInputError("expected a text that is not empty", pointer=pointer)
        if len(item) <= self._max_characters:
            return item
        if may_truncate:
            return item[: self._max_characters]
        raise InvalidInputError(
            f"{self._expectation}, got a text of {len(item)} characters; set truncate to cut it",
            pointer=pointer,
            code=ErrorCode.TOO_MANY_TOKENS,
        )
