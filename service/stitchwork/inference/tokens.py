"""Tokens of texts and texts of tokens, by the tokenizers that workers have."""

from collections.abc import Sequence
from typing import Final

from stitchwork.errors import JobFailedError
from stitchwork.inference.resolve import encoder_of
from stitchwork.queue.costs import split_items
from stitchwork.queue.messages import Job, Task
from stitchwork.queue.producer import Producer
from stitchwork.resources import Input, Space

MAX_JOB_BYTES: Final = 1 << 17
"""Bytes of texts in a job of several: its reply may have sixty times as many."""


async def run_tokenizer(
    producer: Producer,
    space: Space,
    items: Sequence[Input],
    *,
    task: Task,
    special_tokens: bool,
    input_type: str | None = None,
    items_per_job: int,
    seconds: float,
) -> bytes:
    """Have workers tokenise texts, or decode token ids.

    Args:
        producer: Sends jobs to workers.
        space: It has an encoder.
        items: Texts, or token ids.
        task: `tokenize` or `decode`.
        special_tokens: Whether special tokens are added, or are a part of texts.
        input_type: Selects a prompt of the model; None takes the encoder's own.
        items_per_job: Larger requests are split into jobs of this size.
        seconds: Deadline of the result, in seconds from now.

    Returns:
        JSON: a list with an entry for each item, in their order.

    Raises:
        InvalidInputError: If the space has no encoder, or a worker refuses an input.
        StitchworkError: What `Producer.run_all` raises.
    """
    job = Job(
        id="",
        encoder=encoder_of(space),
        task=task,
        special_tokens=special_tokens,
        input_type=input_type,
    )
    parts = [part for part, _ in split_items(items, len, items_per_job, MAX_JOB_BYTES)]
    replies = await producer.run_all(job, parts, seconds)
    contents = []
    for reply in replies:
        if reply.content is None:
            raise JobFailedError("the worker answered with embeddings instead of tokens")
        contents.append(reply.content[1:-1])
    return b"[" + b",".join(contents) + b"]"
