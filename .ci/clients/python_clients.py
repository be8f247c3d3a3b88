"""Calls a running service by the Python clients of other services, as their users do.

Runs in an environment of its own: `python python_clients.py URL [CLIENT...]`. Compares each result
with what the service's own route answers, and exits with 1 if a call fails or differs.
"""

import asyncio
import json
import math
import sys
import traceback
import urllib.request

TEXTS = [f"question {i}: where is my card?" for i in range(130)]
QUERY = "the card was stolen"
DOCUMENTS = ["opening hours", "a stolen card", "the weather"]


def post(url, path, body):
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def expected(url, texts, target=None):
    fields = {"target": target} if target else {}
    return post(url, "/embed/minilm", {"items": texts, **fields})["embeddings"]


def unit(rows):
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]


def check(actual, wanted):
    actual, wanted = [list(row) for row in actual], list(wanted)
    assert len(actual) == len(wanted), (len(actual), len(wanted))
    for a, b in zip(actual, wanted, strict=True):
        assert len(a) == len(b), (len(a), len(b))
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-4


def check_ranking(results):
    results = list(results)
    assert results[0][0] == 1, results
    assert [score for _, score in results] == sorted((s for _, s in results), reverse=True)


def openai(url):
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key="unused")
    response = client.embeddings.create(model="minilm->other", input=TEXTS, user="u")
    check([row.embedding for row in response.data], expected(url, TEXTS, "other"))
    assert {"minilm", "minilm->other"} <= {model.id for model in client.models.list()}
    code = None
    try:
        client.embeddings.create(model="nobody", input="a")
    except openai.NotFoundError as error:
        code = error.code
    assert code == "model_not_found"


def langchain_openai(url):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="minilm->other",
        base_url=url + "/v1",
        api_key="unused",
        check_embedding_ctx_length=False,
    )
    check(embeddings.embed_documents(TEXTS), expected(url, TEXTS, "other"))
    check([embeddings.embed_query(QUERY)], expected(url, [QUERY], "other"))
    check([asyncio.run(embeddings.aembed_query(QUERY))], expected(url, [QUERY], "other"))


def llama_index(url):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    client = OpenAILikeEmbedding(model_name="minilm", api_base=url + "/v1", api_key="unused")
    check(client.get_text_embedding_batch(TEXTS), expected(url, TEXTS))
    check([client.get_query_embedding(QUERY)], expected(url, [QUERY]))
    client = TextEmbeddingsInference(base_url=url + "/tei/minilm", model_name="minilm")
    check(client.get_text_embedding_batch(TEXTS[:20]), unit(expected(url, TEXTS[:20])))


def haystack(url):
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    options = {"model": "minilm", "api_base_url": url + "/v1", "api_key": Secret.from_token("x")}
    embedder = OpenAIDocumentEmbedder(**options, progress_bar=False)
    documents = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    check([document.embedding for document in documents], expected(url, TEXTS))
    check([OpenAITextEmbedder(**options).run(QUERY)["embedding"]], expected(url, [QUERY]))


def litellm(url):
    import litellm

    for model in ("openai/minilm", "hosted_vllm/minilm", "infinity/minilm"):
        response = litellm.embedding(
            model=model, api_base=url + "/v1", api_key="x", input=TEXTS[:9]
        )
        check([row["embedding"] for row in response.data], expected(url, TEXTS[:9]))
    for model, base in (
        ("cohere", "/v1/rerank"),
        ("jina_ai", "/v1/rerank"),
        ("hosted_vllm", "/v1"),
    ):
        response = litellm.rerank(
            model=f"{model}/minilm",
            api_base=url + base,
            api_key="x",
            query=QUERY,
            documents=DOCUMENTS,
            top_n=2,
        )
        check_ranking((row["index"], row["relevance_score"]) for row in response.results)


def cohere(url):
    import cohere

    client = cohere.Client(api_key="x", base_url=url)
    response = client.rerank(model="minilm", query=QUERY, documents=DOCUMENTS, top_n=2)
    check_ranking((row.index, row.relevance_score) for row in response.results)


def huggingface_hub(url):
    from huggingface_hub import InferenceClient

    client = InferenceClient(url + "/tei/minilm->other")
    wanted = expected(url, TEXTS[:5], "other")
    check(client.feature_extraction(TEXTS[:5], normalize=False), wanted)
    check(client.feature_extraction(TEXTS[0]), unit(wanted[:1]))


CLIENTS = {
    "cohere": cohere,
    "haystack": haystack,
    "huggingface_hub": huggingface_hub,
    "langchain_openai": langchain_openai,
    "litellm": litellm,
    "llama_index": llama_index,
    "openai": openai,
}


def main(url, names):
    failed = []
    for name in names or CLIENTS:
        try:
            CLIENTS[name](url)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print("FAILED" if name in failed else "ok", name, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
