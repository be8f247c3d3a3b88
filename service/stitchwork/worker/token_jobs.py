"""Jobs about tokens, which need an encoder's tokenizer and not its model."""

import time
from collections.abc import Callable, Sequence

import orjson

from stitchwork.errors import InvalidInputError, StitchworkError
from stitchwork.models.encoder import Encoder
from stitchwork.models.static_encoder import StaticEncoder
from stitchwork.models.transformers_encoder import TransformersEncoder
from stitchwork.queue.answers import Answer
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.messages import Reply


def answer_tokens(
    encoder: Encoder,
    deliveries: Sequence[Delivery],
    answer: Callable[[Answer], None],
    progress: Callable[[], None],
) -> list[Delivery]:
    """Answer the jobs about tokens.

    Args:
        encoder: The encoder of all jobs.
        deliveries: The jobs.
        answer: Answers a job.
        progress: Called after each of them.

    Returns:
        The other jobs.
    """
    others = []
    for delivery in deliveries:
        if delivery.job.task == "embed":
            others.append(delivery)
            continue
        start = time.perf_counter()
        try:
            reply = tokens_reply(encoder, delivery)
        except StitchworkError as error:
            reply = Reply(delivery.job.id, error=error)
        answer((delivery, reply, time.perf_counter() - start))
        progress()
    return others


def tokens_reply(encoder: Encoder, delivery: Delivery) -> Reply:
    """The tokens of a job's texts, or the texts of its token ids.

    Raises:
        InvalidInputError: If the encoder takes no texts, or an input is refused.
    """
    job = delivery.job
    if not isinstance(encoder, TransformersEncoder | StaticEncoder):
        raise InvalidInputError("expected an encoder of texts, which has tokens")
    tokenization = encoder.tokenization
    content: list[str] | list[list[dict[str, object]]]
    if job.task == "decode":
        content = tokenization.texts(delivery.items, special_tokens=job.special_tokens)
    else:
        content = tokenization.tokens(
            delivery.items, input_type=job.input_type, special_tokens=job.special_tokens
        )
    return Reply(job.id, content=orjson.dumps(content))
