"""A worker without a model, which measures the round trip of the queue alone.

`python -m benchmarks.echo_worker QUEUE_URL` replies to each job with one row for each input, until
it is killed.
"""

import sys

import numpy as np

from stitchwork.queue.answers import Answer
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.heartbeats import Heartbeat
from stitchwork.queue.messages import Reply
from stitchwork.queue.shards import QueueShard
from stitchwork.queue.streams import new_id
from stitchwork.queue.worker_registry import WorkerStatus

WIDTH = 384


def main(queue_url: str) -> None:
    """Reply to jobs until killed."""
    server, name = QueueShard(queue_url, 30.0), new_id()
    consumer = Consumer((server,), name, items_per_batch=32)
    consumer.start()
    Heartbeat((server,), 10.0, lambda: WorkerStatus(worker=name)).start()
    while True:
        answers: list[Answer] = []
        for delivery in consumer.take():
            count = len(delivery.items)
            rows, marks = np.zeros((count, WIDTH), np.float32), np.ones(count, bool)
            answers.append((delivery, Reply(delivery.job.id, rows, marks, marks, rows[:, 0]), 0.0))
        if answers:
            consumer.answer_all(answers)


if __name__ == "__main__":
    main(sys.argv[1])
