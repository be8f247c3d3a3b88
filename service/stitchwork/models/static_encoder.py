"""Static text embeddings: the mean of one row for each token, without a transformer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.models.encoder import MAX_TOKENS, PreparedInputs, parameter_bytes
from stitchwork.models.matryoshka import cut_and_normalize, output_width
from stitchwork.models.memory import to_device
from stitchwork.models.parity import SAMPLE_TEXTS, check_rows
from stitchwork.models.pooling import build_modules, load_tensors
from stitchwork.models.sentence_transformers_files import refusal
from stitchwork.models.text_cutting import TextCutter
from stitchwork.models.text_settings import lower_case_first, resolve_spec
from stitchwork.models.token_ids import unverifiable_tokens
from stitchwork.models.tokenization import Tokenization
from stitchwork.resources import Item, Modality, TextEncoder, TokenIds
from stitchwork.resources.prompts import Prompt, select_prompt

MAX_CHARACTERS_PER_TOKEN: Final = 200
"""Texts with more characters than this for each allowed token are refused before tokenising."""


class StaticEncoder:
    """A `StaticEmbedding` of sentence-transformers, and the modules after it.

    Args:
        spec: The encoder.
        device: The device it runs on.
        folder: The folder of its files.
        max_tokens: Maximum tokens of a text, unless the spec has its own.
        prove: Whether its embeddings are compared with plain means, and refused if they differ.
    """

    modality: Modality = "text"

    def __init__(
        self,
        spec: TextEncoder,
        device: torch.device,
        folder: Path,
        max_tokens: int = MAX_TOKENS,
        prove: bool = True,
    ) -> None:
        self._spec, files = resolve_spec(spec, folder)
        self.device = device
        self.dtype = torch.float32
        if spec.dtype != "float32":
            raise refusal(
                spec.model,
                "its rows are looked up and not computed: expected dtype float32 or auto, got "
                f"{spec.dtype}",
            )
        file = files.model_folder / "tokenizer.json"
        if not file.is_file():
            raise refusal(spec.model, "it has no tokenizer: expected a file tokenizer.json")
        self._tokenizer = Tokenizer.from_file(str(file))
        if self._spec.lower_case:
            # The places of its tokens are those of the text as it was sent.
            lower_case_first(self._tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.tokenization = Tokenization(
            spec.model,
            self._tokenizer,
            str,
            self._select_prompt,
            adds_special_tokens=False,
        )
        rows = self._rows(files.model_folder)
        self._limit = min(spec.max_length or max_tokens, max_tokens)
        self._cutter = TextCutter(self._token_ids, self._limit)
        modules, width = build_modules(spec.model, files.modules, rows.shape[1])
        self.dim = output_width(self._spec, width)
        self._embedding = torch.nn.EmbeddingBag.from_pretrained(rows, mode="mean").to(device)
        self._modules = modules.to(device)
        self.nbytes = parameter_bytes(self._embedding) + parameter_bytes(modules)
        if prove:
            self._check_parity()

    def prepare(
        self,
        items: Sequence[Item],
        *,
        truncate: bool | None = None,
        input_type: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> PreparedInputs:
        """Tokenise texts, and of those that are too long only what is kept.

        Raises:
            InvalidInputError: If a text is empty or has no known token, or is too long and may
                not be truncated; or if no prompt fits the input type.
        """
        may_truncate = self._spec.truncate if truncate is None else truncate
        prompt = self._select_prompt(input_type)
        texts = [self._check(item, i, prompt.text) for i, item in enumerate(items)]
        parts, token_ids = self._cutter.tokenize(texts, progress)
        inputs, truncated = [], []
        for i, ids in enumerate(token_ids):
            pointer = f"/items/{i}"
            if not ids:
                raise InvalidInputError("expected a text with a known token", pointer=pointer)
            if len(ids) > self._limit:
                if not may_truncate:
                    count = "more" if len(parts[i]) < len(texts[i]) else len(ids)
                    raise InvalidInputError(
                        f"expected at most {self._limit} tokens for {self._spec.model}, got "
                        f"{count}; set truncate to cut the text",
                        pointer=pointer,
                        code=ErrorCode.TOO_MANY_TOKENS,
                    )
                truncated.append(i)
            inputs.append(torch.tensor(ids[: self._limit]))
        return PreparedInputs(inputs, tuple(truncated), prompt.name)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embeddings (n, dim) float32 of token ids."""
        starts = torch.tensor([0, *(len(ids) for ids in inputs[:-1])]).cumsum(0)
        ids, starts = (to_device(part, self.device) for part in (torch.cat(list(inputs)), starts))
        rows: torch.Tensor = self._modules(self._embedding(ids, starts).float())
        return cut_and_normalize(self._spec, rows)

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @torch.no_grad()
    def _check_parity(self) -> None:
        """Compare a batch with the means of single texts."""
        inputs = self.prepare(SAMPLE_TEXTS, truncate=True).inputs
        means = [self._embedding.weight[ids.to(self.device)].mean(dim=0) for ids in inputs]
        expected = cut_and_normalize(self._spec, self._modules(torch.stack(means)))
        check_rows(self._spec.model, "sentence-transformers", self.forward(inputs), expected)

    def _check(self, item: Item, i: int, prompt: str) -> str:
        if isinstance(item, TokenIds):
            raise unverifiable_tokens(self._spec.model, f"/items/{i}")
        if not isinstance(item, str) or not item.strip():
            raise InvalidInputError("expected a text that is not empty", pointer=f"/items/{i}")
        if len(item) > self._limit * MAX_CHARACTERS_PER_TOKEN:
            raise InvalidInputError(
                f"expected at most {self._limit} tokens for {self._spec.model}, got a text of "
                f"{len(item)} characters",
                pointer=f"/items/{i}",
                code=ErrorCode.TOO_MANY_TOKENS,
            )
        return prompt + item

    def _select_prompt(self, input_type: str | None) -> Prompt:
        """The prompt of an input type; without one, that of the spec."""
        if input_type is None:
            return Prompt(None, self._spec.prompt or "")
        return select_prompt(self._spec.model, self._spec.prompts or {}, input_type)

    def _rows(self, folder: Path) -> torch.Tensor:
        """The row of each token id, (vocabulary, d) float32."""
        tensors = load_tensors(self._spec.model, folder)
        # The second form is that of model2vec: rows, which of them each token has, and a weight for
        # each token.
        main = "embedding.weight" if "embedding.weight" in tensors else "embeddings"
        known = {main} if main == "embedding.weight" else {main, "mapping", "weights"}
        if main not in tensors or not tensors.keys() <= known:
            listed = ", ".join(sorted(tensors)) or "none"
            raise refusal(
                self._spec.model,
                "expected the weights embedding.weight, or embeddings with mapping and weights, "
                f"got {listed}",
            )
        rows: torch.Tensor = tensors[main]
        if main == "embedding.weight":
            return rows.float()
        if (mapping := tensors.get("mapping")) is not None:
            rows = rows[mapping.long()]
        rows = rows.float()
        if (weights := tensors.get("weights")) is not None:
            rows = rows * weights.float()[:, None]
        return rows.contiguous()
